"""The end of a pipeline: called from several sides, in every state of the sink, and in time."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from otel_audit_exporter import AuditPipeline, audit_event, configure_audit, flush_audit, shutdown_audit
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.testing import FaultySink
from tests.stack import AuditTable, Stack, faults
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.rows import sqlite_rows
from tests.support.running import run_python

PROJECT = Path(__file__).parents[2]
AN_HOUR = 3_600_000


class Call:
    """A call on a thread of its own, which may not take long although it was given all the time in the world."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._answers: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(function()), daemon=True)
        self._thread.start()

    def answer(self) -> Any:
        self._thread.join(60)
        assert self._answers, "it does not return"
        return self._answers[0]


def configure(**options: Any) -> tuple[AuditPipeline, FaultySink]:
    pipeline = configure_audit("sqlite", path="t.db", schedule_delay_millis=10, **options)
    channel = pipeline.exporters[0].channel
    sink = FaultySink(channel.sink)
    channel.sink = sink
    return pipeline, sink


def test_a_second_shutdown_waits_for_the_first_one() -> None:
    pipeline, sink = configure()
    sink.hang()
    audit_event(**arguments())
    sink.wait_until_hanging()
    first = Call(lambda: pipeline.shutdown(AN_HOUR))
    wait_until(lambda: pipeline.closed, "the first one has begun")
    second = Call(lambda: pipeline.shutdown(AN_HOUR))
    assert not pipeline.shutdown(10)
    sink.release()
    assert first.answer()
    assert second.answer()
    assert pipeline.shutdown(0)
    assert len(sqlite_rows("t.db")) == 1


@pytest.mark.parametrize("no_limit", [None, math.inf])
@pytest.mark.parametrize(
    "wait_for_all",
    [
        lambda pipeline, no_limit: pipeline.force_flush(no_limit),
        lambda pipeline, no_limit: pipeline.exporters[0].force_flush(no_limit),
        lambda pipeline, no_limit: pipeline.shutdown(timeout_millis=no_limit),
        lambda _, no_limit: flush_audit(no_limit),
        lambda _, no_limit: shutdown_audit(timeout_millis=no_limit),
    ],
    ids=["force_flush", "an exporter's", "shutdown", "flush_audit", "shutdown_audit"],
)
def test_without_a_limit_it_waits_until_everything_is_stored(
    wait_for_all: Callable[[AuditPipeline, float | None], bool], no_limit: float | None
) -> None:
    pipeline, sink = configure()
    sink.hang()
    receipt = audit_event(**arguments())
    sink.wait_until_hanging()
    call = Call(lambda: wait_for_all(pipeline, no_limit))
    assert pipeline.stats().pending == 1
    sink.release()
    assert call.answer() is True
    assert receipt.state == "stored"


def test_in_sync_mode_a_call_after_shutdown_waits_for_nobody() -> None:
    pipeline, _ = configure(mode="sync", export_timeout_millis=AN_HOUR)
    assert audit_event(**arguments()).state == "stored"
    assert pipeline.shutdown()
    assert Call(lambda: audit_event(**arguments()).state).answer() == "pending"


def test_the_end_of_the_process_waits_for_no_server_pause(stack: Stack, audit_table: AuditTable) -> None:
    """The server asked for the pause with Retry-After."""
    pipeline = configure_audit(
        "supabase",
        url=stack.url,
        key=stack.service_key,
        table=audit_table.name,
        schedule_delay_millis=10,
        shutdown_timeout_millis=AN_HOUR,
    )
    asking = stack.gateway.inject(faults.too_many_requests("300"))
    audit_event(**arguments())
    wait_until(lambda: not pipeline.exporters[0].channel.sender.backoff.is_open, "the pause is known")
    Call(pipeline.end_with_process).answer()
    assert (asking.hits, audit_table.count()) == (1, 0)


def test_a_sink_that_is_back_gets_everything_at_process_end() -> None:
    pipeline, sink = configure(shutdown_timeout_millis=AN_HOUR)
    sink.fail_next(Verdict(Fault.TRANSIENT), times=None)
    for _ in range(5000):
        audit_event(**arguments())
    wait_until(lambda: not pipeline.exporters[0].channel.sender.backoff.is_open, "the sink is known to be away")
    sink.heal()
    wait_until(lambda: pipeline.exporters[0].channel.sender.delivering == 0, "no attempt is left from before")
    Call(pipeline.end_with_process).answer()
    assert len(sqlite_rows("t.db")) == 5000


def test_a_file_that_cannot_be_removed_fails_no_shutdown(outbox_dir: str) -> None:
    pipeline, _ = configure()
    (log,) = Path(outbox_dir).rglob("*.log")
    (log / "a-folder" / "in-the-way").mkdir(parents=True)
    audit_event(**arguments()).result(30)
    assert pipeline.shutdown()
    again, _ = configure()
    assert again.stats().recovered == 0


def test_a_dead_letter_retried_after_shutdown_leaves_no_connection() -> None:
    pipeline, sink = configure()
    sink.refuse_rows(lambda row: row["action"] == "bad")
    audit_event(**arguments(action="bad"))
    audit_event(**arguments())
    assert pipeline.force_flush(60_000)
    assert pipeline.shutdown()
    sink.heal()
    close, closed = sink.close, threading.Event()

    def close_and_tell() -> None:
        close()
        closed.set()

    sink.close = close_and_tell  # type: ignore[method-assign]
    assert pipeline.dead_letters().retry() == 1
    assert closed.is_set()
    stats = pipeline.stats()
    assert (stats.succeeded, stats.failed, stats.pending) == (2, 0, 0)
    assert len(sqlite_rows("t.db")) == 2


def test_no_thread_is_left_of_a_pipeline_that_was_shut_down() -> None:
    before = sending_threads()
    pipeline, sink = configure()
    sink.fail_next(Verdict(Fault.TRANSIENT), times=None)
    for _ in range(5000):  # enough for a second sending thread
        audit_event(**arguments())
    sink.heal()
    assert pipeline.force_flush(60_000)
    assert pipeline.shutdown()
    wait_until(lambda: sending_threads() <= before, "every thread has ended")


def sending_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("otel-audit-relay")}


def test_an_event_of_a_child_that_cannot_start_threads_is_kept() -> None:
    program = """
import os, threading, otel_audit_exporter as a
from tests.support.events import arguments

def start(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")

pipeline = a.configure_audit("sqlite", path="t.db", schedule_delay_millis=60_000, shutdown_timeout_millis=500)
if os.fork() == 0:
    threading.Thread.start = start
    state = a.audit_event(**arguments()).state
    pipeline.end_with_process()
    os._exit(0 if state == "pending" else 1)
channel = pipeline.exporters[0].channel
print(os.waitstatus_to_exitcode(os.wait()[1]), channel.adopt_orphans(), pipeline.force_flush(60_000))
"""
    assert run_python(program, PYTHONPATH=os.fspath(PROJECT)) == "0 1 True\n"
    assert len(sqlite_rows("t.db")) == 1


# A forked child, whose first event starts the thread that delivers: the signal comes before or after it is started.
_TERMINATED_IN_A_START = """
import os, signal, sys, threading, time
from otel_audit_exporter import audit_event, configure_audit, shutdown_audit

configure_audit("sqlite", path="t.db")
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))

def handler(signum, frame):
    begin = time.monotonic()
    shutdown_audit(1000)
    print("took no longer" if time.monotonic() - begin < 20 else "took too long", flush=True)
    os._exit(0)

def start(thread):
    interrupts = thread.name.startswith("otel-audit-relay")
    if interrupts and "{moment}" == "before":
        signal.raise_signal(signal.SIGTERM)
    started(thread)
    if interrupts:
        signal.raise_signal(signal.SIGTERM)

started, threading.Thread.start = threading.Thread.start, start
signal.signal(signal.SIGTERM, handler)
signal.alarm(40)
audit_event("x", entity_type="t", entity_id="{entity}", yacht_id="{entity}", user_id="{entity}")
time.sleep(30)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_handler_during_a_threads_start_shuts_down_in_time(moment: str) -> None:
    program = _TERMINATED_IN_A_START.replace("{moment}", moment).replace("{entity}", str(uuid4()))
    assert run_python(program).split("\n")[0] == "took no longer"
