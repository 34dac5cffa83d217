"""The call in a busy process, where other threads compute: beside a bare ``emit`` and other calls of that kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from tests.benchmarks.apart import Result, column, run_apart
from tests.benchmarks.busy_jobs import beside_computing, pauses
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Budget, Row, compared

_OTHERS: Final = {"submit": "a thread pool's `submit`", "queue": "`QueueHandler`", "bare": "bare `Logger.emit`"}
_BARE: Final = _OTHERS["bare"]

Results = Mapping[str, Sequence[Result]]


def _run(bench: Bench) -> Sequence[Row]:
    return [*_paced(bench), *_handlers(bench), *_large(bench), *_others(bench), *_pauses(bench)]


def _paced(bench: Bench) -> Sequence[Row]:
    results = bench.in_turns(bench.sizes.rounds, _sides(bench, "one a millisecond"))
    return [
        _row("one call a millisecond", results, count, figure, Budget(0.5) if count else None)
        for count in bench.sizes.computing
        for figure in ("mean", "p99")
    ]


def _handlers(bench: Bench) -> Sequence[Row]:
    results = bench.in_turns(bench.sizes.rounds, _sides(bench, "handlers"))
    return [
        _row("8 handlers that compute 0 to 3 ms", results, count, figure, Budget(0.3))
        for count in bench.sizes.computing
        for figure in ("mean", "p99")
    ]


def _row(what: str, results: Results, count: int, figure: str, budget: Budget | None, other: str = "bare") -> Row:
    ours, theirs = results["usual"], results[other]
    name = f"{figure} {count}"
    return compared(
        "busy",
        f"{what}, {count} computing thread(s), {figure}",
        column(ours, name),
        _OTHERS[other],
        column(theirs, name),
        "µs",
        budget=budget,
    )


def _sides(bench: Bench, setting: str) -> dict[str, Callable[[], Result]]:
    return {"usual": _side(bench, setting, "usual"), "bare": _side(bench, setting, "bare")}


def _side(bench: Bench, setting: str, side: str, computing: Sequence[int] | None = None) -> Callable[[], Result]:
    ours = side not in _OTHERS

    def measure() -> Result:
        if ours:
            bench.project.empty_table()
        arguments: dict[str, Any] = {
            "side": side,
            "setting": setting,
            "computing": list(bench.sizes.computing if computing is None else computing),
            "seconds": bench.sizes.busy_seconds,
            "options": bench.project.supabase if ours else None,
        }
        return run_apart(beside_computing, arguments)

    return measure


def _large(bench: Bench) -> Sequence[Row]:
    sides = {says: _side(bench, "one a millisecond", says, [1]) for says in ("large", "usual")}
    results = bench.in_turns(bench.sizes.rounds, sides)
    large, usual = (column(results[name], "mean 1") for name in ("large", "usual"))
    what = "an event of 64 kB, 1 computing thread, mean"
    return [compared("busy", what, large, "one of 500 bytes", usual, "µs", budget=Budget(4.0))]


def _others(bench: Bench) -> Sequence[Row]:
    """Tell what other calls would cost there."""
    names = ("usual", "submit", "queue")
    results = bench.in_turns(bench.sizes.few, {name: _side(bench, "one a millisecond", name) for name in names})
    return [
        _row("one call a millisecond", results, count, "mean", None, other)
        for count in bench.sizes.computing
        for other in ("submit", "queue")
    ]


def _pauses(bench: Bench) -> Sequence[Row]:
    seconds, backlog = bench.sizes.busy_seconds, bench.sizes.backlog_rows // 2
    sides = {
        "ours": partial(_paused, bench, {"seconds": seconds, "options": bench.project.supabase, "backlog": backlog}),
        "nothing": partial(_paused, bench, {"seconds": seconds}),
    }
    results = bench.in_turns(bench.sizes.few, sides)
    ours, nothing = (column(results[name], "longest") for name in ("ours", "nothing"))
    what = f"longest pause of an uninvolved thread, a backlog of {backlog:,} being delivered"
    return [compared("busy", what, ours, "without audit", nothing, "ms")]


def _paused(bench: Bench, arguments: dict[str, Any]) -> Result:
    bench.project.empty_table()
    return run_apart(pauses, arguments)


BUSY: Final = Measurement("busy", "the call in a process where other threads compute", _run)
