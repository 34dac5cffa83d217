"""When a write is slow, and when that is over; the time is passed in."""

from __future__ import annotations

import pytest

from otel_audit_exporter.observability.write_timing import FORGET_SECONDS, WriteTimings


def write(writes: WriteTimings, begin: float, end: float) -> None:
    writes.end(writes.begin(begin), end)


def test_a_write_within_the_limit_is_not_slow() -> None:
    writes = WriteTimings(1.0)
    write(writes, 0.0, 1.0)
    assert writes.slow_seconds(1.0, 10.0) == 0.0


def test_a_write_beyond_the_limit_is_slow_with_its_duration() -> None:
    writes = WriteTimings(1.0)
    write(writes, 0.0, 1.5)
    assert writes.slow_seconds(1.5, 10.0) == 1.5


def test_a_write_that_hangs_is_slow_before_it_ends() -> None:
    writes = WriteTimings(1.0)
    writes.begin(0.0)
    assert writes.slow_seconds(0.9, 10.0) == 0.0
    assert writes.slow_seconds(7.0, 10.0) == 7.0


def test_slowness_ends_after_a_fast_write_and_a_calm_time() -> None:
    """No slow write has ended within the calm time."""
    writes = WriteTimings(1.0)
    write(writes, 0.0, 2.0)
    write(writes, 2.0, 2.1)
    assert writes.slow_seconds(11.9, 10.0) == 2.0
    assert writes.slow_seconds(12.1, 10.0) == 0.0


def test_a_fast_write_beside_a_slow_one_ends_the_slowness() -> None:
    writes = WriteTimings(1.0)
    slow = writes.begin(0.0)
    write(writes, 1.8, 1.9)
    writes.end(slow, 2.0)
    assert writes.slow_seconds(12.1, 10.0) == 0.0


def test_slowness_is_not_over_while_nothing_proves_it() -> None:
    writes = WriteTimings(1.0)
    write(writes, 0.0, 2.0)
    assert writes.slow_seconds(200.0, 10.0) == 2.0


def test_slowness_is_forgotten_where_nothing_is_written_for_minutes() -> None:
    writes = WriteTimings(1.0)
    write(writes, 0.0, 2.0)
    assert writes.slow_seconds(2.1 + FORGET_SECONDS, 10.0) == 0.0


@pytest.mark.parametrize("seconds", [0.0, 5.0, 500.0])
def test_a_limit_of_zero_switches_it_off(seconds: float) -> None:
    writes = WriteTimings(0.0)
    write(writes, 0.0, seconds)
    writes.begin(0.0)
    assert writes.slow_seconds(seconds, 10.0) == 0.0
