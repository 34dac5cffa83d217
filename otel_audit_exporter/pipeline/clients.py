"""Supabase clients as destinations: a client stands for the database at its URL, in its schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_audit_exporter.config.trail_settings import client_schema, client_url, schema_without_name
from otel_audit_exporter.pipeline.databases import Databases
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock
from otel_audit_exporter.runtime.log import logger

if TYPE_CHECKING:
    from otel_audit_exporter.pipeline.exporter import AuditExporter

_Seen = tuple[str, str, str | None]


class ClientDatabases:
    """Names the databases of the clients that events come with, and keeps the newest key of each."""

    def __init__(self, primary: AuditExporter, databases: Databases) -> None:
        self._primary = primary
        self._databases = databases
        self._lock = ForkSafeLock()
        self._names: dict[_Seen, str | None] = {}
        self._told = False

    def name_of(self, client: object) -> str | None:
        """Return the name of a client's database; None: it is the first destination, or no client that has a URL."""
        url = client_url(client)
        if url is None:
            return None
        seen = (url, str(getattr(client, "supabase_key", "")), client_schema(client))
        name = self._names.get(seen, "")
        return self._learn(seen) if name == "" else name

    def _learn(self, seen: _Seen) -> str | None:
        with self._lock:
            self._names[seen] = name = self._register(*seen)
            return name

    def _register(self, url: str, key: str, schema: str | None) -> str | None:
        from otel_audit_exporter.sinks.supabase.rest_client import project_url

        primary, settings = self._primary, self._primary.settings
        if primary.exporter_name != "supabase":
            self._tell_once()
            return None
        try:
            place = project_url(url)
        except ValueError:
            return None
        schema = schema or schema_without_name(settings)
        if settings.url and (place, schema) == (project_url(settings.url), settings.schema):
            self._use_newest_key(key)
            return None
        name = f"{place} {schema}"
        self._databases.know(name, {"url": place, "key": key, "schema": schema})
        return name

    def _use_newest_key(self, key: str) -> None:
        from otel_audit_exporter.sinks.supabase.sink import SupabaseSink

        sink = self._primary.sink
        if isinstance(sink, SupabaseSink) and key:
            sink.use_key(key)
            if not self._primary.channel.sender.backoff.is_open:
                self._primary.relay.deliver_now()

    def _tell_once(self) -> None:
        if not self._told:
            self._told = True
            logger.info(
                "audit: exporter %s is configured, so it takes what is written with supabase clients, too (%s)",
                self._primary.exporter_name,
                self._primary.target,
            )
