"""What the metrics see of a pipeline: its counters and its health, by the attributes of their series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_audit_exporter.event.routing import RouteName
from otel_audit_exporter.observability.health import AuditHealth
from otel_audit_exporter.observability.metrics import PipelineMetrics, Series
from otel_audit_exporter.observability.stats import DeliveryCounters
from otel_audit_exporter.pipeline.destinations import Destinations
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.health import DestinationsHealth
from otel_audit_exporter.runtime.fork_safety import renew_if_forked

if TYPE_CHECKING:
    from otel_audit_exporter.pipeline.pipeline import AuditPipeline


class PipelineSeries:
    """A pipeline as its metrics ask for it; with ``metrics_database`` each named database has series of its own."""

    def __init__(self, pipeline: AuditPipeline, health: DestinationsHealth) -> None:
        self._pipeline = pipeline
        self._health = health
        self._with_database = pipeline.settings.metrics_database

    @property
    def closed(self) -> bool:
        """Whether the pipeline was shut down."""
        return self._pipeline.closed

    def health(self) -> AuditHealth:
        """Return the level and the figures of each destination."""
        return self._pipeline.health()

    def counters(self) -> list[tuple[Series, DeliveryCounters]]:
        """Return the counters of each sink as they go on counting."""
        renew_if_forked()
        return [(self._of(one), one.channel.counters) for one in self._pipeline.destinations.exporters()]

    def series_of(self, health: AuditHealth) -> list[tuple[Series, AuditHealth]]:
        """Return the parts of a health by the attributes of their metrics."""
        pipeline, destinations = self._pipeline, self._pipeline.destinations
        if not destinations.several:
            return [((("sink", name),), part) for name, part in health.sinks.items()]
        secondaries = [(self._of(one), health.sinks[one.channel.name]) for one in pipeline.exporters[1:]]
        primaries = {name: self._of(one) for name, one in destinations.others().items()}
        primaries[RouteName()] = self._of(pipeline.primary)
        if self._with_database:
            parts = self._health.parts  # of this health, or of a later one
            return [*((primaries[name], part) for name, part in parts.items() if name in primaries), *secondaries]
        of_trail = {name.trail: series for name, series in primaries.items()}
        return [*((of_trail[trail], part) for trail, part in health.trails.items()), *secondaries]

    def _of(self, exporter: AuditExporter) -> Series:
        return _series(exporter, self._pipeline.destinations, self._with_database)


def record_writes(destinations: Destinations, metrics: PipelineMetrics, *, with_database: bool) -> None:
    """Have the duration of each write be a metric: of the exporters that are there, and of each that is opened."""

    def record(exporter: AuditExporter) -> None:
        exporter.channel.on_write = metrics.write_recorder(_series(exporter, destinations, with_database))

    for exporter in destinations.exporters():
        record(exporter)
    destinations.on_open = record


def _series(exporter: AuditExporter, destinations: Destinations, with_database: bool) -> Series:
    if not destinations.several:
        return (("sink", exporter.channel.name),)
    series: Series = (("sink", exporter.exporter_name), ("trail", exporter.trail))
    return (*series, ("database", exporter.database)) if with_database and exporter.database else series
