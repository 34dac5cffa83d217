"""The kinds of sinks: what each needs, and where its rows go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.delivery.channel import RowsOf
from otel_audit_exporter.event.fields import FIELDS
from otel_audit_exporter.event.serialization import split
from otel_audit_exporter.pipeline.factory import SinkFactory
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.sinks.base import Sink
from otel_audit_exporter.sinks.forwarding import ForwardingSink, shown_endpoint
from otel_audit_exporter.sinks.memory import MemorySink
from otel_audit_exporter.table.mapping import TableMapping


class MemorySinkFactory(SinkFactory):
    """Rows in memory."""

    has_settings_only = False
    name = "memory"
    adopts = False
    database_settings = ("schema",)

    def make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        return MemorySink(key_columns=_written_keys(settings, mapping))


class SQLiteSinkFactory(SinkFactory):
    """A table in a SQLite file."""

    name = "sqlite"
    database_settings = ("path",)

    def make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        from otel_audit_exporter.sinks.sqlite import DEFAULT_NOT_NULL, SQLiteSink

        return SQLiteSink(
            settings.path,
            table=settings.table,
            columns=mapping.columns,
            key_columns=_written_keys(settings, mapping),
            json_columns=mapping.json_columns,
            compared_columns=mapping.compared_columns,
            not_null=DEFAULT_NOT_NULL.difference(settings.optional),
        )

    def place(self, settings: Settings) -> str:
        return str(Path(settings.path).absolute())


class SupabaseSinkFactory(SinkFactory):
    """A table of a Supabase project, through its REST interface."""

    name = "supabase"
    address_settings = ("url", "key", "token")
    database_settings = ("url", "key", "token", "schema")

    def missing(self, settings: Settings) -> str | None:
        missing = []
        if not settings.url:
            missing.append("the project's address (argument url, or SUPABASE_URL)")
        if not settings.key:
            missing.append("its key (argument key, or SUPABASE_SERVICE_ROLE_KEY)")
        return f"missing: {' and '.join(missing)}" if missing else None

    def make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        from otel_audit_exporter.sinks.supabase.sink import SupabaseSink

        return SupabaseSink(
            settings.url or "",
            settings.key or "",
            token=settings.token,
            table=settings.table,
            schema=settings.schema,
            columns=mapping.columns,
            key_columns=settings.key_columns or (mapping.key_column,),
            id_column=mapping.key_column,
            compared_columns=mapping.compared_columns,
        )

    def place(self, settings: Settings) -> str:
        from otel_audit_exporter.sinks.supabase.rest_client import project_url

        try:
            return project_url(settings.url) if settings.url else ""
        except ValueError:
            return ""


class PostgresSinkFactory(SinkFactory):
    """A PostgreSQL table, over a direct connection."""

    name = "postgres"
    address_settings = ("dsn",)
    database_settings = ("dsn", "schema")

    def __init__(self) -> None:
        self._address = ""  # of a DSN that can be read

    def missing(self, settings: Settings) -> str | None:
        return None if settings.dsn else "missing: the connection (argument dsn, or OTEL_AUDIT_POSTGRES_DSN)"

    def make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        from otel_audit_exporter.sinks.postgres.sink import PostgresSink

        sink = PostgresSink(
            settings.dsn or "",
            table=settings.table,
            schema=settings.schema,
            columns=mapping.columns,
            key_columns=settings.key_columns,
            id_column=mapping.key_column,
            json_columns=mapping.json_columns,
            compared_columns=mapping.compared_columns,
        )
        self._address = sink.target.split(" ")[0]
        return sink

    def place(self, settings: Settings) -> str:
        return self._address


class ForwardingSinkFactory(SinkFactory):
    """Another exporter of the SDK's interface, which is given whole records."""

    has_settings_only = False
    has_columns = False
    restarts = False

    def __init__(self, exporter: LogRecordExporter, resource: Resource | None) -> None:
        self.name = type(exporter).__name__
        self._exporter = exporter
        self._resource = resource

    def make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        return ForwardingSink(self._exporter, self._resource, name=self.name)

    def rows_of(self, mapping: TableMapping) -> RowsOf:
        return _whole

    def place(self, settings: Settings) -> str:
        return shown_endpoint(self._exporter) or self.name


class GivenSinkFactory(SinkFactory):
    """A sink of the application's own."""

    has_settings_only = False

    def __init__(self, sink: Sink) -> None:
        self.name = sink.name
        self._sink = sink

    def make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        return self._sink

    def place(self, settings: Settings) -> str:
        return self._sink.target


class OTLPSinkFactory(SinkFactory):
    """An OTLP endpoint, which is given whole records."""

    has_columns = False
    name = "otlp"
    address_settings = ("endpoint",)

    def __init__(self, resource: Resource | None = None) -> None:
        self._resource = resource
        self._address = ""

    def make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        try:
            from otel_audit_exporter.sinks.otlp import OTLPSink
        except ImportError:
            raise ImportError('the official exporter is missing: pip install "otel-audit-exporter[otlp]"') from None
        timeout = settings.export_timeout_millis / 1000
        sink = OTLPSink(self._resource, endpoint=settings.endpoint, timeout_seconds=timeout)
        self._address = sink.target
        return sink

    def rows_of(self, mapping: TableMapping) -> RowsOf:
        return _whole

    def place(self, settings: Settings) -> str:
        return self._address


class ConsoleSinkFactory(SinkFactory):
    """Standard output."""

    has_columns = False
    name = "console"
    adopts = False

    def missing(self, settings: Settings) -> str | None:
        closed = sys.stdout is None or getattr(sys.stdout, "closed", False)
        return "standard output is closed: leave it open, or choose another exporter" if closed else None

    def make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        from otel_audit_exporter.sinks.console import ConsoleSink

        return ConsoleSink(as_json=settings.format == "json")

    def rows_of(self, mapping: TableMapping) -> RowsOf:
        return _whole


class NullSinkFactory(SinkFactory):
    """No sink at all, on purpose."""

    has_columns = False
    name = "none"
    adopts = False

    def make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        from otel_audit_exporter.sinks.null import NullSink

        logger.warning("audit: switched off on purpose (exporter none): events are not recorded anywhere")
        return NullSink()


# By the name that `exporter` (OTEL_AUDIT_EXPORTER) takes.
SINK_FACTORIES: Final[Mapping[str, Callable[[], SinkFactory]]] = {
    "sqlite": SQLiteSinkFactory,
    "supabase": SupabaseSinkFactory,
    "postgres": PostgresSinkFactory,
    "otlp": OTLPSinkFactory,
    "console": ConsoleSinkFactory,
    "memory": MemorySinkFactory,
    "none": NullSinkFactory,
}


def _written_keys(settings: Settings, mapping: TableMapping) -> Sequence[str]:
    """Return the key's columns, of a table that gives none of them a value by itself."""
    keys: Sequence[str] = settings.key_columns or (mapping.key_column,)
    unwritten = [name for name in keys if name not in mapping.columns]
    if unwritten:
        raise ValueError(f"key_columns (OTEL_AUDIT_KEY_COLUMNS): no field goes to {', '.join(unwritten)} (see columns)")
    return keys


def _whole(bodies: Sequence[bytes]) -> list[bytes]:
    if not all(len(split(body)) == len(FIELDS) for body in bodies):
        raise ValueError("no event")
    return list(bodies)
