"""The figures as metrics tell them."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

Labels = tuple[tuple[str, Any], ...]


class Metrics:
    """What a meter provider has been told."""

    def __init__(self, reader: InMemoryMetricReader, provider: MeterProvider) -> None:
        self.provider = provider
        self._reader = reader

    def read(self) -> dict[str, dict[Labels, float]]:
        """Each metric's values by attributes; of a histogram how many values it has."""
        data = self._reader.get_metrics_data()
        found: dict[str, dict[Labels, float]] = {}
        for resource in data.resource_metrics if data is not None else []:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name.startswith("audit."):
                        found[metric.name] = {
                            tuple(sorted((point.attributes or {}).items())): _value(point)
                            for point in metric.data.data_points
                        }
        return found

    def sums(self) -> dict[str, float]:
        """The values of each metric added up."""
        return {name: sum(values.values()) for name, values in self.read().items()}


def _value(point: Any) -> float:
    return point.count if isinstance(point, HistogramDataPoint) else point.value
