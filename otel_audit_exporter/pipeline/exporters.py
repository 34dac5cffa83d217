"""The exporters, one for every kind of sink: what each needs, and where its rows go."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.delivery.channel import RowsOf
from otel_audit_exporter.event.fields import FIELDS
from otel_audit_exporter.event.serialization import split
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.sinks.base import Sink
from otel_audit_exporter.sinks.forwarding import ForwardingSink, shown_endpoint
from otel_audit_exporter.sinks.memory import MemorySink
from otel_audit_exporter.table.mapping import TableMapping


class InMemoryAuditExporter(AuditExporter):
    """Keep rows in memory, for tests and for development: ``rows`` is the table.

    A row whose id is known is ignored, as in a real table. Everything is gone with the process.
    """

    exporter_name = "memory"
    adopts = False

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows so far, in the order of their arrival: column to value."""
        sink = self._sink
        assert isinstance(sink, MemorySink)
        return sink.rows

    def clear(self) -> None:
        """Forget the rows."""
        sink = self._sink
        assert isinstance(sink, MemorySink)
        sink.clear()

    def _make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        return MemorySink(key_columns=_written_keys(settings, mapping))


class SQLiteAuditExporter(AuditExporter):
    """Write rows to a table in a SQLite file, which is made where it is missing: the embedded default.

    Arguments are those of ``configure_audit``; ``path`` is the file (``OTEL_AUDIT_SQLITE_PATH``, else
    ``pms_audit_log.db``).
    """

    exporter_name = "sqlite"

    def __init__(self, path: str | os.PathLike[str] | None = None, **options: Any) -> None:
        super().__init__(path=path, **options)

    def _make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        from otel_audit_exporter.sinks.sqlite import SQLiteSink

        return SQLiteSink(
            settings.path,
            table=settings.table,
            columns=mapping.columns,
            key_columns=_written_keys(settings, mapping),
            json_columns=mapping.json_columns,
        )

    def _place(self, settings: Settings) -> str:
        return str(Path(settings.path).absolute())


class SupabaseAuditExporter(AuditExporter):
    """Write rows to a table of a Supabase project, in bulk, through its REST interface.

    ``url`` and ``key`` default to ``SUPABASE_URL`` and ``SUPABASE_SERVICE_ROLE_KEY``; ``token`` is that of a
    lesser role (see the README's chapter on privileges); of a ``client`` (a ready supabase client) URL and key are
    taken. Other arguments are those of ``configure_audit``.
    """

    exporter_name = "supabase"
    address_settings = ("url", "key", "token")

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        token: str | Callable[[], str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**expand_client(dict(url=url, key=key, token=token, **options)))

    def _missing(self, settings: Settings) -> str | None:
        missing = []
        if not settings.url:
            missing.append("the project's address (argument url, or SUPABASE_URL)")
        if not settings.key:
            missing.append("its key (argument key, or SUPABASE_SERVICE_ROLE_KEY)")
        return f"missing: {' and '.join(missing)}" if missing else None

    def _make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        from otel_audit_exporter.sinks.supabase.sink import SupabaseSink

        return SupabaseSink(
            settings.url,
            settings.key,
            token=settings.token,
            table=settings.table,
            schema=settings.schema,
            columns=mapping.columns,
            key_columns=settings.key_columns or (mapping.key_column,),
            id_column=mapping.key_column,
        )

    def _place(self, settings: Settings) -> str:
        from otel_audit_exporter.sinks.supabase.sink import project_url

        try:
            return project_url(settings.url) if settings.url else ""
        except ValueError:
            return ""


class PostgresAuditExporter(AuditExporter):
    """Write rows to a PostgreSQL table over a direct connection, in bulk (extra ``postgres``).

    ``dsn`` defaults to ``OTEL_AUDIT_POSTGRES_DSN`` and ``DATABASE_URL``: ``postgresql://...`` (also
    ``postgres://`` and ``postgresql+driver://``), or libpq's ``key=value`` pairs. Other arguments are those of
    ``configure_audit``.
    """

    exporter_name = "postgres"
    address_settings = ("dsn",)
    _address = ""  # of a DSN that can be read

    def __init__(self, dsn: str | None = None, **options: Any) -> None:
        super().__init__(dsn=dsn, **options)

    def _missing(self, settings: Settings) -> str | None:
        return None if settings.dsn else "missing: the connection (argument dsn, or OTEL_AUDIT_POSTGRES_DSN)"

    def _make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        from otel_audit_exporter.sinks.postgres.sink import PostgresSink

        sink = PostgresSink(
            settings.dsn,
            table=settings.table,
            schema=settings.schema,
            columns=mapping.columns,
            key_columns=settings.key_columns,
            id_column=mapping.key_column,
            json_columns=mapping.json_columns,
        )
        self._address = sink.target.split(" ")[0]
        return sink

    def _place(self, settings: Settings) -> str:
        return self._address


class ForwardingAuditExporter(AuditExporter):
    """Give audit records to another ``LogRecordExporter``, with this library's outbox before it.

    ``exporter`` is any exporter of the SDK's interface; a row is stored for us when it answers SUCCESS, and a
    FAILURE is tried again for as long as it takes. It gets whole records, no columns apply.
    """

    exporter_name = "forwarding"
    restarts = False

    def __init__(self, exporter: LogRecordExporter, *, resource: Resource | None = None, **options: Any) -> None:
        self._forward_to(exporter, resource)
        super().__init__(**options)

    @classmethod
    def forwarding(cls, exporter: LogRecordExporter, settings: Settings, resource: Resource | None) -> AuditExporter:
        """Build one for a pipeline."""
        made = cls.__new__(cls)
        made._forward_to(exporter, resource)
        made._start(settings, strict=True)
        return made

    def close(self, deadline: float, *, patient: bool = True) -> bool:
        """End the lane as every exporter does, and the other exporter with it, by the same deadline."""
        if isinstance(self._sink, ForwardingSink):
            self._sink.close_by = deadline
        return super().close(deadline, patient=patient)

    def _forward_to(self, exporter: LogRecordExporter, resource: Resource | None) -> None:
        self._exporter = exporter
        self._resource = resource
        self.exporter_name = type(exporter).__name__

    def _make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        return ForwardingSink(self._exporter, self._resource, name=self.exporter_name)

    def _rows_of(self) -> RowsOf:
        return _whole

    def _place(self, settings: Settings) -> str:
        return shown_endpoint(self._exporter) or self.exporter_name


class SinkAuditExporter(AuditExporter):
    """Write rows with a sink of the application's own, with this library's outbox before it."""

    _given: Sink

    @classmethod
    def around(cls, sink: Sink, settings: Settings) -> AuditExporter:
        """Build one for a pipeline."""
        made = cls.__new__(cls)
        made._given, made.exporter_name = sink, sink.name
        made._start(settings, strict=True)
        return made

    def _make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        return self._given

    def _place(self, settings: Settings) -> str:
        return self._given.target


class OTLPAuditExporter(AuditExporter):
    """Send audit records by OTLP over HTTP, with the official exporter (extra ``otlp``).

    Endpoint, headers and certificates are those of ``OTEL_EXPORTER_OTLP_LOGS_*`` and ``OTEL_EXPORTER_OTLP_*``, or
    the argument ``endpoint`` (the whole URL, with ``/v1/logs``). It sends whole records, no columns apply.
    """

    exporter_name = "otlp"
    address_settings = ("endpoint",)
    _resource: Resource | None = None
    _address = ""

    def __init__(self, *, resource: Resource | None = None, **options: Any) -> None:
        self._resource = resource
        super().__init__(**options)

    @classmethod
    def from_settings(cls, settings: Settings, resource: Resource | None = None) -> Self:
        made = cls.__new__(cls)
        made._resource = resource
        made._start(settings, strict=True)
        return made

    def _make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        try:
            from otel_audit_exporter.sinks.otlp import OTLPSink
        except ImportError:
            raise ImportError('the official exporter is missing: pip install "otel-audit-exporter[otlp]"') from None
        timeout = settings.export_timeout_millis / 1000
        sink = OTLPSink(self._resource, endpoint=settings.endpoint, timeout_seconds=timeout)
        self._address = sink.target
        return sink

    def _rows_of(self) -> RowsOf:
        return _whole

    def _place(self, settings: Settings) -> str:
        return self._address


class ConsoleAuditExporter(AuditExporter):
    """Print every event to standard output, for development: a readable line, or JSON with ``format="json"``."""

    exporter_name = "console"
    adopts = False

    def _make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        from otel_audit_exporter.sinks.console import ConsoleSink

        return ConsoleSink(as_json=settings.format == "json")

    def _rows_of(self) -> RowsOf:
        return _whole


class NoAuditExporter(AuditExporter):
    """Switch auditing off on purpose: events are checked, counted and thrown away."""

    exporter_name = "none"
    adopts = False

    def _make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        from otel_audit_exporter.sinks.null import NullSink

        logger.warning("audit: switched off on purpose (exporter none): events are not recorded anywhere")
        return NullSink()


def _written_keys(settings: Settings, mapping: TableMapping) -> Sequence[str]:
    """Return the key's columns, of a table that gives none of them a value by itself."""
    keys: Sequence[str] = settings.key_columns or (mapping.key_column,)
    unwritten = [name for name in keys if name not in mapping.columns]
    if unwritten:
        raise ValueError(f"key_columns (OTEL_AUDIT_KEY_COLUMNS): no field goes to {', '.join(unwritten)} (see columns)")
    return keys


def expand_client(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the URL and the key of a ready supabase client among them in its place."""
    taken = dict(options)
    client = taken.pop("client", None)
    if client is not None:
        taken["url"] = taken.get("url") or str(getattr(client, "supabase_url", "")) or None
        taken["key"] = taken.get("key") or getattr(client, "supabase_key", None)
    return taken


def _whole(bodies: Sequence[bytes]) -> list[bytes]:
    if not all(len(split(body)) == len(FIELDS) for body in bodies):
        raise ValueError("no event")
    return list(bodies)


EXPORTERS: Final[Mapping[str, type[AuditExporter]]] = {
    "sqlite": SQLiteAuditExporter,
    "supabase": SupabaseAuditExporter,
    "postgres": PostgresAuditExporter,
    "otlp": OTLPAuditExporter,
    "console": ConsoleAuditExporter,
    "memory": InMemoryAuditExporter,
    "none": NoAuditExporter,
}
