"""What proves that a row is at fault itself, and what becomes of events that are damaged before they are delivered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter.delivery import event_sender as module
from otel_audit_exporter.delivery.channel import DeliveryChannel, DeliveryOptions
from otel_audit_exporter.event.validation import EventValidator
from otel_audit_exporter.outbox.dead_letter_store import MemoryDeadLetters
from otel_audit_exporter.outbox.destination import Destination
from otel_audit_exporter.outbox.directory import OutboxDirectory
from otel_audit_exporter.outbox.log import OutboxLog
from otel_audit_exporter.outbox.segment import MemorySegment
from otel_audit_exporter.outbox.stripe import EventRef, is_lost, is_pending
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from tests.stack.waiting import wait_until
from tests.support.running import run_in_child
from tests.unit.delivery.conftest import memory_channel


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
        self.look: Callable[[Sequence[bytes]], object] = lambda rows: None

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        refused = self.broken
        self.asked += 1
        self.meanwhile()
        self.look(rows)
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
def channel(table: Table) -> DeliveryChannel:
    return memory_channel(table)


@pytest.fixture
def on_disk(table: Table, tmp_path: Path) -> Iterator[DeliveryChannel]:
    directory = OutboxDirectory(tmp_path, Destination("channel", "nowhere", "public", "table"))
    table.broken = False
    made = DeliveryChannel(
        "channel",
        table,
        list,
        directories=[directory],
        dead_letters=MemoryDeadLetters(),
        options=DeliveryOptions(),
        identity="test",
    )
    with closing(made):
        yield made


def accept(channel: DeliveryChannel, action: str) -> EventRef:
    return channel.accept(EventValidator(required=()).compose({"action": action}).body)


def offer(channel: DeliveryChannel, ref: EventRef) -> None:
    channel.sender.deliver(channel.cursor.take_one(ref))


def retry(channel: DeliveryChannel) -> None:
    channel.sender.deliver_refused(10, at_once=True)


def test_a_row_that_is_refused_again_after_others_passed_is_parked(channel: DeliveryChannel, table: Table) -> None:
    first, second = accept(channel, "first"), accept(channel, "second")
    offer(channel, first)
    table.broken = False
    offer(channel, second)
    table.broken = True
    retry(channel)
    assert (channel.counters.failed, channel.counters.succeeded, channel.counters.pending) == (1, 1, 0)


def test_a_row_that_is_being_parked_is_not_offered(
    channel: DeliveryChannel, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = accept(channel, "first"), accept(channel, "second")
    offer(channel, first)
    table.broken = False
    offer(channel, second)
    table.broken = True
    keep, asked = channel.parking.keep, []

    def keep_beside_others(letters: Any) -> bool:
        before = table.asked
        retry(channel)
        channel.sender.deliver(channel.refusals.take_one(first))
        asked.append(table.asked - before)
        return keep(letters)

    monkeypatch.setattr(channel.parking, "keep", keep_beside_others)
    retry(channel)
    assert asked == [0]
    assert not is_pending(first)


def test_rows_that_passed_during_the_refused_request_prove_nothing(channel: DeliveryChannel, table: Table) -> None:
    first, second = accept(channel, "first"), accept(channel, "second")
    offer(channel, first)
    table.answers.clear()
    asked = table.asked
    slow = threading.Thread(target=retry, args=(channel,))
    slow.start()
    wait_until(lambda: table.asked > asked, "it is refused once more, and the answer is on its way")
    table.broken = False
    offer(channel, second)
    table.answers.set()
    slow.join()
    assert (channel.counters.failed, channel.counters.pending) == (0, 1)
    retry(channel)
    assert (channel.counters.failed, channel.counters.succeeded) == (0, 2)
    assert channel.stats().held == 0


def test_held_and_parked_events_are_logged_before_the_stats_show_them(
    channel: DeliveryChannel, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, str | None]] = []

    def look(*_: object) -> None:
        stats = channel.stats()
        seen.append((stats.held, stats.failed, stats.last_error))

    monkeypatch.setattr(channel.delivery_log, "holding", look)
    monkeypatch.setattr(channel.delivery_log, "parked", look)
    test_a_row_that_is_refused_again_after_others_passed_is_parked(channel, table)
    assert [one[1:] for one in seen] == [(0, "refused (23514)"), (0, "refused (23514)")]


def test_a_batch_is_offered_at_once_and_ends(on_disk: DeliveryChannel, table: Table) -> None:
    refs = [accept(on_disk, f"act {number}") for number in range(5)]
    assert on_disk.sender.deliver_next(100) == 5
    assert (table.asked, len(table.stored), on_disk.counters.succeeded, on_disk.counters.pending) == (1, 5, 5, 0)
    assert all(on_disk.sender.acknowledged_at(ref) for ref in refs)
    assert not any(map(is_pending, refs))
    assert on_disk.sender.deliver_next(100) == 0


def test_what_the_sink_does_not_take_waits_and_is_offered_again(on_disk: DeliveryChannel, table: Table) -> None:
    accept(on_disk, "act")

    def away() -> None:
        raise SinkError(Verdict(Fault.TRANSIENT), "away")

    table.meanwhile = away
    on_disk.sender.deliver_next(100)
    assert (on_disk.counters.pending, on_disk.sender.backoff.is_open, on_disk.cursor.has_more) == (1, False, True)
    table.meanwhile = lambda: None
    on_disk.sender.deliver_next(100)
    assert (on_disk.counters.pending, on_disk.counters.succeeded, on_disk.counters.retried) == (0, 1, 1)


def test_a_channel_does_not_pause_where_only_the_time_was_up(
    on_disk: DeliveryChannel, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    for action in ("first", "second", "third", "fourth"):
        accept(on_disk, action)
    real, passed = Clock.monotonic, 0.0
    monkeypatch.setattr(Clock, "monotonic", lambda: real() + passed)

    def refuse_two_together(rows: Sequence[bytes]) -> None:
        nonlocal passed
        if len(rows) > 2:
            raise SinkError(Verdict(Fault.RECORD), "refused", code="23514")
        passed = on_disk.options.export_timeout_seconds

    monkeypatch.setattr(table, "look", refuse_two_together)
    on_disk.sender.deliver_next(100)
    assert (on_disk.counters.pending, on_disk.sender.backoff.is_open, on_disk.sender.hangs) == (2, True, False)
    on_disk.sender.deliver_next(100)
    assert on_disk.counters.pending == 0


def test_whatever_a_flush_has_waited_for_is_counted(
    channel: DeliveryChannel, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush looks at the very moment of the end, in 10,000 rounds: it never finds an end without its count."""
    table.broken = False
    end, looks, short = OutboxLog.end, 0, 0

    def end_and_look(*arguments: Any) -> int:
        nonlocal looks, short
        ended = end(*arguments)
        if channel.wait_until_settled(Clock.monotonic(), lambda: None):
            looks += 1
            short += channel.counters.succeeded != accepted
        return ended

    monkeypatch.setattr(OutboxLog, "end", end_and_look)
    for accepted in range(1, 10_001):  # noqa: B007  # the looks compare with it
        accept(channel, "act")
        channel.sender.deliver_next(100)
    assert (looks, short) == (10_000, 0)


def test_an_error_of_the_library_s_own_gives_every_event_back(
    on_disk: DeliveryChannel, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(on_disk, "act")
    with monkeypatch.context() as broken:
        broken.setattr(module, "attempt", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            on_disk.sender.deliver_next(100)
    assert (on_disk.sender.deliver_next(100), on_disk.counters.pending) == (1, 0)


# --- events that are damaged before they are delivered ----------------------------------------------------------


def damage(ref: EventRef) -> None:
    """Damage one event where it lies."""
    _, _, segment, offset = ref
    if isinstance(segment, MemorySegment):
        segment._bytes[offset + 20] ^= 1
        return
    assert segment.path is not None
    with segment.path.open("r+b") as file:
        file.seek(offset + 20)
        file.write(b"\xff")


def test_a_damaged_event_is_counted_lost_and_the_others_delivered(
    on_disk: DeliveryChannel, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    """The log and the last error report it."""
    refs = [accept(on_disk, f"act {number}") for number in range(20)]
    damage(refs[7])
    damage(refs[8])
    assert on_disk.sender.deliver_next(100) == 18
    counters = on_disk.counters
    assert (counters.submitted, counters.succeeded, counters.failed, counters.lost, counters.pending) == (
        20,
        18,
        2,
        2,
        0,
    )
    assert [is_lost(ref) for ref in refs].count(True) == 2
    assert "2 event(s) cannot be read" in caplog.text
    assert "2 event(s) cannot be read" in str(on_disk.stats().last_error)


def test_a_damaged_newest_event_does_not_hold_up_later_ones(on_disk: DeliveryChannel, table: Table) -> None:
    """It is counted as lost."""
    damage(accept(on_disk, "damaged"))
    on_disk.sender.deliver_next(100)
    assert (on_disk.counters.lost, on_disk.counters.pending) == (1, 0)
    accept(on_disk, "next")
    on_disk.sender.deliver_next(100)
    assert (on_disk.counters.lost, on_disk.counters.succeeded, on_disk.counters.pending) == (1, 1, 0)


def test_a_refused_row_that_gets_damaged_is_not_tried_again(
    channel: DeliveryChannel, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    ref = accept(channel, "refused")
    offer(channel, ref)
    assert channel.stats().held == 1
    damage(ref)
    retry(channel)
    counters = channel.counters
    assert (counters.failed, counters.lost, counters.pending, channel.stats().held) == (1, 1, 0, 0)
    assert is_lost(ref)
    assert "1 event(s) cannot be read" in caplog.text


def test_a_damaged_orphan_is_adopted_reported_and_counted(
    on_disk: DeliveryChannel, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    refs: list[EventRef] = []

    def in_child() -> None:
        on_disk.renew_after_fork()
        refs.extend(accept(on_disk, f"act {number}") for number in range(20))
        damage(refs[3])

    assert run_in_child(in_child, 60)
    assert on_disk.adopt_orphans() == 19
    counters = on_disk.counters
    assert (counters.recovered, counters.failed, counters.lost, counters.pending) == (20, 1, 1, 19)
    on_disk.sender.deliver_next(100)
    assert (counters.succeeded, counters.lost, counters.pending) == (19, 1, 0)
    on_disk.drop_emptied()
    assert "1 event(s) are lost" in caplog.text
    assert len(list(on_disk.logs)) == 1


def test_a_child_delivers_its_own_events_and_none_of_its_parent(on_disk: DeliveryChannel, table: Table) -> None:
    accept(on_disk, "the parent's")

    def in_child() -> None:
        accept(on_disk, "the child's")
        assert (on_disk.counters.submitted, on_disk.sender.deliver_next(100), on_disk.counters.pending) == (1, 1, 0)
        on_disk.close()

    assert run_in_child(in_child, 60)
    assert (on_disk.sender.deliver_next(100), on_disk.counters.pending) == (1, 0)
