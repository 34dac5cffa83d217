"""Rows read back as events, page by page, from any sink with a table."""

from otel_audit_exporter.table.readers.query import EventQuery, QueryError
from otel_audit_exporter.table.readers.reader import EventReader, open_reader
from otel_audit_exporter.table.readers.stored_event import EventCount, StoredEvent

__all__ = ["EventCount", "EventQuery", "EventReader", "QueryError", "StoredEvent", "open_reader"]
