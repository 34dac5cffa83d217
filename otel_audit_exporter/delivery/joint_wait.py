"""Waits for several events together, so that one delivery serves them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.delivery.completion import CompletionWaiter
from otel_audit_exporter.outbox.stripe import EventRef, is_elsewhere, is_pending
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.threads import Event, call_blocking

_LOOK_AGAIN_SECONDS: Final = 0.5

AwaitedRef = tuple[DeliveryChannel, EventRef]


class JointWait:
    """Waits until all of some events are stored or parked. A context manager; for one thread or task.

    ``on_end`` is called, from any thread, when the last of them has ended.
    """

    def __init__(self, events: Iterable[AwaitedRef], on_end: Callable[[], object] | None = None) -> None:
        self._events = list(events)
        self._on_end = on_end
        self._ended = Event()
        self._watched: list[tuple[AwaitedRef, CompletionWaiter]] = []
        self._unsettled: set[int] = set(range(len(self._events)))

    def __enter__(self) -> JointWait:
        for index, event in enumerate(self._events):
            waiter = CompletionWaiter(partial(self._settle, index))
            self._watched.append((event, waiter))
            event[0].completions.watch(event[1], waiter)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for (channel, ref), waiter in self._watched:
            channel.completions.unwatch(ref, waiter)

    def wait(self, deadline: float) -> None:
        """Have the events delivered, and wait until all have ended or ``deadline`` (monotonic seconds) is there."""
        while (seconds := self.next_look(deadline)) > 0:
            call_blocking(self._ended.wait, seconds)

    def next_look(self, deadline: float) -> float:
        """Have what has not ended delivered; return for how many seconds to wait before the next look, 0: it is over.

        When another process delivers an event, nobody here is notified.
        """
        waiting = [event for event, waiter in self._watched if not waiter.settled and not _is_over(*event)]
        left = deadline - Clock.monotonic()
        if waiting:
            _deliver(waiting)
        return max(min(left, _LOOK_AGAIN_SECONDS), 0.0) if waiting else 0.0

    def _settle(self, index: int) -> None:
        self._unsettled.discard(index)
        if not self._unsettled:
            self._ended.set()
            if self._on_end is not None:
                self._on_end()


def _is_over(channel: DeliveryChannel, ref: EventRef) -> bool:
    return channel.closed or (is_elsewhere(ref) and not is_pending(ref))


def _deliver(events: Sequence[AwaitedRef]) -> None:
    for channel in dict.fromkeys(channel for channel, _ in events):
        channel.deliver_soon([ref for of, ref in events if of is channel])
