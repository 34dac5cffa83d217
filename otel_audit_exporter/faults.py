"""The faults of sinks, under the path that users' own sinks import: see :mod:`otel_audit_exporter.sinks.verdict`."""

from otel_audit_exporter.sinks.verdict import (
    FOREIGN_KEY_CODES,
    Fault,
    Verdict,
    classify_http,
    classify_sqlstate,
    describe_http,
    describe_sqlstate,
    parse_retry_after,
)

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
