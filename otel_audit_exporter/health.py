"""Health under the path that applications import: see :mod:`otel_audit_exporter.observability.health`."""

from otel_audit_exporter.observability.health import AuditHealth, HealthThresholds

__all__ = ["AuditHealth", "HealthThresholds"]
