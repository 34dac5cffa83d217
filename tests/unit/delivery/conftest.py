"""A log in memory, and clocks that a test sets."""

from __future__ import annotations

import pytest

from otel_audit_exporter.delivery.channel import DeliveryChannel, DeliveryOptions
from otel_audit_exporter.outbox.dead_letter_store import MemoryDeadLetters
from otel_audit_exporter.outbox.log import OutboxLog
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.base import Sink
from tests.support.raw_logs import memory_log


def memory_channel(sink: Sink) -> DeliveryChannel:
    """A channel whose outbox and dead letters are in memory."""
    options = DeliveryOptions(outbox="memory")
    return DeliveryChannel(
        "channel", sink, list, directories=[], dead_letters=MemoryDeadLetters(), options=options, identity="test"
    )


class Times:
    """The clocks, which stand still unless a test moves them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monotonic, self.wall = 1000.0, 5000.0
        monkeypatch.setattr(Clock, "monotonic", lambda: self.monotonic)
        monkeypatch.setattr(Clock, "wall", lambda: self.wall)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    return Times(monkeypatch)


@pytest.fixture
def log() -> OutboxLog:
    return memory_log()
