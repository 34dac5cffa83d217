"""Rows that leave a table by their age, batch by batch, from any sink with a table."""

from otel_audit_exporter.table.purges.age import boundary
from otel_audit_exporter.table.purges.purge import Purge, open_purge

__all__ = ["Purge", "boundary", "open_purge"]
