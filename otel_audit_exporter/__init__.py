"""Audit events as OpenTelemetry log records, landed as rows: none lost, none doubled, and all of it visible."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_audit_exporter.api import audit_event, flush_audit, get_audit_stats, shutdown_audit
    from otel_audit_exporter.capture import audited
    from otel_audit_exporter.changes import changed
    from otel_audit_exporter.configure import attach_audit, configure_audit, get_audit_pipeline
    from otel_audit_exporter.context import audit_context, update_audit_context
    from otel_audit_exporter.deadletters import DeadLetter
    from otel_audit_exporter.errors import (
        AuditConfigurationError,
        AuditDeliveryError,
        AuditError,
        AuditEventError,
        AuditShutdownError,
        OutboxError,
        OutboxFullError,
    )
    from otel_audit_exporter.event import AuditEvent
    from otel_audit_exporter.exporters import (
        InMemoryAuditExporter,
        PostgresAuditExporter,
        SQLiteAuditExporter,
        SupabaseAuditExporter,
    )
    from otel_audit_exporter.health import AuditHealth
    from otel_audit_exporter.pipeline import AuditPipeline
    from otel_audit_exporter.receipts import AuditReceipt, PendingReceipt
    from otel_audit_exporter.span_processor import AuditSpanProcessor
    from otel_audit_exporter.stats import AuditStats
    from otel_audit_exporter.transactional import write_audit_event, write_audit_event_async

__all__ = [
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
    "InMemoryAuditExporter",
    "OutboxError",
    "OutboxFullError",
    "PendingReceipt",
    "PostgresAuditExporter",
    "SQLiteAuditExporter",
    "SupabaseAuditExporter",
    "attach_audit",
    "audit_context",
    "audit_event",
    "audited",
    "changed",
    "configure_audit",
    "flush_audit",
    "get_audit_pipeline",
    "get_audit_stats",
    "shutdown_audit",
    "update_audit_context",
    "write_audit_event",
    "write_audit_event_async",
]
__version__ = "0.1.0"

# Importing this package costs next to nothing: its modules are imported when a name of theirs is first used, and then
# all at once, so that none is imported later, between events, where a fork could come in between.
_NAMES = {
    "api": (
        "audit_event",
        "flush_audit",
        "get_audit_stats",
        "shutdown_audit",
    ),
    "capture": ("audited",),
    "changes": ("changed",),
    "configure": (
        "attach_audit",
        "configure_audit",
        "get_audit_pipeline",
    ),
    "context": (
        "audit_context",
        "update_audit_context",
    ),
    "deadletters": ("DeadLetter",),
    "errors": (
        "AuditConfigurationError",
        "AuditDeliveryError",
        "AuditError",
        "AuditEventError",
        "AuditShutdownError",
        "OutboxError",
        "OutboxFullError",
    ),
    "event": ("AuditEvent",),
    "exporters": (
        "InMemoryAuditExporter",
        "PostgresAuditExporter",
        "SQLiteAuditExporter",
        "SupabaseAuditExporter",
    ),
    "health": ("AuditHealth",),
    "pipeline": ("AuditPipeline",),
    "receipts": (
        "AuditReceipt",
        "PendingReceipt",
    ),
    "span_processor": ("AuditSpanProcessor",),
    "stats": ("AuditStats",),
    "transactional": (
        "write_audit_event",
        "write_audit_event_async",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module, names in _NAMES.items():
        home = import_module(f"{__name__}.{module}")
        globals().update({one: getattr(home, one) for one in names})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
