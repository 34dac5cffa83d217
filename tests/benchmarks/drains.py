"""A backlog with its sink back: rows a second, beside the fastest way to write the same rows without this library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tests.benchmarks.apart import Result, column, run_apart
from tests.benchmarks.delivery_jobs import drained, drained_into_file, left_behind, taken_over
from tests.benchmarks.limits import copied, copied_by_row, inserted, inserted_in_sqlite, pooled, posted
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Budget, Row, alone, compared

_POST_ROWS: Final = 1000
_SQLITE_ROWS: Final = 2000
_SLOW_SECONDS: Final = 0.3
_SHARE: Final = Budget(0.85, at_least=True)

Results = Mapping[str, Sequence[Result]]


def _run(bench: Bench) -> Sequence[Row]:
    return [*_supabase(bench), *_postgres(bench), *_sqlite(bench), *_slow(bench), *_taken_over(bench)]


def _supabase(bench: Bench) -> Sequence[Row]:
    kept = str(bench.directory / "supabase.rows")
    sides = {"ours": _drain(bench, bench.project.supabase, kept)}
    for count in bench.sizes.connections:
        sides[f"{count} connection(s)"] = _post(bench, kept, count)
    results = bench.in_turns(bench.sizes.rounds, sides)
    best = max((name for name in sides if name != "ours"), key=lambda name: sum(_rates(results, name)))
    return [
        compared(
            "drain",
            "backlog through PostgREST",
            _rates(results, "ours"),
            f"raw bulk POSTs, {best}",
            _rates(results, best),
            "rows/s",
            budget=_SHARE,
            note="; ".join(f"{name} {_middle(results, name):,.0f}" for name in sides if name not in ("ours", best)),
        ),
        alone("drain", "CPU a drained event, this process", column(results["ours"], "cpu_microseconds"), "µs"),
    ]


def _postgres(bench: Bench) -> Sequence[Row]:
    kept = str(bench.directory / "postgres.rows")
    access = {"dsn": bench.project.postgres["dsn"], "rows": kept}
    ours = _drain(bench, bench.project.postgres, kept)
    sides = {"ours": ours, "prepared": _on_empty_table(bench, lambda: run_apart(copied, access))}
    results = bench.in_turns(bench.sizes.rounds, sides)
    others = {
        "ours": ours,
        "by row": _on_empty_table(bench, lambda: run_apart(copied_by_row, access)),
        "inserts": _insert(bench, access, max(bench.sizes.connections)),
    }
    shown = bench.in_turns(bench.sizes.few, others)
    return [
        _direct(results, "prepared", "psycopg `COPY` of bytes made before", _SHARE),
        _direct(shown, "by row", "psycopg `COPY` of Python's values"),
        _direct(shown, "inserts", "raw bulk inserts that ignore known ids"),
    ]


def _direct(results: Results, name: str, against: str, budget: Budget | None = None) -> Row:
    ours, theirs = _rates(results, "ours"), _rates(results, name)
    return compared("drain", "backlog, direct PostgreSQL", ours, against, theirs, "rows/s", budget=budget)


def _sqlite(bench: Bench) -> Sequence[Row]:
    kept = str(bench.directory / "sqlite.rows")
    sides = {
        "ours": lambda: run_apart(drained_into_file, {"rows": bench.sizes.backlog_rows, "keep": kept}),
        "raw": lambda: run_apart(inserted_in_sqlite, {"rows": kept, "batch": _SQLITE_ROWS}),
    }
    results = bench.in_turns(bench.sizes.few, sides)
    return [
        compared(
            "drain",
            "backlog, SQLite",
            _rates(results, "ours"),
            "raw `executemany` of tuples made before",
            _rates(results, "raw"),
            "rows/s",
        )
    ]


def _slow(bench: Bench) -> Sequence[Row]:
    pool_rows = 25
    sides = {
        "ours": _slowed(bench, _drain(bench, bench.project.supabase, None)),
        "pool": _slowed(bench, _pool(bench, pool_rows)),
    }
    results = bench.in_turns(bench.sizes.rounds, sides)
    return [
        compared(
            "delayed",
            "backlog through PostgREST, 300 ms added to every response",
            _rates(results, "ours"),
            "pool of five, one insert a row",
            _rates(results, "pool"),
            "rows/s",
            budget=Budget(1000, at_least=True),
            note=f"the pool's rate is that of {pool_rows} rows",
        )
    ]


def _taken_over(bench: Bench) -> Sequence[Row]:
    arguments = {"options": bench.project.supabase, "rows": bench.sizes.backlog_rows}
    results = []
    for number in range(bench.sizes.few):
        bench.tell(f"taken over ({number + 1})")
        bench.project.empty_table()
        directory = bench.directory / f"left-{number}"
        directory.mkdir()
        run_apart(left_behind, arguments, directory)
        results.append(run_apart(taken_over, arguments, directory))
        assert bench.project.count() == bench.sizes.backlog_rows
    rates = column(results, "rows_per_second")
    return [alone("drain", "backlog of a process that is gone, through PostgREST", rates, "rows/s")]


def _drain(bench: Bench, options: dict[str, str], keep: str | None) -> Callable[[], Result]:
    rows = bench.sizes.backlog_rows

    def measure() -> Result:
        bench.project.empty_table()
        result = run_apart(drained, {"options": options, "rows": rows, "keep": keep})
        assert bench.project.count() == rows + 1  # the one that opened the connection
        return result

    return measure


def _post(bench: Bench, kept: str, connections: int) -> Callable[[], Result]:
    access = {name: bench.project.supabase[name] for name in ("url", "key")}
    how = {"rows": kept, "connections": connections, "batch": _POST_ROWS}
    return _on_empty_table(bench, lambda: run_apart(posted, {**access, **how}))


def _insert(bench: Bench, access: dict[str, str], connections: int) -> Callable[[], Result]:
    how = {**access, "connections": connections, "batch": _POST_ROWS}
    return _on_empty_table(bench, lambda: run_apart(inserted, how))


def _pool(bench: Bench, rows: int) -> Callable[[], Result]:
    access = {name: bench.project.supabase[name] for name in ("url", "key")}
    return _on_empty_table(bench, lambda: run_apart(pooled, {**access, "rows": rows}))


def _on_empty_table(bench: Bench, measure: Callable[[], Result]) -> Callable[[], Result]:
    def emptied() -> Result:
        bench.project.empty_table()
        return measure()

    return emptied


def _slowed(bench: Bench, measure: Callable[[], Result]) -> Callable[[], Result]:
    def slowly() -> Result:
        with bench.project.slowed(_SLOW_SECONDS):
            return measure()

    return slowly


def _rates(results: Results, name: str) -> list[float]:
    return column(results[name], "rows_per_second")


def _middle(results: Results, name: str) -> float:
    rates = sorted(_rates(results, name))
    return rates[len(rates) // 2]


DRAINS: Final = Measurement("drains", "a backlog, delivered when its sink is back", _run)
