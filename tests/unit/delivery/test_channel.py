"""What proves that a row is at fault itself: that others passed before it was refused, not only afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from otel_audit_exporter.delivery.channel import Lane, LaneOptions, Ticket
from otel_audit_exporter.errors import OutboxError, OutboxFullError
from otel_audit_exporter.event.validation import EventValidator
from otel_audit_exporter.outbox.dead_letter_store import MemoryDeadLetters
from otel_audit_exporter.outbox.directory import Destination, OutboxDirectory
from otel_audit_exporter.outbox.store import OutboxFile
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from tests.stack.waiting import wait_until
from tests.support.damage import damage
from tests.support.running import in_threads, run_in_child


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
        self.meanwhile: Callable[[], object] = lambda: None

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        refused = self.broken
        self.asked += 1
        self.meanwhile()
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
    return lane.accept(EventValidator(required=()).compose({"action": action}).body)


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


@pytest.fixture
def on_disk(table: Table, tmp_path: Path) -> Iterator[Lane]:
    folder = OutboxDirectory(tmp_path, Destination("lane", "nowhere", "public", "table"))
    letters = MemoryDeadLetters()
    lane = Lane("lane", table, list, folders=[folder], dead_letters=letters, options=LaneOptions(), identity="test")
    table.broken = False
    with closing(lane):
        yield lane


def test_a_run_is_offered_at_once_and_settled(on_disk: Lane, table: Table) -> None:
    tickets = [accept(on_disk, f"act {number}") for number in range(5)]
    bodies = [body for _, body in on_disk.own.read(0, None, 10, 2**20)]
    on_disk.attempt_run(on_disk.own, range(tickets[0].seq, tickets[-1].seq + 1))
    assert (table.asked, table.stored) == (1, bodies)
    assert (on_disk.books.succeeded, on_disk.books.pending, on_disk.own.count()) == (5, 0, 0)
    assert all(on_disk.acknowledged_at(ticket) for ticket in tickets)


def test_of_a_run_only_what_still_waits_is_offered(on_disk: Lane, table: Table) -> None:
    first, second, third = (accept(on_disk, name) for name in ("first", "second", "third"))
    offer(on_disk, second)
    on_disk.attempt_run(on_disk.own, range(first.seq, third.seq + 1))
    assert (table.asked, len(table.stored)) == (2, 3)
    assert (on_disk.books.succeeded, on_disk.books.pending) == (3, 0)
    assert not on_disk.is_pending(first) | on_disk.is_pending(third)


def test_a_run_that_somebody_else_is_offering_is_left_to_them(on_disk: Lane, table: Table) -> None:
    first, second = accept(on_disk, "first"), accept(on_disk, "second")
    both = range(first.seq, second.seq + 1)
    claimed = on_disk._claims.take(on_disk.own, [second.seq])
    on_disk.attempt_run(on_disk.own, both)
    assert (len(table.stored), on_disk.is_pending(second)) == (1, True)
    on_disk._claims.give_back(on_disk.own, claimed)
    on_disk.attempt_run(on_disk.own, both)
    assert (len(table.stored), on_disk.books.pending) == (2, 0)


def test_what_is_held_or_parked_is_said_before_anybody_can_see_it(
    lane: Lane, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, str | None]] = []

    def look(*_: object) -> None:
        stats = lane.stats()
        seen.append((stats.held, stats.failed, stats.last_error))

    monkeypatch.setattr(lane.announcer, "holding", look)
    monkeypatch.setattr(lane.announcer, "parked", look)
    test_a_row_that_is_refused_again_after_others_passed_is_parked(lane, table)
    assert seen == [(0, 0, "refused (23514)"), (1, 0, "refused (23514)")]


# A file that is damaged while it is in use


def spoil(lane: Lane) -> None:
    """Overwrite the whole file, and have its connection remember nothing of it."""
    own = lane.own
    assert isinstance(own, OutboxFile)
    own._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    damage(Path(own.path), "all")
    own._connection.execute("PRAGMA shrink_memory")


def set_aside(lane: Lane) -> list[Path]:
    assert lane.folder is not None
    return list(lane.folder.path.glob("*.damaged-*[0-9]"))


def test_the_call_that_meets_a_damaged_file_is_accepted_in_a_new_one(
    on_disk: Lane, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    lost = [accept(on_disk, f"lost {number}") for number in range(50)]
    spoil(on_disk)
    ticket = accept(on_disk, "accepted")
    books = on_disk.books
    assert (books.submitted, books.failed, books.pending, on_disk.own.count()) == (51, 50, 1, 1)
    assert all(map(on_disk.is_lost, lost))
    assert on_disk.is_pending(ticket)
    offer(on_disk, ticket)
    assert (books.succeeded, books.pending, len(table.stored)) == (1, 0, 1)
    assert not on_disk.is_lost(ticket)
    assert len(set_aside(on_disk)) == 1
    assert "50 could not be read" in caplog.text
    assert str(on_disk.stats().last_error) in caplog.text


def test_what_is_being_offered_when_its_file_is_damaged_is_saved(on_disk: Lane, table: Table) -> None:
    tickets = [accept(on_disk, f"act {number}") for number in range(50)]
    table.meanwhile = lambda: spoil(on_disk)
    on_disk.attempt_run(on_disk.own, range(tickets[0].seq, tickets[-1].seq + 1))
    assert (len(table.stored), on_disk.books.failed, on_disk.books.pending) == (50, 0, 50)
    table.meanwhile = lambda: None
    on_disk.attempt(on_disk.own, on_disk.own.read(0, None, 100, 2**20))
    assert (on_disk.books.succeeded, on_disk.books.pending) == (50, 0)
    assert len(set(table.stored)) == 50


def test_what_was_stored_before_its_file_was_damaged_is_not_lost(on_disk: Lane) -> None:
    stored = [accept(on_disk, f"stored {number}") for number in range(50)]
    on_disk.attempt_run(on_disk.own, range(stored[0].seq, stored[-1].seq + 1))
    lost = accept(on_disk, "lost")
    spoil(on_disk)
    accept(on_disk, "accepted")
    assert (on_disk.books.succeeded, on_disk.books.failed, on_disk.books.pending) == (50, 1, 1)
    assert on_disk.is_lost(lost)
    assert not any(map(on_disk.is_lost, stored))


def test_of_many_threads_that_meet_a_damaged_file_each_is_accepted_in_the_same_new_one(on_disk: Lane) -> None:
    accept(on_disk, "lost")
    spoil(on_disk)
    in_threads([lambda: accept(on_disk, "accepted")] * 8)
    assert (on_disk.books.submitted, on_disk.books.failed, on_disk.books.pending) == (9, 1, 8)
    assert on_disk.own.count() == 8
    assert len(set_aside(on_disk)) == 1


def test_whoever_comes_late_with_the_damage_finds_the_new_file(on_disk: Lane) -> None:
    accept(on_disk, "lost")
    spoil(on_disk)
    with pytest.raises(OutboxError) as met:
        on_disk.own.read(0, None, 10, 2**20)
    accept(on_disk, "accepted")
    aside = set_aside(on_disk)
    assert on_disk.mend(on_disk.own, met.value)
    assert set_aside(on_disk) == aside
    assert (on_disk.books.failed, on_disk.books.pending) == (1, 1)


def test_a_child_that_is_forked_after_a_file_was_replaced_has_one_of_its_own(on_disk: Lane) -> None:
    accept(on_disk, "lost")
    spoil(on_disk)
    accept(on_disk, "the parent's")

    def in_child() -> None:
        accept(on_disk, "the child's")
        assert (on_disk.books.submitted, on_disk.own.count()) == (1, 1)

    assert run_in_child(in_child)
    accept(on_disk, "the parent's")
    assert on_disk.own.count() == 2


def test_where_no_new_file_can_be_made_the_call_raises_until_one_can(
    on_disk: Lane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept(on_disk, "lost")
    spoil(on_disk)
    with monkeypatch.context() as without_room:
        without_room.setattr(OutboxFile, "put", failing)
        for _ in range(2):
            with pytest.raises(OutboxError, match="not a database"):
                accept(on_disk, "refused")
    assert "no new one can take its place" in caplog.text
    assert set_aside(on_disk) == []
    accept(on_disk, "accepted")
    assert (on_disk.books.submitted, on_disk.books.failed, on_disk.books.pending) == (2, 1, 1)
    on_disk.close()
    assert on_disk.folder is not None
    assert len(list(on_disk.folder.path.glob("*.outbox"))) == 1


def failing(*_: object) -> None:
    raise OutboxFullError("full")
