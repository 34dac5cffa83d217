"""Who waits is notified: of the end of an event, of an attempt, and of the end of everything."""

from __future__ import annotations

import threading

import pytest

from otel_audit_exporter.delivery.completion import Completions, CompletionWaiter
from otel_audit_exporter.outbox.ended import STORED
from otel_audit_exporter.outbox.log import OutboxLog
from otel_audit_exporter.runtime.clock import Clock
from tests.support.raw_logs import memory_log


@pytest.fixture
def log() -> OutboxLog:
    return memory_log()


def test_only_the_waiters_of_these_events_are_notified(log: OutboxLog) -> None:
    completions, notified = Completions(), list[int]()
    refs = [log.append(b"event") for _ in range(3)]
    waiters = [CompletionWaiter(lambda number=number: notified.append(number)) for number in range(3)]  # type: ignore[misc]
    for ref, waiter in zip(refs, waiters, strict=True):
        completions.watch(ref, waiter)
    completions.notify([(*refs[1], b"event")], settled=True)
    assert ([waiter.settled for waiter in waiters], notified) == ([False, True, False], [1])
    completions.notify([(*refs[0], b"event")], settled=False)
    assert waiters[0].wait_for_attempt(0)
    assert not waiters[0].settled
    assert not waiters[2].wait_for_attempt(0)
    completions.notify_all_of_attempt()
    assert waiters[2].wait_for_attempt(0)


def test_a_late_waiter_is_notified_at_once_and_not_kept(log: OutboxLog) -> None:
    """The event has ended before the waiter comes."""
    completions, waiter = Completions(), CompletionWaiter()
    ref = log.append(b"event")
    log.end(STORED, [(ref[0], 1, 1)])
    completions.watch(ref, waiter)
    assert waiter.settled
    completions.unwatch(ref, waiter)
    completions.unwatch(ref, waiter)
    assert completions._waiters == {}


def test_a_loop_that_was_closed_disturbs_nobody(log: OutboxLog) -> None:
    def closed() -> None:
        raise RuntimeError("Event loop is closed")

    completions, ref, other = Completions(), log.append(b"event"), CompletionWaiter()
    completions.watch(ref, CompletionWaiter(closed))
    completions.watch(ref, other)
    completions.notify([(*ref, b"event")], settled=True)
    assert other.settled


def test_waiting_for_all_ends_with_the_last_event(log: OutboxLog) -> None:
    """It asks for delivery again meanwhile."""
    completions, asked = Completions(), threading.Event()
    for _ in range(3):
        log.append(b"event")
    marks = [(log.stripes[0], 3)]
    assert not completions.wait_until_ended(marks, Clock.monotonic() - 1, asked.set)

    def deliver() -> None:
        asked.wait(30)
        for number in (2, 3, 1):
            log.end(STORED, [(log.stripes[0], number, number)])
            completions.notify((), settled=True)

    asked.clear()
    delivering = threading.Thread(target=deliver)
    delivering.start()
    assert completions.wait_until_ended(marks, Clock.monotonic() + 60, asked.set)
    delivering.join()
    assert completions.wait_until_ended(marks, Clock.monotonic() - 1, asked.set)


def test_one_attempt_is_waited_for_or_what_makes_it_needless() -> None:
    completions, over = Completions(), list[bool]()
    completions.wait_for_attempt(Clock.monotonic() + 60, completions.attempt_ended, lambda: False)
    completions.wait_for_attempt(Clock.monotonic() + 60, lambda: over.append(True), lambda: bool(over))
    completions.wait_for_attempt(Clock.monotonic() - 1, lambda: None, lambda: False)
    assert completions.attempts_ended == 1
