"""Metrics on the application's own meter provider, told by callbacks: an event pays nothing for them.

| instrument | attributes | what |
| --- | --- | --- |
| `audit.records.emitted` | sink, outcome: accepted, rejected | events of this process's calls |
| `audit.records.exported` | sink, outcome: stored | events in the table |
| `audit.records.dropped` | sink, outcome: parked | events that were ever parked: a retry does not take them back |
| `audit.records.recovered` | sink | events taken over from an earlier process |
| `audit.queue.depth` | sink | events that are pending now |
| `audit.queue.held` | sink | those of them that are held |
| `audit.queue.overdue` | sink | those of them that are pending for longer than one export cycle |
| `audit.queue.oldest_age` | sink | the age of the oldest, in seconds |
| `audit.dead_letters` | sink | events in the dead letters now, by whichever process |
| `audit.outbox.available` | sink | bytes that the outbox takes yet |
| `audit.outbox.limit` | sink | bytes that it takes at most |
| `audit.health` | | 0 good, 1 warning, 2 critical |
| `audit.export.duration` | sink, outcome: success, failure | seconds that one write to the sink took |
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter_provider

from otel_audit_exporter.event.fields import SCOPE_NAME
from otel_audit_exporter.observability.health import LEVELS, AuditHealth
from otel_audit_exporter.observability.stats import DeliveryCounters
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock, register_renewed

if TYPE_CHECKING:
    from otel_audit_exporter.pipeline.pipeline import AuditPipeline

_DURATION_BOUNDARIES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RECORDS: Final = "{record}"

_Totals = Counter[tuple[str, str]]  # by sink and outcome
_Callback = Callable[[CallbackOptions], Iterable[Observation]]

# name, description, and for each outcome (none: "") the counter of the books
_COUNTERS: Final[tuple[tuple[str, str, Mapping[str, str]], ...]] = (
    (
        "audit.records.emitted",
        "Audit events of this process's calls, by what the outbox said.",
        {"accepted": "submitted", "rejected": "rejected"},
    ),
    ("audit.records.exported", "Audit events in the table.", {"stored": "succeeded"}),
    ("audit.records.dropped", "Audit events that were parked in the dead letters.", {"parked": "parked_ever"}),
    ("audit.records.recovered", "Audit events taken over from an earlier process.", {"": "recovered"}),
)
_GAUGES: Final[tuple[tuple[str, str, str, Callable[[AuditHealth], float | None]], ...]] = (
    ("audit.queue.depth", "Audit events that are pending.", _RECORDS, lambda health: health.pending),
    ("audit.queue.held", "Pending audit events that are held.", _RECORDS, lambda health: health.held),
    (
        "audit.queue.overdue",
        "Audit events that are pending for longer than one export cycle.",
        _RECORDS,
        lambda health: health.overdue,
    ),
    (
        "audit.queue.oldest_age",
        "The age of the oldest pending audit event.",
        "s",
        lambda health: health.oldest_pending_seconds,
    ),
    ("audit.dead_letters", "Audit events in the dead letters.", _RECORDS, lambda health: health.parked),
    ("audit.outbox.available", "What the outbox takes yet.", "By", lambda health: health.outbox_bytes_left),
    ("audit.outbox.limit", "What the outbox takes at most.", "By", lambda health: health.outbox_bytes_max),
)


class _Source:
    """One pipeline's figures: as they are, or as they were when it was last seen alive."""

    def __init__(self, pipeline: AuditPipeline, provider: MeterProvider | None) -> None:
        self.pipeline = weakref.ref(pipeline)
        self._provider = None if provider is None else weakref.ref(provider)
        self._last: dict[str, _Totals] = {}

    def is_for(self, provider: MeterProvider) -> bool:
        return provider is (get_meter_provider() if self._provider is None else self._provider())

    def is_gone(self) -> bool:
        return self._provider is not None and self._provider() is None

    def totals(self, metric: str, outcomes: Mapping[str, str]) -> _Totals:
        """Return what is counted, which never goes down."""
        pipeline = self.pipeline()
        if pipeline is not None:
            totals: _Totals = Counter()
            for exporter in pipeline.exporters:
                books: DeliveryCounters = exporter.lane.books
                for outcome, counter in outcomes.items():
                    totals[exporter.lane.name, outcome] = getattr(books, counter)
            self._last[metric] = totals
        return self._last.get(metric, Counter())

    def keep_totals(self) -> None:
        """Remember the last figures of a pipeline that may be gone soon."""
        for metric, _, outcomes in _COUNTERS:
            self.totals(metric, outcomes)

    def health(self) -> AuditHealth | None:
        """Return the health of a pipeline that runs."""
        pipeline = self.pipeline()
        return None if pipeline is None or pipeline.closed else pipeline.health()


class _Desk:
    """The pipelines of this process, and the providers that know the instruments already."""

    def __init__(self) -> None:
        self.lock = ForkSafeLock()
        self.sources: list[_Source] = []
        self.providers: weakref.WeakSet[MeterProvider] = weakref.WeakSet()
        register_renewed(self)

    def renew_after_fork(self) -> None:
        """In a forked child: what the parent's earlier pipelines counted is the parent's."""
        self.sources = [source for source in self.sources if source.pipeline() is not None]


_desk: Final = _Desk()


def observe(pipeline: AuditPipeline, meter_provider: MeterProvider | None) -> None:
    """Have a pipeline's figures told on ``meter_provider``; None: on the global one, once there is a real one.

    The pipeline is not kept alive by it. Counters go on from what earlier pipelines of the process counted.
    """
    provider = get_meter_provider() if meter_provider is None else meter_provider
    source = _Source(pipeline, meter_provider)
    with _desk.lock:
        _desk.sources = [one for one in _desk.sources if not one.is_gone()]
        for earlier in _desk.sources:
            earlier.keep_totals()
        known = provider in _desk.providers
        _desk.providers.add(provider)
        _desk.sources.append(source)
    meter = provider.get_meter(SCOPE_NAME)
    if not known:
        _make_instruments(meter, None if meter_provider is None else weakref.ref(meter_provider))
    _time_writes(pipeline, _duration_histogram(meter))


def keep_totals(pipeline: AuditPipeline) -> None:
    """Remember the last counters of a pipeline that is being shut down."""
    for source in list(_desk.sources):
        if source.pipeline() is pipeline:
            source.keep_totals()


def _make_instruments(meter: Meter, provider: weakref.ref[MeterProvider] | None) -> None:
    for name, description, outcomes in _COUNTERS:
        callback = _counter_callback(name, outcomes, provider)
        meter.create_observable_counter(name, [callback], unit=_RECORDS, description=description)
    for name, description, unit, figure in _GAUGES:
        meter.create_observable_gauge(name, [_gauge_callback(figure, provider)], unit=unit, description=description)
    meter.create_observable_gauge(
        "audit.health", [_level_callback(provider)], description="0: good, 1: warning, 2: critical."
    )


def _duration_histogram(meter: Meter) -> Histogram:
    return meter.create_histogram(
        "audit.export.duration",
        unit="s",
        description="How long one write to the sink took.",
        explicit_bucket_boundaries_advisory=_DURATION_BOUNDARIES,
    )


def _time_writes(pipeline: AuditPipeline, histogram: Histogram) -> None:
    for exporter in pipeline.exporters:
        exporter.lane.on_write = _recorder(histogram, exporter.lane.name)


def _recorder(histogram: Histogram, sink: str) -> Callable[[float, str], None]:
    return lambda seconds, outcome: histogram.record(seconds, {"sink": sink, "outcome": outcome})


def _sources(provider: weakref.ref[MeterProvider] | None) -> Iterator[_Source]:
    """Yield the pipelines that are told on a provider; None: on whichever is the global one now."""
    resolved = get_meter_provider() if provider is None else provider()
    if resolved is not None:
        yield from (source for source in list(_desk.sources) if source.is_for(resolved))


def _counter_callback(name: str, outcomes: Mapping[str, str], provider: weakref.ref[MeterProvider] | None) -> _Callback:
    def observe_counter(options: CallbackOptions) -> Iterator[Observation]:
        totals: _Totals = Counter()
        for source in _sources(provider):
            totals.update(source.totals(name, outcomes))
        for (sink, outcome), total in totals.items():
            yield Observation(total, {"sink": sink, "outcome": outcome} if outcome else {"sink": sink})

    return observe_counter


def _gauge_callback(
    figure: Callable[[AuditHealth], float | None], provider: weakref.ref[MeterProvider] | None
) -> _Callback:
    def observe_gauge(options: CallbackOptions) -> Iterator[Observation]:
        for health in filter(None, [source.health() for source in _sources(provider)]):
            for sink, of_sink in health.sinks.items():
                value = figure(of_sink)
                if value is not None:
                    yield Observation(value, {"sink": sink})

    return observe_gauge


def _level_callback(provider: weakref.ref[MeterProvider] | None) -> _Callback:
    def observe_level(options: CallbackOptions) -> Iterator[Observation]:
        for health in filter(None, [source.health() for source in _sources(provider)]):
            yield Observation(LEVELS.index(health.level))

    return observe_level
