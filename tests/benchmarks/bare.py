"""What a call is held against: the SDK's own ``Logger.emit`` with the same nine attributes, delivered nowhere."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence

from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult

from tests.benchmarks.events import ENTITY, NEW, OLD, USER, YACHT, Call


class NoExporter(LogRecordExporter):
    """Takes everything and does nothing."""

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        return True

    def shutdown(self) -> None:
        """There is nothing to end."""


def bare_emit() -> tuple[Call, Call]:
    """Return the call, and what waits until the SDK's queue is empty."""
    provider = LoggerProvider(shutdown_on_exit=False)
    # A queue that takes a whole run: dropping records would be cheaper than keeping them.
    processor = BatchLogRecordProcessor(NoExporter(), max_queue_size=1_000_000)
    provider.add_log_record_processor(processor)
    return bare_emit_of(provider), provider.force_flush


def bare_emit_of(provider: LoggerProvider) -> Call:
    """Return the call that emits through this provider."""
    logger = provider.get_logger("bench")

    def emit() -> None:
        logger.emit(
            timestamp=time.time_ns(),
            event_name="receiving.create",
            attributes={
                "audit.record.id": str(uuid.uuid4()),
                "audit.tenant.id": YACHT,
                "audit.target.type": "receiving",
                "audit.action": "create",
                "audit.target.id": ENTITY,
                "audit.actor.id": USER,
                "audit.change.old_values": json.dumps(OLD),
                "audit.change.new_values": json.dumps(NEW),
                "audit.outcome": "success",
            },
        )

    return emit
