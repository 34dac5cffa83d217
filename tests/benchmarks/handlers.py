"""What the audit adds to a handler: an insert in the request, as before, and the call, as now."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.apart import Result, run_apart
from tests.benchmarks.call_jobs import audited
from tests.benchmarks.events import table_row
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.patterns import one_by_one, summed_up
from tests.benchmarks.rows import Row

_PACED_RATE: Final = 100.0
GROUP: Final = "handler"


def _run(bench: Bench) -> Sequence[Row]:
    rows: list[Row] = []
    for delay in bench.sizes.delays_millis:
        sides = {"before": partial(_before, bench, delay), "after": partial(_after, bench, delay)}
        results = bench.in_turns(1, sides)
        rows += [_row(delay, figure, results["after"][0], results["before"][0]) for figure in ("p50", "p99")]
    return rows


def _row(delay: int, figure: str, after: Result, before: Result) -> Row:
    what = f"audit in a handler, {figure}, {delay} ms to the database"
    ratio = after[figure] / before[figure]
    return Row(GROUP, what, after[figure], "µs", "an insert in the request", before[figure], (ratio,))


def _before(bench: Bench, delay: int) -> Result:
    calls = bench.sizes.handler_calls // (1 + delay // 100)
    access = {"url": bench.project.supabase["url"], "key": bench.project.supabase["key"]}
    with bench.project.slowed(delay / 1000):
        return run_apart(inserted_in_request, {**access, "calls": max(calls, 10)})


def _after(bench: Bench, delay: int) -> Result:
    seconds = bench.sizes.handler_calls / _PACED_RATE
    how = {"pattern": "paced", "how": {"rate": _PACED_RATE, "seconds": seconds}}
    with bench.project.slowed(delay / 1000):
        return run_apart(audited, {**how, "options": bench.project.supabase, "away": True})


def inserted_in_request(directory: Path, *, url: str, key: str, calls: int) -> Result:
    """Insert one row a call with the supabase client, in the caller's thread."""
    from supabase import create_client

    client = create_client(url, key)

    def insert() -> Any:
        return client.table("pms_audit_log").insert(table_row()).execute()

    insert()
    return summed_up(one_by_one(insert, calls))


HANDLERS: Final = Measurement("handlers", "what the audit adds to a handler", _run)
