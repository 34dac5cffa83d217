"""Beside a million pending events: how soon a receipt comes, and how soon a new process knows them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from tests.benchmarks.apart import Result, column, run_apart
from tests.benchmarks.backlog_jobs import answered, left_full, opened
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Budget, Row, compared, limited

_MOST_SECONDS: Final = 1.0
_MOST_MIB: Final = 64.0
_NOBODY: Final = {"exporter": "supabase", "url": "http://127.0.0.1:9", "key": "nobody-answers"}


def _run(bench: Bench) -> Sequence[Row]:
    return [*_receipts(bench), *_openings(bench)]


def _receipts(bench: Bench) -> Sequence[Row]:
    events = bench.sizes.away_events
    sides = {"full": partial(_answered, bench, events), "empty": partial(_answered, bench, 0)}
    results = bench.in_turns(bench.sizes.rounds, sides)
    full, empty = (column(results[name], "milliseconds") for name in sides)
    note = f"at the last of them {min(column(results['full'], 'left')):,.0f} were still pending"
    what = f"`result()` with {events:,} events pending"
    return [compared("backlog", what, full, "without", empty, "ms", budget=Budget(3.0), note=note)]


def _answered(bench: Bench, pending: int) -> Result:
    bench.project.empty_table()
    arguments = {"options": bench.project.supabase, "pending": pending, "answers": bench.sizes.answers}
    return run_apart(answered, arguments)


def _openings(bench: Bench) -> Sequence[Row]:
    events = bench.sizes.away_events
    arguments = {"options": _NOBODY, "pending": events}
    directory = bench.directory / "opened"
    directory.mkdir()
    bench.tell(f"leaving {events:,} events")
    run_apart(left_full, arguments, directory)
    opening = {"opening": lambda: run_apart(opened, arguments, directory)}
    results = bench.in_turns(bench.sizes.rounds, opening)["opening"]
    what = f"opening an outbox with {events:,} pending"
    return [
        limited("backlog", f"{what}, time", column(results, "seconds"), "s", _MOST_SECONDS),
        limited("backlog", f"{what}, anonymous memory", column(results, "mib"), "MiB", _MOST_MIB),
    ]


BACKLOGS: Final = Measurement("backlogs", "receipts and openings with a million events pending", _run)
