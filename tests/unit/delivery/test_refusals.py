"""Refused rows: which are proved to be at fault, which wait, and when they are tried again."""

from __future__ import annotations

import random

import pytest

from otel_audit_exporter.delivery.bisect_insert import RejectedRow
from otel_audit_exporter.delivery.refusals import Refusals
from otel_audit_exporter.outbox.ended import STORED
from otel_audit_exporter.outbox.log import OutboxLog
from otel_audit_exporter.outbox.stripe import EventRef
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import FOREIGN_KEY_CODES, Fault, Verdict
from tests.unit.delivery.conftest import Times

GRACE = 60.0


@pytest.fixture
def refusals(times: Times) -> Refusals:
    return Refusals(GRACE, random.Random(1))


def refused(ref: EventRef, *, code: str = "23514", proved: bool = False, at_once: bool = False) -> RejectedRow:  # type: ignore[type-arg]
    verdict = Verdict(Fault.RECORD, park_at_once=at_once, foreign_key=code in FOREIGN_KEY_CODES)
    return RejectedRow((*ref, b"event"), SinkError(verdict, "refused", code=code), proved)


def judge(refusals: Refusals, one: RejectedRow, before: int, now: int, *, codes_count: bool = True) -> str:  # type: ignore[type-arg]
    park, hold = refusals.judge([one], accepted_before=before, accepted_now=now, codes_count=codes_count)
    refusals.let_go([one.item])
    assert len(park) + len(hold) == 1
    return "park" if park else "hold"


def test_a_row_is_parked_where_others_passed_between_two_refusals(refusals: Refusals, log: OutboxLog) -> None:
    ref = log.append(b"event")
    assert judge(refusals, refused(ref), 5, 5) == "hold"
    assert judge(refusals, refused(ref), 5, 9) == "hold", "they may have passed after this refusal"
    assert judge(refusals, refused(ref), 9, 9) == "park"


def test_a_code_for_bad_values_is_proof_if_the_table_works(refusals: Refusals, log: OutboxLog) -> None:
    """The code nearly always means a bad value."""
    first, second = log.append(b"event"), log.append(b"event")
    assert judge(refusals, refused(first, at_once=True), 0, 0, codes_count=False) == "hold"
    assert judge(refusals, refused(second, at_once=True), 0, 0) == "park"


def test_a_row_whose_partner_may_still_come_waits_for_its_grace(
    refusals: Refusals, log: OutboxLog, times: Times
) -> None:
    ref = log.append(b"event")
    code = next(iter(FOREIGN_KEY_CODES))
    assert judge(refusals, refused(ref, code=code, proved=True), 5, 5) == "hold"
    times.wall -= 10_000  # a clock that jumps changes nothing
    times.monotonic += GRACE / 2
    assert judge(refusals, refused(ref, code=code, proved=True), 9, 9) == "hold"
    times.monotonic += GRACE / 2 + 1
    assert judge(refusals, refused(ref, code=code), 9, 9) == "park"


def test_what_is_due_is_tried_again_and_what_is_proved_first(refusals: Refusals, log: OutboxLog, times: Times) -> None:
    first, second = log.append(b"first"), log.append(b"second")
    judge(refusals, refused(first), 1, 1)
    judge(refusals, refused(second), 5, 5)
    proved, due = refusals.due(3, at_once=False)
    assert ([one.ref for one in proved], due) == ([first], [])
    assert [one.ref for one in refusals.due(3, at_once=True)[1]] == [second]
    times.monotonic += 10_000
    assert [one.ref for one in refusals.due(0, at_once=False)[1]] == [first, second]


def test_they_are_read_again_with_their_bytes_unless_they_have_ended(refusals: Refusals, log: OutboxLog) -> None:
    first, second = log.append(b"first"), log.append(b"second")
    for ref in (first, second):
        judge(refusals, refused(ref), 1, 1)
    assert refusals.contains((*first, b""))
    assert refusals.take_one(first) == [(*first, b"first")]
    log.end(STORED, [(first[0], 1, 1)])
    _, due = refusals.due(1, at_once=True)
    assert refusals.take(due, 10) == [(*second, b"second")]
    refusals.forget([(*first, b"first")])
    assert (len(refusals), refusals.take_one(first)) == (1, [])
    refusals.forget([(*second, b"second")])
    assert len(refusals) == 0


def test_an_event_is_not_taken_while_somebody_has_it(refusals: Refusals, log: OutboxLog) -> None:
    entry = (*log.append(b"event"), b"event")
    refusals.judge([refused(entry[:4])], accepted_before=1, accepted_now=1, codes_count=False)
    assert refusals.take_one(entry[:4]) == [], "who offered it still notes what became of it"
    refusals.let_go([entry])
    assert refusals.take_one(entry[:4]) == [entry]
    assert refusals.take_one(entry[:4]) == []
    refusals.let_go([entry])
    assert refusals.take_one(entry[:4]) == [entry]


def test_the_more_often_it_is_refused_the_longer_it_waits(refusals: Refusals, log: OutboxLog, times: Times) -> None:
    ref = log.append(b"event")
    delays, known = [], None
    for _ in range(12):
        judge(refusals, refused(ref), 1, 1)
        (known,) = refusals.due(0, at_once=True)[1]
        delays.append(known.next_try - times.monotonic)
    assert max(delays[:2]) < min(delays[8:])
    assert known is not None
    assert (known.attempts, known.first_failed_at) == (12, 5000.0)
