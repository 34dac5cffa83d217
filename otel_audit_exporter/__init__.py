"""Audit events as OpenTelemetry log records, landed as rows: none lost, none doubled, and all of it visible."""

from otel_audit_exporter.api import audit_event, flush_audit, get_audit_stats, shutdown_audit
from otel_audit_exporter.configure import attach_audit, configure_audit, get_audit_pipeline
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
from otel_audit_exporter.pipeline import AuditPipeline
from otel_audit_exporter.receipts import AuditReceipt, PendingReceipt
from otel_audit_exporter.stats import AuditStats

__all__ = [
    "AuditConfigurationError",
    "AuditDeliveryError",
    "AuditError",
    "AuditEvent",
    "AuditEventError",
    "AuditPipeline",
    "AuditReceipt",
    "AuditShutdownError",
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
    "audit_event",
    "configure_audit",
    "flush_audit",
    "get_audit_pipeline",
    "get_audit_stats",
    "shutdown_audit",
]
__version__ = "0.1.0"
