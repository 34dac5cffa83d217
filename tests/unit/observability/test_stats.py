"""The counters: their identity holds at every instant, whoever counts."""

from __future__ import annotations

import random
import threading
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest

from otel_audit_exporter.observability.stats import AuditStats, DeliveryCounters, summed


def stats_of(counters: DeliveryCounters, *, held: int = 0, all_held: bool = False, oldest: float = 0.0) -> AuditStats:
    return counters.stats(held=held, all_held=all_held, oldest_pending_seconds=oldest)


def test_empty_counters_are_all_zeros_and_a_hundred_percent() -> None:
    assert stats_of(DeliveryCounters()) == AuditStats()
    assert AuditStats().success_rate == 100.0
    assert AuditStats().last_success_at is None


def test_pending_is_what_the_others_leave() -> None:
    counters = DeliveryCounters()
    counters.count(submitted_elsewhere=7, recovered=5, succeeded=4, failed=2)
    stats = stats_of(counters)
    assert stats.pending == 6
    assert stats.submitted + stats.recovered == stats.succeeded + stats.failed + stats.pending


@pytest.mark.parametrize(("succeeded", "failed", "rate"), [(0, 0, 100.0), (1, 0, 100.0), (3, 1, 75.0), (0, 2, 0.0)])
def test_the_success_rate_is_a_percentage_of_what_is_settled(succeeded: int, failed: int, rate: float) -> None:
    counters = DeliveryCounters()
    counters.count(submitted_elsewhere=10, succeeded=succeeded, failed=failed)
    assert stats_of(counters).success_rate == rate


def test_a_dead_letter_that_is_delivered_moves_from_failed_to_succeeded() -> None:
    counters = DeliveryCounters()
    counters.count(submitted_elsewhere=2, succeeded=1, failed=1)
    counters.count(failed=-1, succeeded=1)
    stats = stats_of(counters)
    assert (stats.succeeded, stats.failed, stats.pending, stats.success_rate) == (2, 0, 0, 100.0)


def test_held_is_never_more_than_pending() -> None:
    counters = DeliveryCounters()
    counters.count(submitted_elsewhere=3)
    assert stats_of(counters, held=1).held == 1
    assert stats_of(counters, held=9).held == 3
    assert stats_of(counters, all_held=True).held == 3


def test_nothing_pending_is_not_old() -> None:
    counters = DeliveryCounters()
    assert stats_of(counters, oldest=5.0).oldest_pending_seconds == 0.0
    counters.count(submitted_elsewhere=1)
    assert stats_of(counters, oldest=5.0).oldest_pending_seconds == 5.0


def test_the_time_of_the_last_success_is_in_utc() -> None:
    counters = DeliveryCounters()
    counters.last_success = 1_767_225_600.5
    assert stats_of(counters).last_success_at == datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)


def test_the_identity_holds_at_every_instant_whoever_counts() -> None:
    counters = DeliveryCounters()
    stop = threading.Event()

    def work(seed: int) -> None:
        draw = random.Random(seed)
        while not stop.is_set():
            counters.count(submitted_elsewhere=1)
            counters.count(**{draw.choice(["succeeded", "failed"]): 1})

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(3000):
            stats = stats_of(counters)
            assert stats.submitted + stats.recovered == stats.succeeded + stats.failed + stats.pending
            assert 0 <= stats.pending <= len(workers)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert stats_of(counters).pending == 0


def test_every_counter_of_the_parts_is_in_the_total() -> None:
    numbers: dict[str, Any] = {one.name: at for at, one in enumerate(fields(AuditStats), 1) if type(one.default) is int}
    total = summed([AuditStats(**numbers), AuditStats(**numbers)])
    assert {name: getattr(total, name) for name in numbers} == {name: 2 * at for name, at in numbers.items()}
    assert "late" in numbers
