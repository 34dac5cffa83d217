"""The reference to a recorded event on the current span, and which ids have one."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Final

from opentelemetry.trace import get_current_span

from otel_audit_exporter.event.fields import AUDIT_ACTION, AUDIT_RECORD_ID

SPAN_EVENT_NAME: Final = "audit"
_REMEMBERED_IDS: Final = 10_000


class SeenIds:
    """The ids that came last, a bounded number of them.

    Without a lock, which a fork or a signal handler could find held: each step is one call that cannot be interrupted.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[str, object] = OrderedDict()

    def add(self, record_id: str) -> bool:
        """Remember an id; False where it is known."""
        mine = object()
        if self._ids.setdefault(record_id, mine) is not mine:
            return False
        if len(self._ids) > _REMEMBERED_IDS:
            self._ids.popitem(last=False)
        return True

    def discard(self, record_id: str) -> None:
        """Forget an id."""
        self._ids.pop(record_id, None)

    def knows(self, record_id: str) -> bool:
        """Return whether an id is remembered."""
        return record_id in self._ids


REFERRED_TO: Final = SeenIds()


def mark_span(record_id: str, action: str) -> None:
    """Leave a reference to a recorded event on the current span: its id and action, no values."""
    span = get_current_span()
    if span.is_recording():
        REFERRED_TO.add(record_id)
        name = action.value if isinstance(action, Enum) else action
        span.add_event(SPAN_EVENT_NAME, {AUDIT_RECORD_ID: record_id, AUDIT_ACTION: name})
