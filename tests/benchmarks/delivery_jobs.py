"""Jobs that deliver: a backlog with the sink back, and one thread's events from the call to the row."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from otel_audit_exporter import flush_audit, get_audit_stats
from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.outbox.reader import StripeReader
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from tests.benchmarks.apart import Result
from tests.benchmarks.events import call, pipeline_in, say

_LONG_MILLIS: Final = 600_000
_POLL_SECONDS: Final = 0.002
_EVENTS_A_LOOK: Final = 10_000


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
    channel = pipeline.exporters[0].channel
    _connect(pipeline)
    sink, channel.sink = channel.sink, AwaySink()
    _say_different_events(rows)
    if keep is not None:
        _keep_rows(channel, Path(keep))
    channel.sink = sink
    return _timed_flush(rows)


def drained_into_file(directory: Path, *, rows: int, keep: str) -> Result:
    """Do the same with a SQLite file of the job's own."""
    options = {"exporter": "sqlite", "path": str(directory / "table.db")}
    return drained(directory, options=options, rows=rows, keep=keep)


def left_behind(directory: Path, *, options: dict[str, Any], rows: int) -> Result:
    """Accept ``rows`` events while the sink is away, and end: the next process finds them."""
    pipeline = pipeline_in(directory, **options)
    pipeline.exporters[0].channel.sink = AwaySink()
    _say_different_events(rows)
    return {}


def taken_over(directory: Path, *, options: dict[str, Any], rows: int) -> Result:
    """Time from the set-up of a process that finds a backlog to the last row."""
    import supabase  # noqa: F401  # a process that serves has imported its clients before

    begun = time.perf_counter()
    pipeline_in(directory, **options)
    wait_until_found(rows)
    assert flush_audit(_LONG_MILLIS)
    return {"rows_per_second": rows / (time.perf_counter() - begun)}


def wait_until_found(rows: int) -> None:
    """Wait until as many events of a process that is gone were taken over."""
    while get_audit_stats().recovered < rows:
        time.sleep(_POLL_SECONDS)


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
    before, busy = anonymous_mib(), time.process_time()
    begun, most = time.perf_counter(), before
    for number in range(events):
        call()
        if number % _EVENTS_A_LOOK == 0:
            most = max(most, anonymous_mib())
    seconds = time.perf_counter() - begun
    return {
        "mib": max(most, anonymous_mib()) - before,
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
        say(
            old_values={"status": "ordered", "quantity": number},
            new_values={"status": "received", "quantity": number, "notes": "ok", "unit_price": 1.5},
        )


def _keep_rows(channel: DeliveryChannel, path: Path) -> None:
    parts = (part for stripe in channel.logs.stripes for part in StripeReader(stripe).read(10**9, 10**12).parts)
    bodies = (body for _, _, _, part in parts for body in part)
    path.write_bytes(b"\n".join(channel.row_of(body).replace(b"\n", b"") for body in bodies))


def anonymous_mib() -> float:
    """Return this process's memory that no file is behind; elsewhere than on Linux its highest use so far."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
