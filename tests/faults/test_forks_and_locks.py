"""Whichever lock of the library another thread holds while the process forks: the child can do everything."""

from __future__ import annotations

import ast
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, LogRecordExporter

import otel_audit_exporter as audit
from otel_audit_exporter import compat
from otel_audit_exporter.delivery.housekeeper import housekeeper
from otel_audit_exporter.event.context import current_scope
from otel_audit_exporter.observability import metrics
from otel_audit_exporter.pipeline import current
from otel_audit_exporter.runtime import fork_safety, process_exit
from otel_audit_exporter.sinks.memory import MemorySink
from otel_audit_exporter.testing import AuditLog, FaultySink
from tests.stack import AuditTable, Stack
from tests.support.events import arguments
from tests.support.otlp_receiver import Receiver
from tests.support.running import run_in_child

ROOT: Final = Path(audit.__file__).parent
SECONDS: Final = 40

# Each lock of the library: the pipeline it is looked at in, where it is, and whether a fork waits for it.
LOCKS: Final[dict[str, tuple[str, Callable[[audit.AuditPipeline], Any], bool]]] = {
    "compat._Built.lock": ("memory", lambda pipeline: compat._Built.lock, False),
    "delivery.channel.DeliveryChannel._ending": ("sqlite", lambda pipeline: channel_of(pipeline)._ending, False),
    "delivery.completion.Completions._progress": (
        "sqlite",
        lambda pipeline: channel_of(pipeline).completions._progress,
        False,
    ),
    "delivery.cursor.DeliveryCursor._lock": ("sqlite", lambda pipeline: channel_of(pipeline).cursor._lock, False),
    "delivery.housekeeper.Housekeeper._adding": ("sqlite", lambda pipeline: housekeeper._adding, False),
    "delivery.housekeeper.Housekeeper._starting": ("sqlite", lambda pipeline: housekeeper._starting, False),
    "delivery.log_set.LogSet._lock": ("sqlite", lambda pipeline: channel_of(pipeline).logs._lock, False),
    "delivery.refusals.Refusals._lock": ("sqlite", lambda pipeline: channel_of(pipeline).refusals._lock, False),
    "outbox.ended.EndedFile._lock": ("sqlite", lambda pipeline: own_log(pipeline)._ended.lock, False),
    "outbox.group_commit.GroupCommit._lock": (
        "fsync",
        lambda pipeline: channel_of(pipeline).logs.append.__self__._lock,
        False,
    ),
    "outbox.group_commit.GroupCommit._writing": (
        "fsync",
        lambda pipeline: channel_of(pipeline).logs.append.__self__._writing,
        False,
    ),
    "outbox.log.OutboxLog._ending": ("sqlite", lambda pipeline: own_log(pipeline)._ending, False),
    "outbox.space.Quota._own_lock": ("sqlite", lambda pipeline: channel_of(pipeline).logs.quota._lock, False),
    "pipeline.destinations.Destinations._lock": ("memory", lambda pipeline: pipeline.destinations._lock, False),
    "pipeline.pipeline.AuditPipeline._lock": ("memory", lambda pipeline: pipeline._lock, False),
    "delivery.relay.Relay._start_lock": ("sqlite", lambda pipeline: relay_of(pipeline)._start_lock, False),
    "event.context.ScopeTree.lock": ("memory", lambda pipeline: scope_lock(), False),
    "observability.delivery_log.DeliveryLog._lock": (
        "memory",
        lambda pipeline: channel_of(pipeline).delivery_log._lock,
        False,
    ),
    "observability.losses.LossLedger._lock": ("memory", lambda pipeline: pipeline.primary.losses._lock, False),
    "observability.losses.LossLedger._writing": ("memory", lambda pipeline: pipeline.primary.losses._writing, False),
    "observability.metrics._Registry.lock": ("memory", lambda pipeline: metrics._registry.lock, False),
    "observability.stats.DeliveryCounters.lock": ("memory", lambda pipeline: channel_of(pipeline).counters.lock, False),
    "outbox.dead_letter_store.MemoryDeadLetters._lock": (
        "memory",
        lambda pipeline: channel_of(pipeline).dead_letters._lock,
        False,
    ),
    "pipeline.current.Running.lock": ("memory", lambda pipeline: current.Running.lock, False),
    "pipeline.exporter.AuditExporter._lock": ("memory", lambda pipeline: pipeline.exporters[0]._lock, False),
    "runtime.fork_safety._Process.forking": ("memory", lambda pipeline: fork_safety._process.forking, True),
    "runtime.fork_safety._Process.lock": ("memory", lambda pipeline: fork_safety._process.lock, True),
    "runtime.fork_safety.quiet": ("sqlite", lambda pipeline: fork_safety.quiet, True),
    "runtime.process_exit._ending": ("memory", lambda pipeline: process_exit._ending, False),
    "sinks.console.ConsoleSink._lock": ("console", lambda pipeline: sink_of(pipeline)._lock, False),
    "sinks.dns.Resolver._lock": ("postgres", lambda pipeline: sink_of(pipeline)._resolver._lock, False),
    "sinks.forwarding.ForwardingSink._turn": ("forwarding", lambda pipeline: sink_of(pipeline)._turn, False),
    "sinks.memory.MemorySink._lock": ("memory", lambda pipeline: sink_of(pipeline)._lock, False),
    "sinks.otlp.OTLPSink._lock": ("otlp", lambda pipeline: sink_of(pipeline)._lock, False),
    "sinks.sqlite.SQLiteSink._lock": ("sqlite", lambda pipeline: sink_of(pipeline)._lock, True),
    "sinks.supabase.token.TokenProvider._lock": (
        "supabase",
        lambda pipeline: sink_of(pipeline)._rest._credentials._token._lock,
        False,
    ),
    "testing.faulty_sink.FaultySink._changed": ("faulty", lambda pipeline: sink_of(pipeline)._changed, False),
}
OTHERS: Final = {
    "delivery.housekeeper.Housekeeper._running": "its thread holds it all the time, and a child makes it anew",
    "delivery.connections.OpenConnections._lock": "a fork leaves it free (ForkSafeLock), as its own test shows",
    "delivery.pool_member.PoolMember._first": "it is made anew with the channel's threads in the child",
    "delivery.sender_pool.SenderPool._lock": "a fork leaves it free (ForkSafeLock)",
    "outbox.space.SharedQuota.lock": "a fork leaves it free (ForkSafeLock)",
    "pipeline.clients.ClientDatabases._lock": "a fork leaves it free (ForkSafeLock)",
    "pipeline.databases._AskedAside._lock": "a fork leaves it free (ForkSafeLock)",
    "pipeline.resolving_sink.ResolvingSink._lock": "a fork leaves it free (ForkSafeLock)",
    "runtime.threads.Event._cond": "it goes with what is waited for, which a child makes anew",
    "trail.streaming._Parts._lock": "it goes with a response that is being streamed, which a child does not have",
    "testing.audit_log.AuditLog._lock": "it has a test of its own",
    "runtime.fork_safety.ForkSafeLock._lock": "every lock of this class is in the list",
    "runtime.fork_safety._Turn.lock": "it is made in the child",
}
_at_fork: Final[list[Callable[[], object]]] = []
os.register_at_fork(before=lambda: [call() for call in _at_fork])  # registered late, it runs before the library's


def channel_of(pipeline: audit.AuditPipeline) -> Any:
    return pipeline.exporters[0].channel


def relay_of(pipeline: audit.AuditPipeline) -> Any:
    return pipeline.primary.relay


def own_log(pipeline: audit.AuditPipeline) -> Any:
    return channel_of(pipeline).logs.own


def sink_of(pipeline: audit.AuditPipeline) -> Any:
    return channel_of(pipeline).sink


def scope_lock() -> Any:
    scope = current_scope()
    assert scope is not None
    return scope._family.lock


@contextmanager
def held(lock: Any, *, fork_waits: bool) -> Iterator[None]:
    """Have a thread hold the lock: until a fork begins where that waits for it, else to the end of the block."""
    is_held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            let_go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    if fork_waits:
        _at_fork.append(let_go.set)
    try:
        yield
    finally:
        _at_fork.clear()
        let_go.set()
        thread.join()


def use_everything() -> None:
    """Do in a child what a process can do with the library."""
    audit.update_audit_context(request_id="of the child")
    with audit.audit_context(metadata={"in": "the child"}):
        audit.update_audit_context(source_ip="10.0.0.1")
        receipt = audit.audit_event(**arguments(idempotency_key=str(uuid4())))
        for _ in range(20):
            audit.audit_event(**arguments())
    assert audit.flush_audit(30_000)
    assert receipt.state == "stored"
    stats = audit.get_audit_stats()
    assert (stats.submitted, stats.pending, stats.failed) == (21, 0, 0)
    pipeline = audit.get_audit_pipeline()
    assert pipeline.health().parked == 0
    assert list(pipeline.dead_letters()) == []
    housekeeper.call()
    assert audit.shutdown_audit(30_000)
    current.Running.pipeline = None
    compat.write_audit_log_async(None, {})
    assert compat.get_audit_stats()["submitted"] == 1
    process_exit._end_all()


def sdk_exporter() -> LogRecordExporter:
    make: Callable[[], LogRecordExporter] = InMemoryLogRecordExporter
    return make()


@pytest.fixture
def start(
    stack: Stack, audit_table: AuditTable, tmp_path: Path, bare_environment: None
) -> Iterator[Callable[[str], audit.AuditPipeline]]:
    with Receiver() as receiver:
        pipelines: dict[str, Callable[[], dict[str, Any]]] = {
            "memory": lambda: {"exporter": "memory", "outbox": "memory"},
            "sqlite": lambda: {"exporter": "sqlite", "path": str(tmp_path / "audit.db")},
            "fsync": lambda: {"exporter": "sqlite", "path": str(tmp_path / "audit.db"), "outbox": "fsync"},
            "console": lambda: {"exporter": "console"},
            "faulty": lambda: {"exporter": FaultySink(MemorySink())},
            "forwarding": lambda: {"exporter": sdk_exporter()},
            "otlp": lambda: {"exporter": "otlp", "endpoint": receiver.endpoint},
            "postgres": lambda: {"exporter": "postgres", "dsn": stack.dsn(), "table": audit_table.name},
            "supabase": lambda: {
                "exporter": "supabase",
                "url": stack.url,
                "key": stack.anon_key,
                "token": lambda: stack.token("audit_writer"),
                "table": audit_table.name,
            },
        }

        def begin(name: str) -> audit.AuditPipeline:
            return audit.configure_audit(schedule_delay_millis=10, **pipelines[name]())

        yield begin


@pytest.mark.parametrize("name", LOCKS)
def test_a_child_works_whoever_held_this_lock_at_the_fork(
    start: Callable[[str], audit.AuditPipeline], name: str
) -> None:
    options, lock_of, fork_waits = LOCKS[name]
    pipeline = start(options)
    audit.audit_event(**arguments()).result(30)
    with audit.audit_context(request_id="of the parent"), held(lock_of(pipeline), fork_waits=fork_waits):
        assert run_in_child(use_everything, SECONDS)
    audit.audit_event(**arguments()).result(30)
    assert audit.shutdown_audit(30_000)


def test_a_child_of_a_test_can_read_its_audit_log() -> None:
    def record() -> None:
        audit.audit_event(**arguments(action="in_the_child"))
        audit_log.assert_recorded(action="in_the_child")

    with AuditLog() as audit_log, held(audit_log._lock, fork_waits=False):
        assert run_in_child(record, SECONDS)


def test_a_child_sees_no_dead_letters_of_its_parents_memory() -> None:
    sink = FaultySink(MemorySink())
    pipeline = audit.configure_audit(sink, outbox="memory", schedule_delay_millis=10)
    sink.refuse_rows(lambda row: row["action"] == "bad")
    receipts = [audit.audit_event(**arguments(action=action)) for action in ("good", "bad", "good")]
    assert audit.flush_audit(30_000)

    def look() -> None:
        assert list(pipeline.dead_letters()) == []
        assert pipeline.health().parked == 0

    assert run_in_child(look, SECONDS)
    assert [letter.record_id for letter in pipeline.dead_letters()] == [receipts[1].record_id]


def test_every_lock_of_the_library_is_in_the_list() -> None:
    found = {name for path in ROOT.rglob("*.py") for name in locks_in(path)}
    assert found == LOCKS.keys() | OTHERS.keys()


def test_the_hooks_of_forks_are_registered_in_one_place() -> None:
    places = [path for path in ROOT.rglob("*.py") if "register_at_fork(" in path.read_text(encoding="utf-8")]
    assert places == [Path(fork_safety.__file__)]


def locks_in(path: Path) -> Iterator[str]:
    """Give the name of each lock that a module makes: module, class if any, attribute."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)

    def walk(node: ast.AST, where: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Assign | ast.AnnAssign) and isinstance(child.value, ast.Call):
                kind = ast.unparse(child.value.func).rpartition(".")[2]
                target = child.targets[0] if isinstance(child, ast.Assign) else child.target
                if kind in ("Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "ForkSafeLock"):
                    yield f"{where}.{ast.unparse(target).removeprefix('self.')}"
            yield from walk(child, f"{where}.{child.name}" if isinstance(child, ast.ClassDef) else where)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), module)
