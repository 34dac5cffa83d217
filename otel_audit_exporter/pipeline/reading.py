"""Which table is read: that of the pipeline in force, else the one that the environment names."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from otel_audit_exporter.config.settings import Settings, load_settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.pipeline.configure import get_or_adopt_pipeline
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.exporters import InMemoryAuditExporter
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.table.readers.memory import MemorySource
from otel_audit_exporter.table.readers.reader import SOURCES, EventReader, open_reader, segments_of

DEFAULT_TRAIL: Final = "default"


def open_trail(trail: str | None = None, database: str | None = None) -> EventReader:
    """Return a reader of a trail in a database, to be closed by the caller.

    Raises :class:`AuditConfigurationError` for a name that nobody configured, and where there is no table to read.
    """
    check_names(trail, database)
    pipeline = get_or_adopt_pipeline()
    if pipeline is None:
        return open_reader(load_settings({}))
    return _reader_of(_readable(pipeline))


def check_names(trail: str | None, database: str | None) -> None:
    """Raise :class:`AuditConfigurationError` where a trail or a database is not configured."""
    for kind, name in (("trail", trail), ("database", database)):
        if name not in (None, DEFAULT_TRAIL):
            raise AuditConfigurationError(f"{kind}: no {kind} is called {name!r}; there is {DEFAULT_TRAIL!r}")


def trail_settings(trail: str | None = None, database: str | None = None) -> Settings:
    """Return the settings of the table that :func:`open_trail` reads."""
    check_names(trail, database)
    pipeline = get_or_adopt_pipeline()
    return load_settings({}) if pipeline is None else _readable(pipeline).settings


def _readable(pipeline: AuditPipeline) -> AuditExporter:
    for exporter in pipeline.exporters:
        if isinstance(exporter, InMemoryAuditExporter) or exporter.exporter_name in SOURCES:
            return exporter
    names = ", ".join(exporter.exporter_name for exporter in pipeline.exporters)
    raise AuditConfigurationError(f"exporter {names}: has no table that can be read; those of {', '.join(SOURCES)} can")


def _reader_of(exporter: AuditExporter) -> EventReader:
    settings = exporter.settings
    if isinstance(exporter, InMemoryAuditExporter):
        return EventReader(MemorySource(lambda: exporter.rows), segments_of(settings), ids=settings.ids)
    if exporter.exporter_name == "sqlite" and not Path(settings.path).exists():  # the first event makes it
        return EventReader(MemorySource(list), segments_of(settings), ids=settings.ids)
    return open_reader(settings, exporter.exporter_name)
