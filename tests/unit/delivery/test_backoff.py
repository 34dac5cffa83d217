"""When to try again: decided from the time that is passed in."""

from __future__ import annotations

import random

import pytest

from otel_audit_exporter.delivery.backoff import OPEN_BACKOFF, Backoff, BackoffState, backoff_delay, refusal_delay
from otel_audit_exporter.sinks.verdict import Fault, Verdict

TRANSIENT = Verdict(Fault.TRANSIENT)
CONFIGURATION = Verdict(Fault.CONFIGURATION)


class Longest(random.Random):
    """Jitter that never shortens."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Shortest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return a


def after(failures: int, verdict: Verdict, now: float = 1000.0, retry_after: float | None = None) -> Backoff:
    backoff = OPEN_BACKOFF
    for _ in range(failures):
        backoff = backoff.after_failure(verdict, retry_after, now, Longest())
    return backoff


def test_an_open_backoff_lets_everything_through() -> None:
    assert OPEN_BACKOFF.is_open
    assert OPEN_BACKOFF.allows(0.0)


@pytest.mark.parametrize(
    ("failures", "delay"), [(1, 0.1), (2, 0.2), (3, 0.4), (8, 12.8), (9, 25.6), (10, 30.0), (10_000, 30.0)]
)
def test_the_pause_doubles_with_each_transient_fault_up_to_30_seconds(failures: int, delay: float) -> None:
    backoff = after(failures, TRANSIENT)
    assert backoff.state is BackoffState.RETRYING
    assert backoff.failures == failures
    assert backoff.not_before == pytest.approx(1000.0 + delay)
    assert not backoff.is_open


@pytest.mark.parametrize(("failures", "delay"), [(1, 1.0), (2, 2.0), (6, 32.0), (7, 60.0), (10_000, 60.0)])
def test_a_fault_of_the_configuration_is_probed_slowly(failures: int, delay: float) -> None:
    backoff = after(failures, CONFIGURATION)
    assert backoff.state is BackoffState.ON_HOLD
    assert backoff.not_before == pytest.approx(1000.0 + delay)


def test_an_attempt_is_allowed_only_once_the_pause_is_over() -> None:
    backoff = after(3, TRANSIENT)
    assert not backoff.allows(1000.39)
    assert backoff.allows(1000.41)


def test_another_kind_of_fault_starts_the_back_off_again() -> None:
    backoff = after(9, TRANSIENT).after_failure(CONFIGURATION, None, 2000.0, Longest())
    assert (backoff.state, backoff.failures, backoff.not_before) == (BackoffState.ON_HOLD, 1, 2001.0)
    backoff = backoff.after_failure(TRANSIENT, None, 3000.0, Longest())
    assert (backoff.state, backoff.failures) == (BackoffState.RETRYING, 1)


def test_the_server_s_own_word_is_kept_to() -> None:
    backoff = after(1, TRANSIENT, retry_after=17.0)
    assert backoff.not_before == backoff.asked_until == 1017.0
    assert not backoff.allows(1016.9)


def test_a_short_retry_after_does_not_shorten_the_back_off() -> None:
    backoff = after(10, TRANSIENT, retry_after=0.0)
    assert backoff.not_before == 1030.0
    assert backoff.asked_until == 1000.0


def test_without_the_server_s_word_an_attempt_may_be_hurried() -> None:
    assert after(10, TRANSIENT).asked_until <= 1000.0


def test_rows_that_are_stored_open_the_backoff() -> None:
    assert after(3, TRANSIENT).after_success(1000.1) is OPEN_BACKOFF
    assert after(3, CONFIGURATION).after_success(1000.1) is OPEN_BACKOFF


def test_a_request_under_way_does_not_end_the_servers_pause() -> None:
    backoff = after(1, TRANSIENT, retry_after=2.0)
    assert backoff.after_success(1001.9) is backoff
    assert backoff.after_success(1002.0) is OPEN_BACKOFF


def test_jitter_takes_at_most_half() -> None:
    assert backoff_delay(5, 1.0, 300.0, Shortest()) == 8.0
    assert backoff_delay(5, 1.0, 300.0, Longest()) == 16.0
    jitter = random.Random(1)
    delays = {backoff_delay(5, 1.0, 300.0, jitter) for _ in range(200)}
    assert len(delays) > 190
    assert all(8.0 <= delay <= 16.0 for delay in delays)


def test_a_refused_row_is_tried_again_after_at_most_five_minutes() -> None:
    assert refusal_delay(1, Longest()) == 1.0
    assert refusal_delay(4, Longest()) == 8.0
    assert refusal_delay(1000, Longest()) == 300.0
