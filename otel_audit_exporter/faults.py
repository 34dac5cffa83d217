"""The faults of sinks, under the path that users' own sinks import: see :mod:`otel_audit_exporter.sinks.verdict`."""

from otel_audit_exporter.sinks.http_rules import classify_http, describe_http, parse_retry_after
from otel_audit_exporter.sinks.sqlstate_rules import classify_sqlstate, describe_sqlstate
from otel_audit_exporter.sinks.verdict import FOREIGN_KEY_CODES, Fault, Verdict

__all__ = [
    "FOREIGN_KEY_CODES",
    "Fault",
    "Verdict",
    "classify_http",
    "classify_sqlstate",
    "describe_http",
    "describe_sqlstate",
    "parse_retry_after",
]
