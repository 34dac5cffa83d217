"""The wait of a response for the events of its request, in the profile ``ephemeral``."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from otel_audit_exporter.delivery.joint_wait import AwaitedRef, JointWait
from otel_audit_exporter.delivery.loop_events import loop_event
from otel_audit_exporter.pipeline.current import current_pipeline
from otel_audit_exporter.pipeline.late_events import AwaitedEvent
from otel_audit_exporter.runtime.clock import Clock

_LOOK_THROUGH_AFTER: Final = 1000  # events of one connection, before those that are stored are forgotten


def response_wait() -> ResponseWait | None:
    """Return what a new request's response waits with; None where the pipeline is one of the profile ``server``."""
    pipeline = current_pipeline()
    return None if pipeline is not None and pipeline.late is None else ResponseWait()


class ResponseWait:
    """Collects the events of one request, and has its response wait for them, all together.

    ``limit`` returns for how many seconds it may wait at most, independent of the settings.
    """

    def __init__(self, limit: Callable[[], float] = lambda: math.inf) -> None:
        self._limit = limit
        self._events: deque[AwaitedEvent] = deque()  # taken and added to by several threads
        self._waited = 0.0
        self._look_through_at = _LOOK_THROUGH_AFTER
        self._over = False

    def add(self, event: AwaitedEvent) -> None:
        """Take one accepted event."""
        if self._over:
            return
        self._events.append(event)
        if len(self._events) > self._look_through_at:  # a WebSocket may be open for days
            self._events.extend([one for one in self._take() if not one.stored])
            self._look_through_at = len(self._events) + _LOOK_THROUGH_AFTER

    def wait(self, *, may_raise: bool = False) -> None:
        """Wait until what was collected is stored, within what is left of the deadline.

        What is late then is logged, printed or (with ``may_raise``) raised, as the settings say.
        """
        events = self._take()
        if not events:
            return
        begun = Clock.monotonic()
        with JointWait(_refs(events)) as joint:
            joint.wait(begun + self._seconds_left(events))
        self._end(events, begun, may_raise)

    async def wait_async(self, *, may_raise: bool = False) -> None:
        """Do as :meth:`wait` does, without holding up the event loop."""
        events = self._take()
        if not events:
            return
        ended, begun = loop_event(), Clock.monotonic()
        deadline = begun + self._seconds_left(events)
        with JointWait(_refs(events), ended.set_from_thread) as joint:
            while (seconds := joint.next_look(deadline)) > 0:
                await ended.wait(seconds)
        self._end(events, begun, may_raise)

    def response_has_ended(self) -> None:
        """Give what comes after the response (background tasks) a deadline of its own."""
        self._waited = 0.0

    def close(self) -> None:
        """Collect nothing more."""
        self._over = True

    def _take(self) -> list[AwaitedEvent]:
        events: list[AwaitedEvent] = []
        with suppress(IndexError):
            while True:
                events.append(self._events.popleft())
        return events

    def _seconds_left(self, events: list[AwaitedEvent]) -> float:
        return max(min(events[0].late.deadline_seconds - self._waited, self._limit()), 0.0)

    def _end(self, events: list[AwaitedEvent], begun: float, may_raise: bool) -> None:
        self._waited += Clock.monotonic() - begun
        events[0].late.handle(events, may_raise=may_raise)


def _refs(events: Iterable[AwaitedEvent]) -> list[AwaitedRef]:
    return [ref for event in events for ref in event.refs]
