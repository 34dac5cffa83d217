"""A process that emits as fast as it can and writes down what it saw, until it is killed or told to end.

It runs in a process of its own (`python -m tests.faults.nursery` forks it), never in pytest's.
"""

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Self

import uuid_utils

import otel_audit_exporter as audit

# The package imports a name's module when the name is first used: here, and not in a signal handler.
from otel_audit_exporter import audit_event, configure_audit, flush_audit, get_audit_stats  # noqa: F401
from tests.faults import events, failpoints, power
from tests.faults.ledger import Ledger

_REMOVING_SECONDS = 5.0


@dataclass(frozen=True)
class Job:
    """What a worker is to do; plain values, so that it can be handed to another process as JSON."""

    options: dict[str, Any]
    """The arguments of `configure_audit`."""
    ledgers: str
    events: int = 300
    threads: int = 2
    bad_every: int = 0
    """Every how many events one has the action that the table refuses; 0: none."""
    failpoint: str | None = None
    visits: int = 1
    breaks: list[str] = field(default_factory=list)
    seed: int = 0
    companions: int = 0
    """How many processes drain beside this one, each with a log of its own."""
    synced_copy: str | None = None
    """Where a power cut's view of the outbox directory is to be kept."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        return cls(**json.loads(text))


def emit_one(ledger: Ledger, record_id: str, *, bad: bool = False) -> None:
    """Emit one event, with what is attempted and accepted written down around it."""
    ledger.attempted(record_id, bad=bad)
    audit.audit_event(**events.arguments(record_id, bad=bad))
    ledger.accepted(record_id)


def new_id() -> str:
    return str(uuid_utils.uuid7())


def emit_many(ledger: Ledger, job: Job) -> None:
    """Emit the job's events from its threads, and return when all are through."""
    threads = [
        threading.Thread(target=_emit_share, args=(ledger, job, share), daemon=True) for share in range(job.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _emit_share(ledger: Ledger, job: Job, share: int) -> None:
    jitter = Random(job.seed * 31 + share)
    for number in range(share, job.events, job.threads):
        bad = bool(job.bad_every) and number % job.bad_every == job.bad_every - 1
        emit_one(ledger, new_id(), bad=bad)
        if jitter.random() < 0.05:
            time.sleep(0.002)


def run(job: Job) -> None:
    """Do the job, then flush again and again until somebody ends the process."""
    failpoints.apply(job.failpoint, job.visits, job.breaks, reports=Path(job.ledgers))
    if job.synced_copy is not None:
        power.install(Path(job.options["outbox_dir"]), Path(job.synced_copy))
    audit.configure_audit(**job.options)
    emit_many(Ledger(Path(job.ledgers)), job)
    while True:
        audit.flush_audit(1000)
        audit.get_audit_pipeline().exporters[0].channel.adopt_orphans()


def drain(job: Job, seconds: float) -> Mapping[str, Any]:
    """Be the last process: take over what is left, deliver it, and give the counters."""
    failpoints.apply(job.failpoint, job.visits, job.breaks, reports=Path(job.ledgers))
    pipeline = audit.configure_audit(**job.options)
    deadline = time.monotonic() + seconds
    while not (drained := pipeline.force_flush(1000) and _is_alone(pipeline, job.companions)):
        if time.monotonic() >= deadline:
            break
        # A row that is refused waits for the proof that others pass.
        emit_one(Ledger(Path(job.ledgers)), new_id())
    stats = pipeline.stats()
    counters = {name: getattr(stats, name) for name in ("submitted", "recovered", "succeeded", "failed", "pending")}
    letters = [letter.record_id for letter in pipeline.dead_letters()]
    shut_down = pipeline.shutdown()
    left = _left_in(Path(job.options["outbox_dir"]))
    return {"drained": drained, "shut_down": shut_down, "counters": counters, "letters": letters, "left": left}


def _is_alone(pipeline: audit.AuditPipeline, companions: int) -> bool:
    """Tell whether no log is left that can be taken over from a process that is gone; it takes a few at a time."""
    channel = pipeline.exporters[0].channel
    channel.adopt_orphans()
    channel.drop_emptied()
    directory = channel.logs.directory
    return directory is None or len(set(directory.logs()) - directory.left_alone) <= 1 + companions


def _left_in(outbox_dir: Path) -> list[str]:
    """Return the files that stay; the housekeeper may be removing a log that it has found empty."""
    known = {"destination.json", "dead-letters.db", "losses"}
    until = time.monotonic() + _REMOVING_SECONDS
    while True:
        # Not `rglob`, which raises where another process removes a folder in that moment.
        left = [os.path.join(folder, name) for folder, _, names in os.walk(outbox_dir) for name in set(names) - known]
        if not left or time.monotonic() >= until:
            return sorted(left)
        time.sleep(0.01)
