"""How old what waits is, whatever the wall clock does."""

from __future__ import annotations

import threading

from otel_audit_exporter.delivery.age_marks import AgeMarks
from otel_audit_exporter.outbox.ended import STORED
from otel_audit_exporter.outbox.log import OutboxLog
from tests.unit.delivery.conftest import Times


def end(log: OutboxLog, first: int, last: int) -> None:
    log.end(STORED, [(log.stripes[0], first, last)])


def test_the_age_is_that_of_the_oldest_pending_mark(log: OutboxLog, times: Times) -> None:
    marks = AgeMarks()
    assert marks.oldest_seconds() == 0.0
    for _ in range(3):
        log.append(b"event")
        marks.note(log.stripes)
        times.monotonic += 10
    assert (marks.oldest_seconds(), marks.count_older(15), marks.count_older(100)) == (30.0, 2, 0)
    end(log, 2, 2)
    assert (marks.oldest_seconds(), marks.count_older(15)) == (30.0, 1)
    end(log, 1, 1)
    assert (marks.oldest_seconds(), marks.count_older(15)) == (10.0, 0)
    end(log, 3, 3)
    marks.note(log.stripes)
    assert (marks.oldest_seconds(), marks.count_older(0)) == (0.0, 0)


def test_a_long_outage_has_few_marks_but_the_oldest_age(log: OutboxLog, times: Times) -> None:
    marks = AgeMarks()
    log.append(b"event")
    for _ in range(5000):
        log.append(b"event")
        marks.note(log.stripes)
        times.monotonic += 1
    assert len(marks._marks) < 1000
    assert marks.oldest_seconds() == 5000.0
    assert 4000 < marks.count_older(900) <= 4102


def test_whoever_looks_while_another_thread_notes_is_answered(log: OutboxLog) -> None:
    marks, stop = AgeMarks(), threading.Event()
    log.append(b"event")

    def note() -> None:
        while not stop.is_set():
            marks.note(log.stripes)

    noting = threading.Thread(target=note)
    noting.start()
    try:
        for _ in range(3000):
            assert marks.count_older(60) == 0
            assert marks.oldest_seconds() >= 0
    finally:
        stop.set()
        noting.join()
