"""What ``audit_event()`` costs its caller.

In *bursts* the caller says up to one batch of events, and the pipeline delivers them to the real sink before the
next burst: the call itself. *Flat out* it never pauses, so that delivering takes its share of the interpreter out
of the same calls. *Paced* it says a thousand a second, as a busy service does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

from tests.benchmarks.apart import Result, column, run_apart
from tests.benchmarks.call_jobs import audited, bare
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Budget, Row, compared
from tests.benchmarks.sizes import Sizes

_BARE: Final = "bare `Logger.emit`"
_OUTBOXES: Final = ("memory", "disk", "fsync")
_BUDGETS: Final = {"memory": Budget(1.0), "disk": Budget(2.0)}
_PACED_RATE: Final = 1000.0
_SLOW_SECONDS: Final = 0.3
_FIGURES: Final = ("p50", "p99", "p99.9")

Side = Callable[[], Result]


def _run(bench: Bench) -> Sequence[Row]:
    return [*_in_bursts(bench), *_flat_out(bench), *_from_threads(bench), *_from_tasks(bench), *_paced(bench)]


def _in_bursts(bench: Bench) -> Sequence[Row]:
    sizes = bench.sizes
    how = {"pattern": "bursts", "how": {"bursts": sizes.bursts, "calls": sizes.burst_calls}}
    sides = {_BARE: _bare(how)} | {name: _ours(bench, how, outbox=name) for name in _OUTBOXES}
    results = bench.in_turns(sizes.rounds, sides)
    return [
        _row(f"`audit_event()`, outbox {name}, {figure}", results, name, figure, budget=_BUDGETS.get(name))
        for name in _OUTBOXES
        for figure in ("mean", "p50")
    ]


def _flat_out(bench: Bench) -> Sequence[Row]:
    how = {"pattern": "flat_out", "how": {"calls": bench.sizes.calls_flat_out}}
    sides = {
        _BARE: _bare(how),
        "outbox memory, rows discarded": _ours(bench, how, outbox="memory", discard=True),
        "outbox on disk, rows discarded": _ours(bench, how, outbox="disk", discard=True),
        "outbox on disk, delivering": _ours(bench, how, outbox="disk"),
        "outbox on disk, sink hangs": _in(bench.project.hanging, _ours(bench, how, outbox="disk", away=True)),
    }
    results = bench.in_turns(bench.sizes.few, sides)
    return [_row(f"flat out: {name}", results, name) for name in sides if name != _BARE]


def _from_threads(bench: Bench) -> Sequence[Row]:
    rows: list[Row] = []
    for count in bench.sizes.threads:
        how = {"pattern": "threads", "how": {"threads": count, "calls": bench.sizes.calls_flat_out}}
        rows += _memory_and_disk(bench, how, f"{count} threads, flat out")
    return rows


def _from_tasks(bench: Bench) -> Sequence[Row]:
    how = {"pattern": "tasks", "how": {"tasks": 100, "calls": bench.sizes.calls_flat_out}}
    return _memory_and_disk(bench, how, "asyncio, 100 tasks, flat out")


def _memory_and_disk(bench: Bench, how: dict[str, Any], what: str) -> Sequence[Row]:
    sides = {_BARE: _bare(how)} | {name: _ours(bench, how, outbox=name) for name in ("memory", "disk")}
    results = bench.in_turns(bench.sizes.few, sides)
    return [_row(f"{what}: outbox {name}", results, name) for name in ("memory", "disk")]


def _paced(bench: Bench) -> Sequence[Row]:
    how = _pace(bench.sizes)
    ours = partial(_ours, bench, how, outbox="disk")
    slowed = partial(bench.project.slowed, _SLOW_SECONDS)
    sides = {
        _BARE: _bare(how),
        "idle": ours(),
        "slow": _in(slowed, ours(away=True)),
        "hangs": _in(bench.project.hanging, ours(away=True)),
    }
    results = bench.in_turns(bench.sizes.few, sides)
    return [
        _row("1,000 calls a second, sink idle", results, "idle"),
        _against_idle("p99, 1,000 calls a second: sink answers after 300 ms", results, "slow", None),
        _against_idle("p99, 1,000 calls a second: sink hangs", results, "hangs", Budget(1.5)),
    ]


def _pace(sizes: Sizes) -> dict[str, Any]:
    return {"pattern": "paced", "how": {"rate": _PACED_RATE, "seconds": sizes.paced_seconds}}


def _bare(how: dict[str, Any]) -> Side:
    return lambda: run_apart(bare, how)


def _ours(bench: Bench, how: dict[str, Any], *, outbox: str, **more: Any) -> Side:
    def measure() -> Result:
        bench.project.empty_table()
        return run_apart(audited, {**how, **more, "options": {**bench.project.supabase, "outbox": outbox}})

    return measure


def _in(state: Callable[[], AbstractContextManager[None]], side: Side) -> Side:
    def measure() -> Result:
        with state():
            return side()

    return measure


def _row(
    what: str,
    results: Mapping[str, Sequence[Result]],
    name: str,
    figure: str = "mean",
    *,
    budget: Budget | None = None,
) -> Row:
    ours, theirs = results[name], results[_BARE]
    others = (f"{other} {_middle(ours, other):.0f} and {_middle(theirs, other):.0f}" for other in _FIGURES)
    note = "; ".join(others) if figure == "mean" else ""
    return compared("call", what, column(ours, figure), _BARE, column(theirs, figure), "µs", budget=budget, note=note)


def _against_idle(what: str, results: Mapping[str, Sequence[Result]], name: str, budget: Budget | None) -> Row:
    ours, idle = column(results[name], "p99"), column(results["idle"], "p99")
    return compared("call", what, ours, "its own p99, sink idle", idle, "µs", budget=budget)


def _middle(results: Sequence[Result], figure: str) -> float:
    values = sorted(column(results, figure))
    return values[len(values) // 2]


CALLS: Final = Measurement("calls", "what a call costs its caller", _run)
