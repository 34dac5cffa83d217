"""The exporters, one for every kind of sink."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.config.trail_settings import expand_client
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.sink_factories import (
    ConsoleSinkFactory,
    ForwardingSinkFactory,
    GivenSinkFactory,
    MemorySinkFactory,
    NullSinkFactory,
    OTLPSinkFactory,
    PostgresSinkFactory,
    SQLiteSinkFactory,
    SupabaseSinkFactory,
)
from otel_audit_exporter.sinks.base import Sink
from otel_audit_exporter.sinks.forwarding import ForwardingSink
from otel_audit_exporter.sinks.memory import MemorySink


class InMemoryAuditExporter(AuditExporter):
    """Keep rows in memory, for tests and for development: ``rows`` is the table.

    A row whose id is known is ignored, as in a real table. Everything is gone with the process.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(MemorySinkFactory(), **options)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows so far, in the order of their arrival: column to value."""
        return self._memory.rows

    def clear(self) -> None:
        """Forget the rows."""
        self._memory.clear()

    @property
    def _memory(self) -> MemorySink:
        sink = self.sink
        assert isinstance(sink, MemorySink)
        return sink


class SQLiteAuditExporter(AuditExporter):
    """Write rows to a table in a SQLite file, which is made where it is missing: the embedded default.

    Arguments are those of ``configure_audit``; ``path`` is the file (``OTEL_AUDIT_SQLITE_PATH``, else
    ``pms_audit_log.db``).
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, **options: Any) -> None:
        super().__init__(SQLiteSinkFactory(), path=path, **options)


class SupabaseAuditExporter(AuditExporter):
    """Write rows to a table of a Supabase project, in bulk, through its REST interface.

    ``url`` and ``key`` default to ``SUPABASE_URL`` and ``SUPABASE_SERVICE_ROLE_KEY``; ``token`` is that of a
    lesser role (see the documentation: least privilege); of a ``client`` (a ready supabase client) URL and key are
    taken. Other arguments are those of ``configure_audit``.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        token: str | Callable[[], str] | None = None,
        **options: Any,
    ) -> None:
        expanded = expand_client(dict(url=url, key=key, token=token, **options))
        super().__init__(SupabaseSinkFactory(), **expanded)


class PostgresAuditExporter(AuditExporter):
    """Write rows to a PostgreSQL table over a direct connection, in bulk (extra ``postgres``).

    ``dsn`` defaults to ``OTEL_AUDIT_POSTGRES_DSN`` and ``DATABASE_URL``: ``postgresql://...`` (also
    ``postgres://`` and ``postgresql+driver://``), or libpq's ``key=value`` pairs. Other arguments are those of
    ``configure_audit``.
    """

    def __init__(self, dsn: str | None = None, **options: Any) -> None:
        super().__init__(PostgresSinkFactory(), dsn=dsn, **options)


class ForwardingAuditExporter(AuditExporter):
    """Give audit records to another ``LogRecordExporter``, with this library's outbox before it.

    ``exporter`` is any exporter of the SDK's interface; a row is stored for us when it answers SUCCESS, and a
    FAILURE is tried again for as long as it takes. It gets whole records, no columns apply.
    """

    def __init__(
        self,
        exporter: LogRecordExporter,
        *,
        resource: Resource | None = None,
        **options: Any,
    ) -> None:
        super().__init__(ForwardingSinkFactory(exporter, resource), **options)

    def close(self, deadline: float, *, patient: bool = True) -> bool:
        """End the delivery as every exporter does, and the other exporter with it, by the same deadline."""
        if isinstance(self.sink, ForwardingSink):
            self.sink.close_by = deadline
        return super().close(deadline, patient=patient)


class SinkAuditExporter(AuditExporter):
    """Write rows with a sink of the application's own, with this library's outbox before it."""

    def __init__(self, sink: Sink, **options: Any) -> None:
        super().__init__(GivenSinkFactory(sink), **options)


class OTLPAuditExporter(AuditExporter):
    """Send audit records by OTLP over HTTP, with the official exporter (extra ``otlp``).

    Endpoint, headers and certificates are those of ``OTEL_EXPORTER_OTLP_LOGS_*`` and ``OTEL_EXPORTER_OTLP_*``, or
    the argument ``endpoint`` (the whole URL, with ``/v1/logs``). It sends whole records, no columns apply.
    """

    def __init__(self, *, resource: Resource | None = None, **options: Any) -> None:
        super().__init__(OTLPSinkFactory(resource), **options)


class ConsoleAuditExporter(AuditExporter):
    """Print every event to standard output, for development: a readable line, or JSON with ``format="json"``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(ConsoleSinkFactory(), **options)


class NoAuditExporter(AuditExporter):
    """Switch auditing off on purpose: events are checked, counted and thrown away."""

    def __init__(self, **options: Any) -> None:
        super().__init__(NullSinkFactory(), **options)


# By the name that `exporter` (OTEL_AUDIT_EXPORTER) takes.
EXPORTERS: Final[Mapping[str, Callable[..., AuditExporter]]] = {
    "sqlite": SQLiteAuditExporter,
    "supabase": SupabaseAuditExporter,
    "postgres": PostgresAuditExporter,
    "otlp": OTLPAuditExporter,
    "console": ConsoleAuditExporter,
    "memory": InMemoryAuditExporter,
    "none": NoAuditExporter,
}


def make_exporter(
    name: str, settings: Settings, resource: Resource | None = None, *, needs_address: bool = True
) -> AuditExporter:
    """Make the exporter of a name in :data:`EXPORTERS`. Raises :class:`AuditConfigurationError` for what is missing.

    ``needs_address=False``: where its address is missing, it takes no event without the name of a database.
    """
    if name == "otlp":
        return OTLPAuditExporter(resource=resource, settings=settings)
    return EXPORTERS[name](settings=settings, needs_address=needs_address)
