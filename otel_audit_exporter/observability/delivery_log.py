"""What is written to the log: once when something changes, never once per event.

No values and no ``details`` of a server's answer: of an event only its action, entity type and entity id.
"""

from __future__ import annotations

from typing import Final

from otel_audit_exporter.observability.causes import Cause
from otel_audit_exporter.observability.examples import describe
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.runtime.threads import Lock
from otel_audit_exporter.sinks.base import SinkError

_QUIET_SECONDS: Final = 60.0
_CHANGES_AT_ONCE: Final = 5


class DeliveryLog:
    """Logs that a sink's delivery fails, or that events are parked, when the cause changes; and that it is over."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._lock = Lock()
        self._failing = _ComingAndGoing()
        self._held = _Alternating()
        self._parked = _Alternating()
        self.waiting_cause: Cause | None = None  # why delivery fails now
        self.held_cause: Cause | None = None  # why the latest events were held that were refused by themselves
        self.parked_cause: Cause | None = None  # why the latest ones were parked

    def failing(self, error: SinkError, pending: int, example: bytes | None) -> None:
        """Say that events wait, why, and what to do."""
        self.waiting_cause = _waiting_cause(error)
        if self._is_news(self._failing, error):
            self._log_waiting(error, pending, example)

    def holding(self, error: SinkError, count: int, example: bytes) -> None:
        """Say that events wait that were refused by themselves, while others may well be delivered."""
        self.held_cause = _waiting_cause(error)
        if self._is_news(self._held, error):
            self._log_waiting(error, count, example)

    def _log_waiting(self, error: SinkError, count: int, example: bytes | None) -> None:
        logger.error(
            "audit %s: %d event(s) wait: %s. What to do: %s. One of them: %s",
            self._channel,
            count,
            error,
            _waiting_cause(error).remedy,
            describe(example),
        )

    def parked(self, error: SinkError, count: int, example: bytes, kind: tuple[str, ...] = ()) -> None:
        """Say that events went to the dead letters, why, and where to see them; ``kind`` distinguishes causes, too."""
        remedy = f"{error.verdict.remedy or 'correct the event'}; then `otel-audit dead-letters retry`"
        self.parked_cause = Cause(str(error), remedy)
        if not self._is_news(self._parked, error, kind):
            return
        logger.error(
            "audit %s: %d event(s) parked in the dead letters: %s. What to do: %s. One of them: %s",
            self._channel,
            count,
            error,
            remedy,
            describe(example),
        )

    def delivering(self) -> None:
        """Say, where a failure was announced, that it is over."""
        self.waiting_cause = None
        with self._lock:
            if self._failing.logged is None:
                return
            self._failing.logged = None
        logger.info("audit %s: delivering again", self._channel)

    def _is_news(self, story: _ComingAndGoing | _Alternating, error: SinkError, kind: tuple[str, ...] = ()) -> bool:
        cause = (error.verdict.fault, error.code, error.status, kind)
        with self._lock:
            if story.logged == cause or not story.may_log(cause, Clock.monotonic()):
                return False  # where it may not be logged now, it is when it comes again later
            story.logged = cause
            return True


class _ComingAndGoing:
    """Lets a few changes be logged at once, then one a minute: a sink may fail and answer in turns for hours."""

    def __init__(self) -> None:
        self.logged: tuple[object, ...] | None = None
        self._left = float(_CHANGES_AT_ONCE)
        self._at = Clock.monotonic()

    def may_log(self, cause: tuple[object, ...], now: float) -> bool:
        self._left = min(self._left + (now - self._at) / _QUIET_SECONDS, _CHANGES_AT_ONCE)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Alternating:
    """Lets each cause be logged once a minute: rows may be refused for one and another in turns."""

    def __init__(self) -> None:
        self.logged: tuple[object, ...] | None = None
        self._logged_at: dict[tuple[object, ...], float] = {}

    def may_log(self, cause: tuple[object, ...], now: float) -> bool:
        if now - self._logged_at.get(cause, float("-inf")) < _QUIET_SECONDS:
            return False
        self._logged_at[cause] = now
        return True


def _waiting_cause(error: SinkError) -> Cause:
    return Cause(str(error), error.verdict.remedy or "nothing to do here: they are tried again until it works")
