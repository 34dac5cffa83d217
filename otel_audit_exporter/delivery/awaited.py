"""The events whose receipts are waited for: they are offered next, before any backlog."""

from __future__ import annotations

from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Final

from otel_audit_exporter.delivery.batch import Entry
from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.outbox.stripe import EventRef

_AT_ONCE: Final = 200


class AwaitedEvents:
    """Queues the events of one channel that somebody waits for. Takes no lock."""

    def __init__(self, channel: DeliveryChannel) -> None:
        self._channel = channel
        self._refs: SimpleQueue[EventRef] = SimpleQueue()

    def put(self, refs: Sequence[EventRef]) -> None:
        """Queue events."""
        for ref in refs:
            self._refs.put(ref)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is queued."""
        return self._refs.empty()

    def take(self) -> list[Entry]:
        """Take the next of them for delivery, without those that somebody has in hand."""
        entries: list[Entry] = []
        while len(entries) < _AT_ONCE:
            try:
                ref = self._refs.get_nowait()
            except Empty:
                break
            entries += self._channel.cursor.take_one(ref) or self._channel.refusals.take_one(ref)
        return entries


def of_this_process(refs: Sequence[EventRef]) -> list[EventRef]:
    """Return the events whose logs this process still holds. The others belong to the process that took them over."""
    return [ref for ref in refs if not ref[0].log.released]
