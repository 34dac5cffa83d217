"""What proves that a row is at fault itself: that others passed before it was refused, not only afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from otel_audit_exporter.deadletters import MemoryDeadLetters
from otel_audit_exporter.event import EventRules
from otel_audit_exporter.faults import Fault, Verdict
from otel_audit_exporter.lane import Lane, LaneOptions, Ticket
from otel_audit_exporter.sinks.base import SinkError
from tests.stack.waiting import wait_until


class Table:
    """A table that refuses every row until it is mended, and whose answers may be held up."""

    name = "table"
    target = "nowhere"

    def __init__(self) -> None:
        self.broken = True
        self.stored: list[bytes] = []
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        refused = self.broken
        self.asked += 1
        if refused:
            self.answers.wait(max(deadline - time.monotonic(), 0.0))
            raise SinkError(Verdict(Fault.RECORD), "refused", code="23514")
        self.stored.extend(rows)

    def close(self) -> None:
        """Nothing is open."""

    def renew_after_fork(self) -> None:
        """Nothing is inherited."""


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def lane(table: Table) -> Lane:
    options = LaneOptions(outbox="memory")
    return Lane("lane", table, list, folders=[], dead_letters=MemoryDeadLetters(), options=options, identity="test")


def accept(lane: Lane, action: str) -> Ticket:
    return lane.accept(EventRules(required=()).compose({"action": action}).body)


def offer(lane: Lane, ticket: Ticket) -> None:
    lane.attempt(ticket.store, ticket.store.get((ticket.seq,)))


def test_a_row_that_is_refused_again_after_others_passed_is_parked(lane: Lane, table: Table) -> None:
    first, second = accept(lane, "first"), accept(lane, "second")
    offer(lane, first)
    table.broken = False
    offer(lane, second)
    table.broken = True
    lane.attempt_refused(lane.own, 10)
    assert (lane.books.failed, lane.books.succeeded, lane.books.pending) == (1, 1, 0)


def test_others_that_passed_while_the_refusal_was_on_its_way_prove_nothing(lane: Lane, table: Table) -> None:
    first, second = accept(lane, "first"), accept(lane, "second")
    offer(lane, first)
    table.answers.clear()
    asked = table.asked
    slow = threading.Thread(target=lane.attempt_refused, args=(lane.own, 10), kwargs={"at_once": True})
    slow.start()
    wait_until(lambda: table.asked > asked, "it is refused once more, and the answer is on its way")
    table.broken = False
    offer(lane, second)
    table.answers.set()
    slow.join()
    assert (lane.books.failed, lane.books.pending) == (0, 1)
    lane.attempt_refused(lane.own, 10)
    assert (lane.books.failed, lane.books.succeeded) == (0, 2)
    assert lane.stats().held == 0
