"""What tests of applications and of sinks need: what was audited, a sink that goes wrong, what every sink keeps to."""

from otel_audit_exporter.testing.audit_log import AuditLog
from otel_audit_exporter.testing.conformance import SinkConformance
from otel_audit_exporter.testing.faulty_sink import FaultySink

__all__ = ["AuditLog", "FaultySink", "SinkConformance"]
