"""What is said in the log: once when something changes, never once per event.

No values and no ``details`` of a server's answer: of an event only its action, entity type and entity id.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

from otel_audit_exporter.attributes import INDEX
from otel_audit_exporter.event import parse_json, split
from otel_audit_exporter.sinks.base import SinkError

logger: Final = logging.getLogger("otel_audit_exporter")


class Announcer:
    """Says that a lane's delivery fails, or that events are parked, when the cause changes; and that it is over."""

    def __init__(self, lane: str) -> None:
        self._lane = lane
        self._lock = threading.Lock()
        self._cause: tuple[object, ...] | None = None
        self._parked_cause: tuple[object, ...] | None = None

    def failing(self, error: SinkError, pending: int, example: bytes | None) -> None:
        """Say that events wait, why, and what to do."""
        if not self._changes("_cause", error):
            return
        remedy = error.verdict.remedy or "nothing to do here: they are tried again until it works"
        logger.error(
            "audit %s: %d event(s) wait: %s. What to do: %s. One of them: %s",
            self._lane,
            pending,
            error,
            remedy,
            describe(example),
        )

    def parked(self, error: SinkError, count: int, example: bytes) -> None:
        """Say that events went to the dead letters, why, and where to see them."""
        if not self._changes("_parked_cause", error):
            return
        logger.error(
            "audit %s: %d event(s) parked in the dead letters: %s. What to do: %s; then `otel-audit dead-letters "
            "retry`. One of them: %s",
            self._lane,
            count,
            error,
            error.verdict.remedy or "correct the event",
            describe(example),
        )

    def delivering(self) -> None:
        """Say, where a failure was announced, that it is over."""
        with self._lock:
            if self._cause is None:
                return
            self._cause = None
        logger.info("audit %s: delivering again", self._lane)

    def _changes(self, which: str, error: SinkError) -> bool:
        cause = (error.verdict.fault, error.code, error.status)
        with self._lock:
            if getattr(self, which) == cause:
                return False
            setattr(self, which, cause)
            return True


def describe(body: bytes | None) -> str:
    """Return an event's action, entity type and entity id, for a log line."""
    if body is None:
        return "none"
    fragments = split(body)
    action, kind, entity = (parse_json(fragments[INDEX[name]]) for name in ("action", "entity_type", "entity_id"))
    return f"{action} {kind} {entity}"
