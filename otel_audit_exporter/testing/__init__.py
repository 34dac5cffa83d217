"""What tests of applications need: see what was audited, without a sink."""

from otel_audit_exporter.testing.audit_log import AuditLog

__all__ = ["AuditLog"]
