"""When to try again: pure decisions, with the time passed in."""

from __future__ import annotations

import enum
import random
from typing import Final, NamedTuple

from otel_audit_exporter.sinks.verdict import Fault, Verdict

TRANSIENT_FIRST_SECONDS: Final = 0.1
TRANSIENT_MAX_SECONDS: Final = 30.0
CONFIGURATION_FIRST_SECONDS: Final = 1.0
CONFIGURATION_MAX_SECONDS: Final = 60.0
REFUSED_FIRST_SECONDS: Final = 1.0
REFUSED_MAX_SECONDS: Final = 300.0


class BackoffState(enum.Enum):
    """Whether a channel sends."""

    OPEN = "flowing"
    RETRYING = "backing off"
    ON_HOLD = "held"


class Backoff(NamedTuple):
    """Whether a channel may send now, after ``failures`` attempts in a row that failed; times are monotonic seconds."""

    state: BackoffState = BackoffState.OPEN
    failures: int = 0
    not_before: float = 0.0
    asked_until: float = 0.0  # the server's own pause (Retry-After): kept even where somebody asks for delivery now

    @property
    def is_open(self) -> bool:
        return self.state is BackoffState.OPEN

    def allows(self, now: float) -> bool:
        """Return whether an attempt is due."""
        return now >= self.not_before

    def after_failure(self, verdict: Verdict, retry_after: float | None, now: float, jitter: random.Random) -> Backoff:
        """Return the back-off after a failed attempt: exponential back-off with jitter, never an end.

        A server's ``retry_after`` (seconds) is kept to.
        """
        held = verdict.fault is not Fault.TRANSIENT
        first = CONFIGURATION_FIRST_SECONDS if held else TRANSIENT_FIRST_SECONDS
        longest = CONFIGURATION_MAX_SECONDS if held else TRANSIENT_MAX_SECONDS
        state = BackoffState.ON_HOLD if held else BackoffState.RETRYING
        failures = self.failures + 1 if state is self.state else 1
        delay = backoff_delay(failures, first, longest, jitter)
        asked = 0.0 if retry_after is None else retry_after
        return self._replace(
            state=state,
            failures=failures,
            not_before=now + max(delay, asked),
            asked_until=now + asked,
        )

    def after_success(self, now: float) -> Backoff:
        """Return the back-off after rows were stored: open, unless the server asked for a pause that is not over.

        Rows can be stored in such a pause by a request that was under way when another one was sent back.
        """
        return self if now < self.asked_until else OPEN_BACKOFF


OPEN_BACKOFF: Final = Backoff()


def backoff_delay(attempts: int, first: float, longest: float, jitter: random.Random) -> float:
    """Return the seconds to wait after ``attempts`` (1 or more): doubled each time, between half and the whole."""
    ceiling = min(longest, first * 2.0 ** min(attempts - 1, 30))
    return ceiling * jitter.uniform(0.5, 1.0)


def refusal_delay(attempts: int, jitter: random.Random) -> float:
    """Return the seconds after which a row that was refused by itself is tried again."""
    return backoff_delay(attempts, REFUSED_FIRST_SECONDS, REFUSED_MAX_SECONDS, jitter)
