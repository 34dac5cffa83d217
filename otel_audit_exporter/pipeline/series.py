"""What the metrics see of a pipeline: its counters and its health, by the attributes of their series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_audit_exporter.observability.health import AuditHealth
from otel_audit_exporter.observability.metrics import PipelineMetrics, Series
from otel_audit_exporter.observability.stats import DeliveryCounters
from otel_audit_exporter.pipeline.destinations import Destinations
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.runtime.fork_safety import renew_if_forked

if TYPE_CHECKING:
    from otel_audit_exporter.pipeline.pipeline import AuditPipeline


class PipelineSeries:
    """A pipeline as its metrics ask for it."""

    def __init__(self, pipeline: AuditPipeline) -> None:
        self._pipeline = pipeline

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
        destinations = self._pipeline.destinations
        return [(_series(exporter, destinations), exporter.channel.counters) for exporter in destinations.exporters()]

    def series_of(self, health: AuditHealth) -> list[tuple[Series, AuditHealth]]:
        """Return the parts of a health by the attributes of their metrics."""
        pipeline, destinations = self._pipeline, self._pipeline.destinations
        if not destinations.several:
            return [((("sink", name),), part) for name, part in health.sinks.items()]
        sinks = {one.trail: one.exporter_name for one in (*destinations.others().values(), pipeline.primary)}
        secondaries = [(_series(one, destinations), health.sinks[one.channel.name]) for one in pipeline.exporters[1:]]
        parts = (((("sink", sinks[trail]), ("trail", trail)), part) for trail, part in health.trails.items())
        return [*parts, *secondaries]


def record_writes(destinations: Destinations, metrics: PipelineMetrics) -> None:
    """Have the duration of each write be a metric: of the exporters that are there, and of each that is opened."""

    def record(exporter: AuditExporter) -> None:
        exporter.channel.on_write = metrics.write_recorder(_series(exporter, destinations))

    for exporter in destinations.exporters():
        record(exporter)
    destinations.on_open = record


def _series(exporter: AuditExporter, destinations: Destinations) -> Series:
    name = ("sink", exporter.exporter_name)
    return (name, ("trail", exporter.trail)) if destinations.several else (("sink", exporter.channel.name),)
