"""Where a table's description comes from, and a trial of the insert: one module for each sink."""

from __future__ import annotations

from collections.abc import Callable

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.table.catalogs.base import TableCatalog
from otel_audit_exporter.table.catalogs.postgres import PostgresTable
from otel_audit_exporter.table.catalogs.postgrest import PostgrestTable
from otel_audit_exporter.table.catalogs.sqlite import SQLiteTable
from otel_audit_exporter.table.target import table_exporter

__all__ = ["TableCatalog", "table_source"]


def table_source(settings: Settings) -> TableCatalog:
    """Return the source for the first chosen exporter with a table.

    Raises :class:`AuditConfigurationError` where there is none, or its settings are missing or wrong.
    """
    name = table_exporter(settings)
    makers: dict[str, Callable[[Settings], TableCatalog]] = {
        "postgres": PostgresTable,
        "supabase": PostgrestTable,
        "sqlite": SQLiteTable,
    }
    try:
        return makers[name](settings)
    except (ValueError, ImportError) as error:
        raise AuditConfigurationError(f"exporter {name}: {error}") from None
