"""One attempt: how a refused batch is narrowed down, against a sink that follows a script."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import pytest

from otel_audit_exporter.delivery.bisect_insert import REFUSALS_IN_A_ROW, InsertOutcome, attempt
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict

Script = Callable[[Sequence[int], int], Exception | None]
FAR = 1e9


class ScriptedSink:
    """Asks ``script(rows, number of the request)`` for the error of each insert."""

    name = "scripted"
    target = "nowhere"

    def __init__(self, script: Script) -> None:
        self._script = script
        self.requests: list[list[int]] = []

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        numbers = [int(row) for row in rows]
        self.requests.append(numbers)
        error = self._script(numbers, len(self.requests))
        if error is not None:
            raise error

    def close(self) -> None:
        """Nothing is open."""

    def renew_after_fork(self) -> None:
        """Nothing is inherited."""


def fault(kind: Fault, code: str = "x", *, halve: bool = False) -> SinkError:
    return SinkError(Verdict(kind, halve=halve), f"{kind.value} fault", code=code)


def refuses(*bad: int) -> Script:
    return lambda rows, _: fault(Fault.RECORD, "23514") if set(bad) & set(rows) else None


class Run:
    def __init__(self, count: int, script: Script, deadline: float = FAR) -> None:
        self.sink = ScriptedSink(script)
        self.settled: list[int] = []
        self.items = list(range(count))
        self.result: InsertOutcome[int] = attempt(
            self.sink, self.items, lambda items: [b"%d" % item for item in items], deadline, self.settled.extend
        )
        self._check_that_nothing_is_lost()

    def _check_that_nothing_is_lost(self) -> None:
        refused = [one.item for one in self.result.refused]
        assert sorted([*self.result.stored, *refused, *self.result.waiting]) == self.items
        assert self.settled == self.result.stored

    @property
    def refused(self) -> list[int]:
        return [one.item for one in self.result.refused]


def test_a_good_batch_is_one_request() -> None:
    run = Run(512, lambda rows, _: None)
    assert run.result.stored == run.items
    assert len(run.sink.requests) == 1
    assert run.result.error is None


@pytest.mark.parametrize("bad", [0, 1, 200, 255, 256, 510, 511])
def test_one_bad_row_of_512_is_found_in_few_requests(bad: int) -> None:
    run = Run(512, refuses(bad))
    assert run.refused == [bad]
    assert len(run.result.stored) == 511
    assert len(run.sink.requests) <= 2 + 2 * math.log2(512)
    assert run.result.error is None


@pytest.mark.parametrize("bad", [0, 1, 255, 256, 511])
def test_any_row_accepted_after_a_bad_row_proves_it_bad(bad: int) -> None:
    run = Run(512, refuses(bad))
    assert [one.proved for one in run.result.refused] == [True]


def test_a_row_that_passes_after_a_repair_is_no_bad_row() -> None:
    run = Run(64, lambda rows, number: fault(Fault.RECORD, "23514") if number <= 9 else None)
    assert run.refused == []
    assert sorted(run.result.stored) == run.items
    assert run.result.error is None


def test_a_row_that_cannot_be_looked_at_again_is_not_proved() -> None:
    def script(rows: Sequence[int], number: int) -> Exception | None:
        return fault(Fault.TRANSIENT) if number > 2 and rows == [0] else refuses(0)(rows, number)

    run = Run(2, script)
    assert [(one.item, one.proved) for one in run.result.refused] == [(0, False)]
    assert run.result.stored == [1]
    assert run.result.error is not None


def test_a_row_alone_is_never_proved() -> None:
    run = Run(1, refuses(0))
    assert [(one.item, one.proved) for one in run.result.refused] == [(0, False)]
    assert len(run.sink.requests) == 1


@pytest.mark.parametrize("bad", [(0, 1), (0, 511), (255, 256), (100, 101), (300, 500)])
def test_two_bad_rows_are_both_found(bad: tuple[int, int]) -> None:
    run = Run(512, refuses(*bad))
    assert run.refused == list(bad)
    assert len(run.result.stored) == 510
    assert all(one.proved for one in run.result.refused)
    assert len(run.sink.requests) <= 1 + 2 * 2 * math.log2(512)


def test_rows_land_in_the_order_in_which_they_came() -> None:
    run = Run(100, refuses(7, 70))
    assert run.result.stored == sorted(run.result.stored)


def test_where_every_row_is_refused_the_attempt_stops_early() -> None:
    run = Run(512, lambda rows, _: fault(Fault.RECORD, "23502"))
    assert run.refused == [*range(REFUSALS_IN_A_ROW), 511]
    assert not any(one.proved for one in run.result.refused)
    assert run.result.waiting == run.items[REFUSALS_IN_A_ROW:-1]
    assert len(run.sink.requests) <= 2 + math.log2(512) + 2 * REFUSALS_IN_A_ROW
    assert run.result.error is not None
    assert run.result.error.verdict.fault is Fault.CONFIGURATION
    assert run.result.error.code == "23502"


def test_an_accepted_last_row_proves_the_refused_first_rows_bad() -> None:
    run = Run(512, refuses(*range(100)))
    assert sorted(run.refused) == list(range(100))
    assert len(run.result.stored) == 412
    assert all(one.proved for one in run.result.refused)
    assert run.result.error is None
    assert not run.result.every_row_refused


def test_good_rows_behind_many_bad_ones_need_few_requests() -> None:
    run = Run(512, refuses(*range(500)))
    until_stored = next(at for at, rows in enumerate(run.sink.requests) if rows == [500]) + 1
    assert len(run.result.stored) == 12
    assert until_stored <= 2 + 2 * REFUSALS_IN_A_ROW + 4 * math.log2(512)


def test_a_transient_fault_at_the_last_row_leaves_nothing_out() -> None:
    away = fault(Fault.TRANSIENT, "57P01")
    run = Run(512, lambda rows, _: away if rows == [511] else fault(Fault.RECORD))
    assert len(run.refused) == REFUSALS_IN_A_ROW
    assert run.result.error is away


def test_a_sink_that_raises_system_exit_is_tried_again() -> None:
    def leave(rows: Sequence[int], _: int) -> None:
        raise SystemExit(3)

    run = Run(3, leave)
    assert run.result.waiting == run.items
    assert run.result.error is not None
    assert run.result.error.verdict.fault is Fault.TRANSIENT
    assert "SystemExit" in str(run.result.error)


def test_many_bad_rows_among_good_ones_are_all_found() -> None:
    bad = tuple(range(1, 64, 2))
    run = Run(64, refuses(*bad))
    assert run.refused == list(bad)
    assert run.result.error is None


def test_a_transient_fault_leaves_everything_waiting_after_one_request() -> None:
    run = Run(512, lambda rows, _: fault(Fault.TRANSIENT))
    assert run.result.waiting == run.items
    assert len(run.sink.requests) == 1
    assert run.result.error is not None


@pytest.mark.parametrize("at", range(2, 14))
def test_a_transient_fault_in_the_middle_leaves_the_rest_waiting(at: int) -> None:
    def script(rows: Sequence[int], number: int) -> Exception | None:
        return fault(Fault.TRANSIENT) if number >= at else refuses(5)(rows, number)

    run = Run(64, script)
    assert len(run.sink.requests) <= at
    if len(run.sink.requests) == at:
        assert run.result.waiting
        assert run.result.error is not None
        assert run.result.error.verdict.fault is Fault.TRANSIENT


def test_a_fault_of_the_configuration_stops_at_once() -> None:
    run = Run(64, lambda rows, _: fault(Fault.CONFIGURATION, "42501"))
    assert len(run.sink.requests) == 1
    assert run.result.waiting == run.items
    assert run.result.error is not None
    assert run.result.error.code == "42501"


def test_a_batch_that_is_too_large_is_halved_until_it_fits() -> None:
    run = Run(64, lambda rows, _: fault(Fault.TRANSIENT, "413", halve=True) if len(rows) > 10 else None)
    assert run.result.stored == run.items
    assert {len(rows) for rows in run.sink.requests} == {64, 32, 16, 8}
    assert run.result.error is None


def test_only_a_row_that_is_too_large_by_itself_waits() -> None:
    run = Run(64, lambda rows, _: fault(Fault.TRANSIENT, "413", halve=True) if {0, 1, 40} & set(rows) else None)
    assert run.result.waiting == [0, 1, 40]
    assert run.result.stored == [item for item in run.items if item not in run.result.waiting]
    assert run.result.refused == []
    assert run.result.error is not None
    assert run.result.error.code == "413"


def test_a_sink_that_always_fails_is_not_asked_row_by_row() -> None:
    run = Run(64, lambda rows, _: fault(Fault.TRANSIENT, "57014", halve=True))
    assert sorted(run.result.waiting) == run.items
    assert len(run.sink.requests) < 12


def test_a_foreign_exception_of_the_sink_is_reported_and_retried() -> None:
    run = Run(4, lambda rows, _: ZeroDivisionError("S3CRET"))
    assert run.result.waiting == run.items
    assert run.result.error is not None
    assert run.result.error.verdict.fault is Fault.TRANSIENT
    assert str(run.result.error) == "the sink raised ZeroDivisionError (ZeroDivisionError)"


def test_nothing_is_sent_when_the_time_is_up() -> None:
    run = Run(4, lambda rows, _: None, deadline=time.monotonic() - 1)
    assert run.sink.requests == []
    assert run.result.waiting == run.items
    assert run.result.error is not None


@pytest.mark.parametrize("answered", [True, False])
def test_a_sink_that_takes_rows_until_its_deadline_has_not_failed(
    answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(Clock, "monotonic", lambda: now)

    def script(rows: Sequence[int], number: int) -> Exception | None:
        nonlocal now
        now = 1.0 * number
        if now < 3:
            return refuses(3)(rows, number)
        return None if answered else fault(Fault.TRANSIENT)

    run = Run(4, script, deadline=3.0)
    assert run.result.stored == ([0, 1, 2] if answered else [0, 1])
    assert (run.result.error is not None, run.result.sink_failed) == (True, False)
    assert Run(4, lambda rows, _: fault(Fault.TRANSIENT), deadline=3.0).result.sink_failed


def test_no_rows_are_no_trouble() -> None:
    assert Run(0, lambda rows, _: None).result.stored == []


def drops(*bad: int) -> Script:
    """A sink that stores the others of a batch, and says so."""

    def script(rows: Sequence[int], _: int) -> Exception | None:
        stored = [at for at, row in enumerate(rows) if row not in bad]
        error = SinkError(Verdict(Fault.RECORD), "dropped", stored=stored)
        return error if len(stored) < len(rows) else None

    return script


@pytest.mark.parametrize("bad", [(0,), (511,), (0, 1, 2), tuple(range(0, 512, 20))])
def test_rows_passed_over_while_others_are_stored_are_proved_bad(bad: tuple[int, ...]) -> None:
    run = Run(512, drops(*bad))
    assert run.refused == list(bad)
    assert all(one.proved for one in run.result.refused)
    assert len(run.result.stored) == 512 - len(bad)
    assert run.result.error is None
    assert len(run.sink.requests) <= 1 + 3 * len(bad)


def test_where_the_sink_passes_over_every_row_none_is_at_fault() -> None:
    run = Run(512, drops(*range(512)))
    assert run.result.every_row_refused
    assert run.result.error is not None
    assert run.result.error.verdict.fault is Fault.CONFIGURATION
    assert len(run.result.refused) + len(run.result.waiting) == 512


def test_rows_passed_over_once_and_then_stored_are_not_bad() -> None:
    run = Run(512, lambda rows, number: drops(*range(100, 500))(rows, number) if number == 1 else None)
    assert sorted(run.result.stored) == run.items
    assert len(run.sink.requests) == 2


def test_rows_known_to_be_stored_are_settled_while_others_wait() -> None:
    cut_off = SinkError(Verdict(Fault.TRANSIENT, perhaps_stored=True), "cut off", stored=range(100))
    run = Run(512, lambda rows, _: cut_off)
    assert run.result.stored == list(range(100))
    assert run.result.waiting == list(range(100, 512))
    assert run.result.error is cut_off
    assert len(run.sink.requests) == 1
