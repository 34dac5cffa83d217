"""One thread, from the call to the row, beside the thread pool that it replaces; with 0, 30 and 300 ms added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from tests.benchmarks.apart import Result, column, run_apart
from tests.benchmarks.delivery_jobs import sustained
from tests.benchmarks.limits import pooled
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Budget, Row, alone, compared

_BUDGETS: Final = {0: Budget(33, at_least=True)}
_FEWEST_POOL_ROWS: Final = 25
_POOL: Final = "pool of five, one insert a row"


def _run(bench: Bench) -> Sequence[Row]:
    rows: list[Row] = []
    for delay in bench.sizes.delays_millis:
        sides = {"ours": partial(_ours, bench, delay), "pool": partial(_pool, bench, delay)}
        results = bench.in_turns(bench.sizes.few if delay else bench.sizes.rounds, sides)
        rows.append(_row(delay, column(results["ours"], "rows_per_second"), column(results["pool"], "rows_per_second")))
        if not delay:
            busy = column(results["ours"], "cpu_microseconds")
            rows.append(alone("sustained", "CPU an event, from the call to the settled row", busy, "µs"))
    return rows


def _row(delay: int, ours: Sequence[float], pool: Sequence[float]) -> Row:
    what = "one thread, from event to row" + (f", {delay} ms added" if delay else "")
    return compared("sustained", what, ours, _POOL, pool, "rows/s", budget=_BUDGETS.get(delay))


def _ours(bench: Bench, delay: int) -> Result:
    arguments = {"options": bench.project.supabase, "seconds": bench.sizes.sustained_seconds}
    return _slowed(bench, delay, lambda: run_apart(sustained, arguments))


def _pool(bench: Bench, delay: int) -> Result:
    rows = max(bench.sizes.pool_rows // (1 + delay // 6), _FEWEST_POOL_ROWS)
    arguments = {"url": bench.project.supabase["url"], "key": bench.project.supabase["key"], "rows": rows}
    return _slowed(bench, delay, lambda: run_apart(pooled, arguments))


def _slowed(bench: Bench, delay: int, measure: Callable[[], Result]) -> Result:
    bench.project.empty_table()
    with bench.project.slowed(delay / 1000):
        return measure()


SUSTAINED: Final = Measurement("sustained", "one thread, from the call to the row", _run)
