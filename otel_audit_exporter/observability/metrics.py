"""Metrics on the application's own meter provider, read by callbacks: an event pays nothing for them.

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
| `audit.requests.unrecorded` | http.request.method, http.route | requests that changed something and recorded nothing |
| `audit.health` | | 0 good, 1 warning, 2 critical |
| `audit.export.duration` | sink, outcome: success, failure | seconds that one write to the sink took |

Where there are several trails or databases, each has the attribute `trail`, too. A trail's figures are those of all its
databases together, as there can be any number of them: only with the setting `metrics_database` has each the attribute
`database`, and so series of its own. Requests are this process's; `http.route` is left out where the framework does not
say which path an application has for a request.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter_provider

from otel_audit_exporter.event.fields import SCOPE_NAME
from otel_audit_exporter.event.seen_requests import unrecorded_requests
from otel_audit_exporter.observability.health import LEVELS, AuditHealth
from otel_audit_exporter.observability.stats import DeliveryCounters
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock, register_renewed
from otel_audit_exporter.runtime.log import logger

_DURATION_BOUNDARIES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RECORDS: Final = "{record}"

Series = tuple[tuple[str, str], ...]  # the attributes of a series: its sink, its trail, its database
_Totals = Counter[tuple[Series, str]]  # by series and outcome
WriteRecorder = Callable[[float, str], None]
_Callback = Callable[[CallbackOptions], Iterable[Observation]]

_Outcomes = Mapping[str, Callable[[DeliveryCounters], int]]
# name, description, and for each outcome (none: "") its figure
_COUNTERS: Final[tuple[tuple[str, str, _Outcomes], ...]] = (
    (
        "audit.records.emitted",
        "Audit events of this process's calls, by what the outbox said.",
        {"accepted": lambda counters: counters.submitted, "rejected": lambda counters: counters.rejected},
    ),
    ("audit.records.exported", "Audit events in the table.", {"stored": lambda counters: counters.succeeded}),
    (
        "audit.records.dropped",
        "Audit events that were parked in the dead letters.",
        {"parked": lambda counters: counters.parked_ever},
    ),
    (
        "audit.records.recovered",
        "Audit events taken over from an earlier process.",
        {"": lambda counters: counters.recovered},
    ),
    (
        "audit.records.late",
        "Audit events that were not in the table at the deadline of their response (profile ephemeral).",
        {"": lambda counters: counters.late},
    ),
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


class ObservedPipeline(Protocol):
    """What metrics ask of a pipeline."""

    @property
    def closed(self) -> bool:
        """Whether it was shut down."""

    def counters(self) -> Iterable[tuple[Series, DeliveryCounters]]:
        """Return the counters of each sink; those of a trail in several databases are added up."""

    def health(self) -> AuditHealth:
        """Return the level and the figures of each sink."""

    def series_of(self, health: AuditHealth) -> Iterable[tuple[Series, AuditHealth]]:
        """Return the parts of a health, by the attributes of their series."""


class PipelineMetrics(Protocol):
    """What a pipeline reports to its metrics; they read the rest by themselves."""

    def write_recorder(self, series: Series) -> WriteRecorder:
        """Return what takes the seconds and the outcome of each write to a sink."""

    def keep_totals(self) -> None:
        """Remember the last counters of a pipeline that is being shut down."""


class NoPipelineMetrics:
    """Takes the place of metrics where the meter provider does not work."""

    def write_recorder(self, series: Series) -> WriteRecorder:
        return lambda seconds, outcome: None

    def keep_totals(self) -> None:
        """There are none."""


class OTelPipelineMetrics:
    """The metrics of one pipeline on a meter provider."""

    def __init__(self, source: _Source, durations: Histogram) -> None:
        self._source = source
        self._durations = durations

    def write_recorder(self, series: Series) -> WriteRecorder:
        record, attributes = self._durations.record, dict(series)
        return lambda seconds, outcome: record(seconds, {**attributes, "outcome": outcome})

    def keep_totals(self) -> None:
        self._source.keep_totals()


class _Source:
    """One pipeline's figures: as they are, or as they were when it was last seen alive."""

    def __init__(self, pipeline: ObservedPipeline, provider: MeterProvider | None) -> None:
        self.pipeline = weakref.ref(pipeline)
        self._provider = None if provider is None else weakref.ref(provider)
        self._last: dict[str, _Totals] = {}

    def is_for(self, provider: MeterProvider) -> bool:
        return provider is (get_meter_provider() if self._provider is None else self._provider())

    def is_gone(self) -> bool:
        return self._provider is not None and self._provider() is None

    def totals(self, metric: str, outcomes: _Outcomes) -> _Totals:
        """Return what is counted, which never goes down."""
        pipeline = self.pipeline()
        if pipeline is not None:
            totals: _Totals = Counter()
            for series, counters in pipeline.counters():
                for outcome, figure in outcomes.items():
                    totals[series, outcome] += figure(counters)
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

    def parts(self) -> Iterable[tuple[Series, AuditHealth]]:
        """Return the health of each series of a pipeline that runs."""
        pipeline = self.pipeline()
        return () if pipeline is None or pipeline.closed else pipeline.series_of(pipeline.health())


class _Registry:
    """The pipelines of this process, and the providers that know the instruments already."""

    def __init__(self) -> None:
        self.lock = ForkSafeLock()
        self.sources: list[_Source] = []
        self.providers: weakref.WeakSet[MeterProvider] = weakref.WeakSet()
        register_renewed(self)

    def renew_after_fork(self) -> None:
        """In a forked child: what the parent's earlier pipelines counted is the parent's."""
        self.sources = [source for source in self.sources if source.pipeline() is not None]


_registry: Final = _Registry()


def observe(pipeline: ObservedPipeline, meter_provider: MeterProvider | None) -> PipelineMetrics:
    """Report a pipeline's figures on ``meter_provider``; None: on the global one, once there is a real one.

    The pipeline is not kept alive by it. Counters go on from what earlier pipelines of the process counted. Where
    the provider raises, there are no metrics, which the log says.
    """
    try:
        return _observe(pipeline, meter_provider)
    except Exception as error:
        logger.warning("audit: there are no metrics, the meter provider raised %s", type(error).__name__)
        return NoPipelineMetrics()


def _observe(pipeline: ObservedPipeline, meter_provider: MeterProvider | None) -> PipelineMetrics:
    provider = get_meter_provider() if meter_provider is None else meter_provider
    source = _Source(pipeline, meter_provider)
    with _registry.lock:
        _registry.sources = [one for one in _registry.sources if not one.is_gone()]
        for earlier in _registry.sources:
            earlier.keep_totals()
        known = provider in _registry.providers
        _registry.providers.add(provider)
        _registry.sources.append(source)
    meter = provider.get_meter(SCOPE_NAME)
    if not known:
        _make_instruments(meter, None if meter_provider is None else weakref.ref(meter_provider))
    return OTelPipelineMetrics(source, _duration_histogram(meter))


def _make_instruments(meter: Meter, provider: weakref.ref[MeterProvider] | None) -> None:
    for name, description, outcomes in _COUNTERS:
        callback = _counter_callback(name, outcomes, provider)
        meter.create_observable_counter(name, [callback], unit=_RECORDS, description=description)
    for name, description, unit, figure in _GAUGES:
        meter.create_observable_gauge(name, [_gauge_callback(figure, provider)], unit=unit, description=description)
    meter.create_observable_gauge(
        "audit.health", [_level_callback(provider)], description="0: good, 1: warning, 2: critical."
    )
    meter.create_observable_counter(
        "audit.requests.unrecorded",
        [_observe_unrecorded],
        unit="{request}",
        description="Requests that changed something (POST, PUT, PATCH, DELETE) and recorded no audit event.",
    )


def _duration_histogram(meter: Meter) -> Histogram:
    return meter.create_histogram(
        "audit.export.duration",
        unit="s",
        description="How long one write to the sink took.",
        explicit_bucket_boundaries_advisory=_DURATION_BOUNDARIES,
    )


def _sources(provider: weakref.ref[MeterProvider] | None) -> Iterator[_Source]:
    """Yield the pipelines that report to a provider; None: on whichever is the global one now."""
    resolved = get_meter_provider() if provider is None else provider()
    if resolved is not None:
        yield from (source for source in list(_registry.sources) if source.is_for(resolved))


def _counter_callback(name: str, outcomes: _Outcomes, provider: weakref.ref[MeterProvider] | None) -> _Callback:
    def observe_counter(options: CallbackOptions) -> Iterator[Observation]:
        totals: _Totals = Counter()
        for source in _sources(provider):
            totals.update(source.totals(name, outcomes))
        for (series, outcome), total in totals.items():
            yield Observation(total, {**dict(series), **({"outcome": outcome} if outcome else {})})

    return observe_counter


def _gauge_callback(
    figure: Callable[[AuditHealth], float | None], provider: weakref.ref[MeterProvider] | None
) -> _Callback:
    def observe_gauge(options: CallbackOptions) -> Iterator[Observation]:
        for source in _sources(provider):
            for series, health in source.parts():
                value = figure(health)
                if value is not None:
                    yield Observation(value, dict(series))

    return observe_gauge


def _observe_unrecorded(options: CallbackOptions) -> Iterator[Observation]:
    for (method, route), count in unrecorded_requests().items():
        known = {} if route is None else {"http.route": route}
        yield Observation(count, {"http.request.method": method, **known})


def _level_callback(provider: weakref.ref[MeterProvider] | None) -> _Callback:
    def observe_level(options: CallbackOptions) -> Iterator[Observation]:
        for health in filter(None, [source.health() for source in _sources(provider)]):
            yield Observation(LEVELS.index(health.level))

    return observe_level
