"""Dead letters that several people handle at once."""

from __future__ import annotations

import threading

from otel_audit_exporter import flush_audit
from tests.operations.conftest import Configure
from tests.operations.stubs import BAD_ROW, StubExporter, emit
from tests.sinks.running import in_threads


def test_a_dead_letter_that_two_retry_at_once_is_counted_once(configured: Configure, stub: StubExporter) -> None:
    pipeline = configured()
    emit(1)
    assert flush_audit()
    stub.sink.fail(BAD_ROW)
    (receipt,) = emit(1)
    assert flush_audit()
    both_are_at_it = threading.Barrier(2)
    stub.sink.behaviour = lambda rows: wait_at(both_are_at_it)
    in_threads([lambda: pipeline.dead_letters().retry(receipt.record_id)] * 2)
    stats = pipeline.stats()
    assert (stats.succeeded, stats.failed, stats.pending) == (2, 0, 0)
    assert len(pipeline.dead_letters()) == 0


def wait_at(barrier: threading.Barrier) -> None:
    barrier.wait(30)
