"""Jobs that deliver: a backlog with the sink back, and one thread's events from the call to the row."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from otel_audit_exporter import audit_event, flush_audit, get_audit_stats
from otel_audit_exporter.delivery.channel import Lane
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from tests.benchmarks.apart import Result
from tests.benchmarks.events import ENTITY, USER, YACHT, call, pipeline_in

_LONG_MILLIS: Final = 600_000


class AwaySink:
    """Stands in for a sink that nobody reaches."""

    name = "away"
    target = "nowhere"

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        raise SinkError(Verdict(Fault.TRANSIENT), "away")

    def close(self) -> None:
        """Nothing is open."""

    def renew_after_fork(self) -> None:
        """Nothing is inherited."""


def drained(directory: Path, *, options: dict[str, Any], rows: int, keep: str | None = None) -> Result:
    """Accept ``rows`` events while the sink is away, then time from its return to the last row.

    ``keep``: a file for these very rows, one to a line, for those that write them without this library.
    """
    pipeline = pipeline_in(directory, **options)
    lane = pipeline.exporters[0].lane
    _connect(pipeline)
    sink, lane.sink = lane.sink, AwaySink()
    _say_different_events(rows)
    if keep is not None:
        _keep_rows(lane, Path(keep))
    lane.sink = sink
    return _timed_flush(rows)


def drained_into_file(directory: Path, *, rows: int, keep: str) -> Result:
    """Do the same with a SQLite file of the job's own."""
    options = {"exporter": "sqlite", "path": str(directory / "table.db")}
    return drained(directory, options=options, rows=rows, keep=keep)


def left_behind(directory: Path, *, options: dict[str, Any], rows: int) -> Result:
    """Accept ``rows`` events while the sink is away, and end: the next process finds them."""
    pipeline = pipeline_in(directory, **options)
    pipeline.exporters[0].lane.sink = AwaySink()
    _say_different_events(rows)
    return {}


def taken_over(directory: Path, *, options: dict[str, Any], rows: int) -> Result:
    """Time from the set-up of a process that finds a backlog to the last row."""
    import supabase  # noqa: F401  # a process that serves has imported its clients before

    begun = time.perf_counter()
    pipeline_in(directory, **options)
    assert get_audit_stats().recovered == rows
    assert flush_audit(_LONG_MILLIS)
    return {"rows_per_second": rows / (time.perf_counter() - begun)}


def sustained(directory: Path, *, options: dict[str, Any], seconds: float) -> Result:
    """Emit from one thread without a pause for so long, and time from the first call to the last row."""
    _connect(pipeline_in(directory, **options))
    begun, busy = time.perf_counter(), time.process_time()
    events = 0
    while time.perf_counter() - begun < seconds:
        for _ in range(100):
            call()
        events += 100
    emitted = time.perf_counter() - begun
    assert flush_audit(_LONG_MILLIS)
    taken = time.perf_counter() - begun
    return {
        "rows_per_second": events / taken,
        "calls_per_second": events / emitted,
        "cpu_microseconds": 1e6 * (time.process_time() - busy) / events,
        "events": events,
    }


def outage(directory: Path, *, options: dict[str, Any], events: int) -> Result:
    """Accept ``events`` while connections are refused, and tell what of the machine they take."""
    pipeline_in(directory, **options)
    before, busy = _resident_mib(), time.process_time()
    begun = time.perf_counter()
    for _ in range(events):
        call()
    seconds = time.perf_counter() - begun
    return {
        "mib": max(_peak_mib(), _resident_mib()) - before,
        "outbox_mib": sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 2**20,
        "calls_per_second": events / seconds,
        "cpu_microseconds": 1e6 * (time.process_time() - busy) / events,
    }


def _timed_flush(rows: int) -> Result:
    begun, busy = time.perf_counter(), time.process_time()
    assert flush_audit(_LONG_MILLIS)
    seconds, busy = time.perf_counter() - begun, time.process_time() - busy
    return {"rows_per_second": rows / seconds, "cpu_microseconds": 1e6 * busy / rows}


def _connect(pipeline: AuditPipeline) -> None:
    """Deliver one event: clients are imported and connections are open, as in a process that serves."""
    call()
    assert pipeline.force_flush(_LONG_MILLIS)


def _say_different_events(count: int) -> None:
    for number in range(count):
        audit_event(
            "create",
            entity_type="receiving",
            entity_id=ENTITY,
            yacht_id=YACHT,
            user_id=USER,
            old_values={"status": "ordered", "quantity": number},
            new_values={"status": "received", "quantity": number, "notes": "ok", "unit_price": 1.5},
        )


def _keep_rows(lane: Lane, path: Path) -> None:
    entries = lane.own.read(0, None, 10**9, 10**12)
    path.write_bytes(b"\n".join(lane.row_of(body).replace(b"\n", b"") for _, body in entries))


def _resident_mib() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # no Linux
        return _peak_mib()
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _peak_mib() -> float:
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
