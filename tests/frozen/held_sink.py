"""A sink that takes rows when it is let, and counts how often it was asked."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from otel_audit_exporter.sinks.base import SinkError, seconds_left
from otel_audit_exporter.sinks.memory import MemorySink
from otel_audit_exporter.sinks.verdict import Fault, Verdict


class HeldSink(MemorySink):
    """Takes rows once ``open`` is set, and refuses those of the action ``bad``; ``requests``: rows in each insert."""

    def __init__(self, *, is_open: bool = True) -> None:
        super().__init__()
        self.open = threading.Event()
        self.requests: list[int] = []
        self.asked = threading.Event()
        if is_open:
            self.open.set()

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        self.requests.append(len(rows))
        self.asked.set()
        if not self.open.wait(seconds_left(deadline)):
            raise SinkError(Verdict(Fault.TRANSIENT, perhaps_stored=True), "no answer in time")
        if any(b'"bad"' in row for row in rows):
            raise SinkError(Verdict(Fault.RECORD, park_at_once=True), "refused", code="22P02")
        super().insert(rows, deadline)

    @property
    def ids(self) -> list[str]:
        return [row["id"] for row in self.rows]
