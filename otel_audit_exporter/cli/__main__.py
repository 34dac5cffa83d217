"""`python -m otel_audit_exporter.cli` is `otel-audit`."""

from otel_audit_exporter.cli import main

main()
