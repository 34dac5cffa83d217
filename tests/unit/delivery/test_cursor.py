"""The cursor: each event to one taker only, whoever takes, gives back, and asks out of turn."""

from __future__ import annotations

import itertools
import sys
import threading
from collections import Counter
from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit_exporter.delivery.batch import Batch, bodies_of, ranges_of
from otel_audit_exporter.delivery.cursor import DeliveryCursor
from otel_audit_exporter.outbox.ended import STORED
from otel_audit_exporter.outbox.log import OutboxLog, Range
from otel_audit_exporter.outbox.stripe import EventRef, Stripe
from tests.support.raw_logs import event_bytes, memory_log
from tests.support.running import in_threads


def no_loss(log: OutboxLog, ranges: list[Range]) -> None:
    raise AssertionError(ranges)


@pytest.fixture
def cursor(log: OutboxLog) -> DeliveryCursor:
    cursor = DeliveryCursor(no_loss)
    cursor.add(log)
    return cursor


def fill(log: OutboxLog, count: int, size: int = 100) -> list[EventRef]:
    return [log.append(event_bytes(number, size)) for number in range(count)]


def numbers(entries: object) -> list[int]:
    return [entry[1] for entry in entries]  # type: ignore[attr-defined]


def end(log: OutboxLog, *wanted: int) -> None:
    log.end(STORED, [(log.stripes[0], number, number) for number in wanted])


def test_batches_come_in_order_and_each_event_once(log: OutboxLog, cursor: DeliveryCursor) -> None:
    fill(log, 250)
    assert cursor.has_more
    assert [numbers(cursor.take(100)) for _ in range(4)] == [
        [*range(1, 101)],
        [*range(101, 201)],
        [*range(201, 251)],
        [],
    ]
    assert not cursor.has_more


def test_a_batch_has_bytes_at_once_and_entries_on_request(log: OutboxLog, cursor: DeliveryCursor) -> None:
    refs = fill(log, 5)
    batch = cursor.take(10)
    assert list(bodies_of(batch)) == [event_bytes(number) for number in range(5)]
    assert [entry[:4] for entry in batch] == refs
    assert batch[1:3] == [*batch][1:3]
    assert ranges_of(batch) == ranges_of(list(batch)) == [(log.stripes[0], 1, 5)]
    assert bodies_of(list(batch)) == [event_bytes(number) for number in range(5)]


def test_a_batch_respects_its_byte_limit_but_has_an_event(log: OutboxLog, cursor: DeliveryCursor) -> None:
    """A single event may exceed the limit."""
    fill(log, 10, 1000)
    assert len(cursor.take(100, 2500)) == 3
    assert len(cursor.take(100, 1)) == 1


def test_events_given_back_come_next_and_ended_ones_never(log: OutboxLog, cursor: DeliveryCursor) -> None:
    fill(log, 10)
    first = list(cursor.take(4))
    cursor.give_back(first)
    end(log, 6, 7)
    assert numbers(cursor.take(3)) == [1, 2, 3]
    assert numbers(cursor.take(10)) == [4]
    assert numbers(cursor.take(10)) == [5, 8, 9, 10]
    cursor.give_back([])
    assert not cursor.has_more


def test_one_that_is_awaited_is_taken_out_of_turn_once(log: OutboxLog, cursor: DeliveryCursor) -> None:
    refs = fill(log, 6)
    assert numbers(cursor.take_one(refs[4])) == [5]
    assert cursor.take_one(refs[4]) == []
    assert numbers(cursor.take(3)) == [1, 2, 3]
    assert cursor.take_one(refs[1]) == []
    cursor.give_back([*cursor.take(2)])  # 4, as 5 is taken
    assert numbers(cursor.take_one(refs[3])) == [4]
    assert numbers(cursor.take(9)) == [6]


def test_one_that_was_given_back_may_be_taken_out_of_turn(log: OutboxLog, cursor: DeliveryCursor) -> None:
    refs = fill(log, 3)
    cursor.give_back([*cursor.take_one(refs[1])])
    assert numbers(cursor.take_one(refs[1])) == [2]
    assert numbers(cursor.take(9)) == [1, 3]


def test_no_stripe_s_backlog_keeps_another_waiting(cursor: DeliveryCursor, log: OutboxLog) -> None:
    other = memory_log()
    cursor.add(other)
    fill(log, 1000)
    fill(other, 10)
    taken = [cursor.take(100) for _ in range(2)]
    assert any(entry[0] is other.stripes[0] for batch in taken for entry in batch)


def test_a_released_log_is_handed_out_no_more(cursor: DeliveryCursor, log: OutboxLog) -> None:
    other = memory_log()
    cursor.add(other)
    fill(log, 3)
    fill(other, 3)
    cursor.give_back(list(cursor.take(9)))
    cursor.remove(other)
    assert {entry[0] for entry in cursor.take(99)} == {log.stripes[0]}
    assert not cursor.has_more


def test_the_newest_is_taken_where_nobody_has_it(cursor: DeliveryCursor, log: OutboxLog) -> None:
    fill(log, 2000)
    cursor.take(10)
    assert numbers(cursor.newest()) == [2000]
    assert numbers(cursor.newest()) == [1999]


def test_a_damaged_event_is_reported_once(log: OutboxLog) -> None:
    told: list[Range] = []
    cursor = DeliveryCursor(lambda log, ranges: told.extend(ranges))
    cursor.add(log)
    refs = fill(log, 10)
    log.stripes[0].at[0].put(refs[3][3], refs[3][3] + 120, b"x" * 100, 1)
    assert numbers(cursor.take(99)) == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert (told, list(cursor.take(99)), cursor.take_one(refs[3])) == ([(log.stripes[0], 4, 4)], [], [])


def test_two_threads_never_hold_the_same_event_and_all_end(log: OutboxLog, cursor: DeliveryCursor) -> None:
    refs, in_hand, ended = list[EventRef](), Counter[tuple[Stripe, int]](), list[tuple[Stripe, int]]()
    lock, writing = threading.Lock(), [3]

    def write(thread: int) -> None:
        for number in range(500):
            refs.append(log.append(event_bytes(thread * 1000 + number, 200)))
        writing[0] -= 1

    def deliver(thread: int) -> None:
        chance = Random(thread)
        while writing[0] or log.pending:
            if refs and chance.random() < 0.3:
                entries = cursor.take_one(chance.choice(refs[-50:]))
            else:
                entries = list(cursor.take(chance.randrange(1, 40)))
            keys = [(entry[0], entry[1]) for entry in entries]
            with lock:
                in_hand.update(keys)
                assert all(in_hand[key] == 1 for key in keys)
            some = [chance.random() < 0.8 for _ in keys]
            with lock:
                in_hand.subtract(keys)
                done = [key for key, is_done in zip(keys, some, strict=True) if is_done]
                ended.extend(done)
                log.end(STORED, [(stripe, number, number) for stripe, number in done])
            cursor.give_back([entry for entry, is_done in zip(entries, some, strict=True) if not is_done])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        in_threads([*(partial(write, n) for n in range(3)), *(partial(deliver, n) for n in range(4))])
    finally:
        sys.setswitchinterval(interval)
    assert len(ended) == len(set(ended)) == len(refs) == 1500


@given(st.sets(st.integers(1, 60)))
def test_ranges_are_the_runs_of_numbers(some: set[int]) -> None:
    stripe = memory_log().stripes[0]
    entries = [(stripe, number, stripe.at[0], 0, b"") for number in sorted(some)]
    found = ranges_of(entries)
    assert [n for _, first, last in found for n in range(first, last + 1)] == sorted(some)
    assert all(second[1] > first[2] + 1 for first, second in itertools.pairwise(found))


def test_an_empty_batch_is_false() -> None:
    assert not Batch()
