"""Trails: the shapes that are known at configuration, each with the kinds of sinks that take its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.routing import DEFAULT_TRAIL
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.factory import (
    SinkFactory,
    TrailShape,
    UnconfiguredSink,
    make_shape,
    make_sink,
    warn_of_left_out,
)
from otel_audit_exporter.pipeline.sink_factories import SINK_FACTORIES, OTLPSinkFactory
from otel_audit_exporter.sinks.base import Sink

NewFactory = Callable[[], SinkFactory]


class TrailKind(NamedTuple):
    """One kind of sink of a trail. ``sink`` is the one of the configured address, where that is known."""

    shape: TrailShape
    new_factory: NewFactory | None  # None: an exporter that was given made, of which there is no second one
    sink: Sink | None = None

    @property
    def takes_databases(self) -> bool:
        """Whether it can be in several databases."""
        return self.new_factory is not None and bool(self.shape.factory.database_settings)


class Trail(NamedTuple):
    """A trail: its kinds of sinks, the first of which is the primary."""

    name: str
    kinds: tuple[TrailKind, ...]

    @property
    def primary(self) -> TrailKind:
        """The first kind."""
        return self.kinds[0]


def default_trail(exporters: tuple[AuditExporter, ...]) -> Trail:
    """Return the trail that these exporters are of already."""
    kinds = []
    for exporter in exporters:
        shape = TrailShape(exporter.factory, exporter.settings, exporter.mapping, exporter.rules)
        sink = None if isinstance(exporter.sink, UnconfiguredSink) else exporter.sink
        kinds.append(TrailKind(shape, SINK_FACTORIES.get(exporter.exporter_name), sink))
    return Trail(DEFAULT_TRAIL, tuple(kinds))


def make_trails(
    settings_by_name: Mapping[str, Settings], resource: Resource | None, *, databases: bool
) -> dict[str, Trail]:
    """Return the trails of these settings by name.

    Raises :class:`AuditConfigurationError` for what is wrong or missing; an address may be missing where there are
    ``databases``.
    """
    return {
        name: Trail(name, tuple(_kinds(name, settings, resource, databases=databases)))
        for name, settings in settings_by_name.items()
    }


def _kinds(name: str, settings: Settings, resource: Resource | None, *, databases: bool) -> list[TrailKind]:
    kinds = [one for one in (settings.exporter or "").lower().replace(" ", "").split(",") if one]
    unknown = [kind for kind in kinds or [""] if kind not in SINK_FACTORIES]
    if unknown or len(set(kinds)) < len(kinds):
        raise AuditConfigurationError(
            f"trail {name!r}: exporter: must be one of {', '.join(SINK_FACTORIES)}, or several of them, each once"
        )
    return [_kind(name, replace(settings, exporter=kind), resource, databases=databases) for kind in kinds]


def _kind(name: str, settings: Settings, resource: Resource | None, *, databases: bool) -> TrailKind:
    def new_factory() -> SinkFactory:
        return OTLPSinkFactory(resource) if settings.exporter == "otlp" else SINK_FACTORIES[settings.exporter or ""]()

    factory = new_factory()
    try:
        shape = make_shape(factory, settings)
        if factory.has_columns:
            warn_of_left_out(f"{factory.name} {name}", settings, shape.mapping)
        if factory.missing(settings) and databases and factory.database_settings:
            return TrailKind(shape, new_factory)
        return TrailKind(shape, new_factory, make_sink(factory, settings, shape.mapping))
    except AuditConfigurationError as error:
        raise AuditConfigurationError(f"trail {name!r}: {error}") from None
