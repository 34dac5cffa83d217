"""Dead letters that several people handle at once."""

from __future__ import annotations

import threading

from otel_audit_exporter import AuditPipeline, PendingReceipt, flush_audit
from tests.operations.conftest import Configure
from tests.operations.stubs import BAD_ROW, StubExporter, emit
from tests.support.running import in_threads, run_in_child


def with_one_parked(configured: Configure, stub: StubExporter) -> tuple[AuditPipeline, PendingReceipt]:
    """Return a pipeline with one event stored and one parked, and the receipt of the latter."""
    pipeline = configured()
    emit(1)
    assert flush_audit()
    stub.sink.fail(BAD_ROW)
    (receipt,) = emit(1)
    assert flush_audit()
    return pipeline, receipt


def test_a_dead_letter_that_two_retry_at_once_is_counted_once(configured: Configure, stub: StubExporter) -> None:
    pipeline, receipt = with_one_parked(configured, stub)
    both_are_at_it = threading.Barrier(2)
    stub.sink.behaviour = lambda rows: wait_at(both_are_at_it)
    in_threads([lambda: pipeline.dead_letters().retry(receipt.record_id)] * 2)
    stats = pipeline.stats()
    assert (stats.succeeded, stats.failed, stats.pending) == (2, 0, 0)
    assert len(pipeline.dead_letters()) == 0


def test_a_dead_letter_retried_elsewhere_no_longer_counts_as_a_failure(
    configured: Configure, stub: StubExporter
) -> None:
    """Another process retries it. The process that parked it no longer counts it."""
    pipeline, receipt = with_one_parked(configured, stub)
    assert (pipeline.stats().failed, pipeline.health().level) == (1, "critical")

    def child() -> None:
        stub.sink.heal()
        assert pipeline.dead_letters().retry(receipt.record_id) == 1
        stats = pipeline.stats()
        assert (stats.submitted, stats.recovered, stats.succeeded, stats.failed) == (0, 1, 1, 0)

    assert run_in_child(child)
    for _ in range(2):  # it is counted once
        stats = pipeline.stats()
        assert (stats.submitted, stats.succeeded, stats.failed, stats.success_rate) == (2, 2, 0, 100.0)
    assert pipeline.health().level == "good"


def test_the_process_that_retries_an_orphaned_dead_letter_counts_it(configured: Configure, stub: StubExporter) -> None:
    pipeline = configured()

    def child() -> None:
        emit(1)
        assert flush_audit()
        stub.sink.fail(BAD_ROW)
        emit(1)
        assert flush_audit()

    assert run_in_child(child)
    assert pipeline.dead_letters().retry() == 1
    stats = pipeline.stats()
    assert (stats.submitted, stats.recovered, stats.succeeded, stats.failed) == (0, 1, 1, 0)


def wait_at(barrier: threading.Barrier) -> None:
    barrier.wait(30)
