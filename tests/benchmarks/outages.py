"""A long outage: what a million events with the sink away take of memory and disk, and how soon they are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.benchmarks.apart import Result, run_apart
from tests.benchmarks.delivery_jobs import outage, taken_over
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Row, alone, limited

_MOST_MIB: Final = 16


def _run(bench: Bench) -> Sequence[Row]:
    events = bench.sizes.away_events
    project = bench.project
    arguments = {"options": project.supabase}
    directory = bench.directory / "outage"
    directory.mkdir()
    project.empty_table()
    bench.tell(f"{events:,} events with the sink away")
    project.refuse()
    try:
        away = run_apart(outage, {**arguments, "events": events}, directory)
    finally:
        project.accept()
    bench.tell(f"{events:,} events with the sink back")
    back = run_apart(taken_over, {**arguments, "rows": events}, directory)
    assert project.count() == events
    return _rows(events, away, back)


def _rows(events: int, away: Result, back: Result) -> Sequence[Row]:
    many = f"{events:,} events with the sink away"
    note = "above the start, at the highest"
    memory = limited("outage", f"anonymous memory, {many}", [away["mib"]], "MiB", _MOST_MIB, note=note, noisy=False)
    return [
        memory,
        alone("outage", f"outbox and its log on disk, {many}", [away["outbox_mib"]], "MiB"),
        alone("outage", f"calls, {many}", [away["calls_per_second"]], "calls/s"),
        alone("outage", f"CPU an event, {many}", [away["cpu_microseconds"]], "µs"),
        alone("outage", f"draining {events:,} events in the next process", [back["rows_per_second"]], "rows/s"),
        alone("outage", f"draining {events:,} events takes", [events / back["rows_per_second"]], "s"),
    ]


OUTAGES: Final = Measurement("outages", "a million events with the sink away", _run)
