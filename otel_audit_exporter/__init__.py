"""Audit events as OpenTelemetry log records, landed as rows: none lost, none doubled, and all of it visible."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_audit_exporter.api.audited import audited
    from otel_audit_exporter.api.events import audit_event, flush_audit, get_audit_stats, shutdown_audit
    from otel_audit_exporter.api.executor import audit_executor
    from otel_audit_exporter.api.reading import count_events, read_events, read_events_async
    from otel_audit_exporter.api.span_processor import AuditSpanProcessor
    from otel_audit_exporter.api.transactional import write_audit_event, write_audit_event_async
    from otel_audit_exporter.delivery.receipts import AuditReceipt, PendingReceipt
    from otel_audit_exporter.errors import (
        AuditConfigurationError,
        AuditDeliveryError,
        AuditError,
        AuditEventError,
        AuditShutdownError,
        OutboxError,
        OutboxFullError,
    )
    from otel_audit_exporter.event.audit_event import AuditEvent
    from otel_audit_exporter.event.context import audit_context, update_audit_context
    from otel_audit_exporter.event.diff import changed
    from otel_audit_exporter.event.identity import NOBODY
    from otel_audit_exporter.observability.health import AuditHealth
    from otel_audit_exporter.observability.stats import AuditStats
    from otel_audit_exporter.outbox.dead_letter_store import DeadLetter
    from otel_audit_exporter.pipeline.configure import attach_audit, configure_audit
    from otel_audit_exporter.pipeline.current import get_audit_pipeline
    from otel_audit_exporter.pipeline.exporters import (
        InMemoryAuditExporter,
        PostgresAuditExporter,
        SQLiteAuditExporter,
        SupabaseAuditExporter,
    )
    from otel_audit_exporter.pipeline.pipeline import AuditPipeline
    from otel_audit_exporter.table.readers.stored_event import EventCount, StoredEvent

__all__ = [
    "NOBODY",
    "AuditConfigurationError",
    "AuditDeliveryError",
    "AuditError",
    "AuditEvent",
    "AuditEventError",
    "AuditHealth",
    "AuditPipeline",
    "AuditReceipt",
    "AuditShutdownError",
    "AuditSpanProcessor",
    "AuditStats",
    "DeadLetter",
    "EventCount",
    "InMemoryAuditExporter",
    "OutboxError",
    "OutboxFullError",
    "PendingReceipt",
    "PostgresAuditExporter",
    "SQLiteAuditExporter",
    "StoredEvent",
    "SupabaseAuditExporter",
    "attach_audit",
    "audit_context",
    "audit_event",
    "audit_executor",
    "audited",
    "changed",
    "configure_audit",
    "count_events",
    "flush_audit",
    "get_audit_pipeline",
    "get_audit_stats",
    "read_events",
    "read_events_async",
    "shutdown_audit",
    "update_audit_context",
    "write_audit_event",
    "write_audit_event_async",
]
__version__ = "0.2.0"

# Importing this package costs next to nothing: its modules are imported when a name of theirs is first used. What
# handlers call is imported all at once, so that none of it is imported later, between events, where a fork could come
# in between.
_HANDLERS = (
    ("api.events", ("audit_event", "flush_audit", "get_audit_stats", "shutdown_audit")),
    ("api.audited", ("audited",)),
    ("api.executor", ("audit_executor",)),
    ("event.audit_event", ("AuditEvent",)),
    ("event.context", ("audit_context", "update_audit_context")),
    ("event.diff", ("changed",)),
    ("event.identity", ("NOBODY",)),
    ("pipeline.configure", ("attach_audit", "configure_audit")),
    ("pipeline.current", ("get_audit_pipeline",)),
    (
        "errors",
        (
            "AuditConfigurationError",
            "AuditDeliveryError",
            "AuditError",
            "AuditEventError",
            "AuditShutdownError",
            "OutboxError",
            "OutboxFullError",
        ),
    ),
)
# What is configured, and what it gives.
_PIPELINE = (
    ("pipeline.building", ()),
    ("pipeline.pipeline", ("AuditPipeline",)),
    (
        "pipeline.exporters",
        ("InMemoryAuditExporter", "PostgresAuditExporter", "SQLiteAuditExporter", "SupabaseAuditExporter"),
    ),
    ("delivery.receipts", ("AuditReceipt", "PendingReceipt")),
    ("observability.health", ("AuditHealth",)),
    ("observability.stats", ("AuditStats",)),
    ("outbox.dead_letter_store", ("DeadLetter",)),
)
_READING = (
    ("api.reading", ("count_events", "read_events", "read_events_async")),
    ("table.readers.stored_event", ("EventCount", "StoredEvent")),
)
_TRANSACTIONAL = (("api.transactional", ("write_audit_event", "write_audit_event_async")),)
_SPANS = (("api.span_processor", ("AuditSpanProcessor",)),)
_GROUPS = (_HANDLERS, _PIPELINE, _READING, _TRANSACTIONAL, _SPANS)


def __getattr__(name: str) -> Any:
    group = next((group for group in _GROUPS if any(name in names for _, names in group)), None)
    if group is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module, names in group:
        home = import_module(f"{__name__}.{module}")
        globals().update({one: getattr(home, one) for one in names})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
