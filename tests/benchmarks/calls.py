"""What ``audit_event()`` costs its caller.

In *bursts* the caller says up to one batch of events, and all of them are delivered before the next burst: the call
itself. *Flat out* it never pauses, so that delivering takes its share of the interpreter out of the same calls.
*Paced* it says a thousand a second, as a busy service does.
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

_BARE: Final = "bare `Logger.emit`"
_IN_MEMORY: Final = "the same, outbox in memory"
_PACED_RATE: Final = 1000.0
_SLOW_SECONDS: Final = 0.3
_FIGURES: Final = ("p50", "p99", "p99.9")

Side = Callable[[], Result]
Results = Mapping[str, Sequence[Result]]


def _run(bench: Bench) -> Sequence[Row]:
    return [*_in_bursts(bench), *_flat_out(bench), *_from_threads(bench), *_from_tasks(bench), *_paced(bench)]


def _in_bursts(bench: Bench) -> Sequence[Row]:
    sides = {
        _BARE: _bare(_bursts(bench)),
        "memory": _discarded(bench, outbox="memory"),
        "disk": _discarded(bench, outbox="disk"),
        "two": _discarded(bench, outbox="disk", exporter="supabase,postgres"),
        "redacted": _discarded(bench, says="texts", outbox="disk"),
        "shown": _discarded(bench, says="texts", outbox="disk", redact_keys=""),
    }
    results = bench.in_turns(bench.sizes.rounds, sides)
    row = partial(_beside, results)
    return [
        row("`audit_event()`, outbox in memory", "memory", _BARE, "mean", Budget(0.85)),
        row("`audit_event()`, outbox on disk", "disk", "memory", "mean", Budget(1.15), against=_IN_MEMORY),
        row("`audit_event()`, outbox on disk", "disk", "memory", "p99", Budget(1.3), against=_IN_MEMORY),
        row("`audit_event()`, two sinks", "two", "disk", "mean", Budget(1.25), against="one sink"),
        row(
            "redaction, 40 text fields, 2 kB",
            "redacted",
            "shown",
            "mean",
            Budget(1.3),
            against="the same, none redacted",
        ),
    ]


def _bursts(bench: Bench) -> dict[str, Any]:
    return {"pattern": "bursts", "how": {"bursts": bench.sizes.bursts, "calls": bench.sizes.burst_calls}}


def _discarded(bench: Bench, *, says: str = "usual", **options: str) -> Side:
    access = {**bench.project.postgres, **bench.project.supabase, **options}
    if options.get("exporter") is None:
        del access["dsn"]
    return lambda: run_apart(audited, {**_bursts(bench), "says": says, "discard": True, "options": access})


def _flat_out(bench: Bench) -> Sequence[Row]:
    how = {"pattern": "flat_out", "how": {"calls": bench.sizes.calls_flat_out}}
    sides = {
        _BARE: _bare(how),
        "outbox on disk, rows discarded": _ours(bench, how, outbox="disk", discard=True),
        "outbox on disk, delivering": _ours(bench, how, outbox="disk"),
        "outbox on disk, sink hangs": _in(bench.project.hanging, _ours(bench, how, outbox="disk", away=True)),
    }
    results = bench.in_turns(bench.sizes.few, sides)
    return [_beside(results, f"flat out: {name}", name, _BARE) for name in sides if name != _BARE]


def _from_threads(bench: Bench) -> Sequence[Row]:
    rows: list[Row] = []
    for count in bench.sizes.threads:
        how = {"pattern": "threads", "how": {"threads": count, "calls": bench.sizes.calls_flat_out}}
        rows += _on_disk(bench, how, f"{count} threads, flat out")
    return rows


def _from_tasks(bench: Bench) -> Sequence[Row]:
    how = {"pattern": "tasks", "how": {"tasks": 100, "calls": bench.sizes.calls_flat_out}}
    return _on_disk(bench, how, "asyncio, 100 tasks, flat out")


def _on_disk(bench: Bench, how: dict[str, Any], what: str) -> Sequence[Row]:
    results = bench.in_turns(bench.sizes.few, {_BARE: _bare(how), "disk": _ours(bench, how, outbox="disk")})
    return [_beside(results, f"{what}: outbox on disk", "disk", _BARE)]


def _paced(bench: Bench) -> Sequence[Row]:
    how = {"pattern": "paced", "how": {"rate": _PACED_RATE, "seconds": bench.sizes.paced_seconds}}
    idle = _ours(bench, how, outbox="disk")
    away = _ours(bench, how, outbox="disk", away=True)
    results = bench.in_turns(bench.sizes.rounds, {"idle": idle, "hangs": _in(bench.project.hanging, away)})
    slowed = partial(bench.project.slowed, _SLOW_SECONDS)
    slow = bench.in_turns(bench.sizes.few, {"idle": idle, "slow": _in(slowed, away)})
    against = "its own p99, sink idle"
    return [
        _beside(results, "1,000 calls a second: sink hangs", "hangs", "idle", "p99", Budget(1.2), against=against),
        _beside(slow, "1,000 calls a second: sink answers after 300 ms", "slow", "idle", "p99", against=against),
    ]


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


def _beside(
    results: Results,
    what: str,
    name: str,
    other: str,
    figure: str = "mean",
    budget: Budget | None = None,
    *,
    against: str | None = None,
) -> Row:
    ours, theirs = results[name], results[other]
    shown = (f"{one} {_middle(ours, one):.0f} and {_middle(theirs, one):.0f}" for one in _FIGURES if one != figure)
    return compared(
        "call",
        f"{what}, {figure}",
        column(ours, figure),
        against or other,
        column(theirs, figure),
        "µs",
        budget=budget,
        note="; ".join(shown),
    )


def _middle(results: Sequence[Result], figure: str) -> float:
    values = sorted(column(results, figure))
    return values[len(values) // 2]


CALLS: Final = Measurement("calls", "what a call costs its caller", _run)
