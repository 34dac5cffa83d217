"""A sink that does as it is told, and events for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from otel_audit_exporter import PendingReceipt, audit_event
from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.factory import SinkFactory
from otel_audit_exporter.sinks.base import Sink, SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.table.mapping import TableMapping

AWAY = SinkError(Verdict(Fault.TRANSIENT), "cannot connect to the database", code="ConnectError")
MISCONFIGURED = SinkError(Verdict(Fault.CONFIGURATION, remedy="correct the key"), "the key is wrong", status=401)
BAD_ROW = SinkError(Verdict(Fault.RECORD, park_at_once=True), "invalid input syntax for type uuid", code="22P02")

Behaviour = Callable[[Sequence[bytes]], None]


class StubSink:
    """Counts what it takes; ``behaviour`` sees each batch first, and may raise or wait."""

    name = "stub"
    target = "stub"

    def __init__(self) -> None:
        self.taken = 0
        self.behaviour: Behaviour = lambda rows: None
        self._lock = threading.Lock()

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        self.behaviour(rows)
        with self._lock:
            self.taken += len(rows)

    def fail(self, error: SinkError, containing: bytes = b"") -> None:
        """Raise ``error`` for every batch in which something is found."""

        def refuse(rows: Sequence[bytes]) -> None:
            if any(containing in row for row in rows):
                raise error

        self.behaviour = refuse

    def heal(self) -> None:
        self.behaviour = lambda rows: None

    def close(self) -> None:
        pass

    def renew_after_fork(self) -> None:
        self._lock = threading.Lock()


class StubSinkFactory(SinkFactory):
    name = "stub"

    def make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        return StubSink()


class StubExporter(AuditExporter):
    """An exporter around a :class:`StubSink`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(StubSinkFactory(), **options)

    @property
    def sink(self) -> StubSink:
        sink = super().sink
        assert isinstance(sink, StubSink)
        return sink


def emit(count: int, *, action: str = "update_part", **said: Any) -> list[PendingReceipt]:
    """Emit so many events."""
    said = {"entity_type": "part", "yacht_id": "yacht", "user_id": "user"} | said
    return [audit_event(action, entity_id=f"part-{n}", **said) for n in range(count)]
