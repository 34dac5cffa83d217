"""Which table is read: that of the pipeline in force, else the one that the environment names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from otel_audit_exporter.config.settings import Settings, load_settings
from otel_audit_exporter.config.trail_settings import trail_settings as read_trail_settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.routing import DEFAULT_TRAIL, RouteName
from otel_audit_exporter.pipeline.current import get_or_adopt_pipeline
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.exporters import InMemoryAuditExporter
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.table.readers.memory import MemorySource
from otel_audit_exporter.table.readers.reader import SOURCES, EventReader, open_reader, segments_of

__all__ = ["DEFAULT_TRAIL", "check_names", "open_trail", "trail_settings"]


def open_trail(trail: str | None = None, database: str | None = None) -> EventReader:
    """Return a reader of a trail in a database, to be closed by the caller.

    Raises :class:`AuditConfigurationError` for a name that nobody configured, and where there is no table to read.
    """
    check_names(trail, database)
    pipeline = get_or_adopt_pipeline()
    if _route(trail, database) != RouteName():
        return _reader_of(*_settings_of(_route(trail, database), pipeline))
    if pipeline is None:
        return open_reader(load_settings({}))
    exporter = _readable(pipeline)
    if isinstance(exporter, InMemoryAuditExporter):
        settings = exporter.settings
        return EventReader(MemorySource(lambda: exporter.rows), segments_of(settings), ids=settings.ids)
    return _reader_of(exporter.settings, exporter.exporter_name)


def check_names(trail: str | None, database: str | None) -> None:
    """Raise :class:`AuditConfigurationError` where a trail or a database is not configured."""
    pipeline = get_or_adopt_pipeline()
    trails = [DEFAULT_TRAIL, *trail_settings_of({})] if pipeline is None else list(pipeline.destinations.trails)
    if trail is not None and trail not in trails:
        raise AuditConfigurationError(f"trail: no trail is called {trail!r}; there is {', '.join(map(repr, trails))}")
    configured = pipeline is not None and pipeline.destinations.databases.configured
    if _route(trail, database).database is not None and not configured:
        raise AuditConfigurationError(
            f"database: no database is called {database!r}; there is {DEFAULT_TRAIL!r} (databases are named by "
            "configure_audit(databases=...))"
        )


def trail_settings(trail: str | None = None, database: str | None = None) -> Settings:
    """Return the settings of the table that :func:`open_trail` reads."""
    check_names(trail, database)
    pipeline = get_or_adopt_pipeline()
    if _route(trail, database) != RouteName():
        return _settings_of(_route(trail, database), pipeline)[0]
    return load_settings({}) if pipeline is None else _readable(pipeline).settings


def _route(trail: str | None, database: str | None) -> RouteName:
    """Return the names of a destination; the usual database may be called as the usual trail is."""
    return RouteName(trail or DEFAULT_TRAIL, None if database == DEFAULT_TRAIL else database)


def _settings_of(name: RouteName, pipeline: AuditPipeline | None) -> tuple[Settings, str]:
    """Return the settings of a trail in a database, and its exporter's name. It may wait for who knows the name."""
    if pipeline is None:
        settings = trail_settings_of({})[name.trail]
        return settings, settings.exporter or "sqlite"
    return pipeline.destinations.settings_of(name)


def trail_settings_of(trails: Mapping[str, Mapping[str, Any]]) -> dict[str, Settings]:
    """Return the settings of the trails that the environment declares, where there is no pipeline."""
    base = load_settings({})
    return read_trail_settings(replace(base, exporter=base.exporter or "sqlite"), trails)


def _readable(pipeline: AuditPipeline) -> AuditExporter:
    for exporter in pipeline.exporters:
        if isinstance(exporter, InMemoryAuditExporter) or exporter.exporter_name in SOURCES:
            return exporter
    names = ", ".join(exporter.exporter_name for exporter in pipeline.exporters)
    raise AuditConfigurationError(f"exporter {names}: has no table that can be read; those of {', '.join(SOURCES)} can")


def _reader_of(settings: Settings, exporter: str) -> EventReader:
    if exporter not in SOURCES:
        raise AuditConfigurationError(f"exporter {exporter}: has no table that can be read; {', '.join(SOURCES)} have")
    if exporter == "sqlite" and not Path(settings.path).exists():  # the first event makes it
        return EventReader(MemorySource(list), segments_of(settings), ids=settings.ids)
    return open_reader(settings, exporter)
