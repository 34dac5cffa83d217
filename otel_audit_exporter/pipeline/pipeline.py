"""The pipeline: the one place that wires events, outbox, SDK and sink together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk._logs import LogRecordProcessor

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.delivery.dead_letters import DeadLetters
from otel_audit_exporter.delivery.housekeeper import housekeeper
from otel_audit_exporter.delivery.sender_thread import delivers_here
from otel_audit_exporter.event.routing import split_route
from otel_audit_exporter.observability.health import AuditHealth
from otel_audit_exporter.observability.health_monitor import HealthMonitor, Sample
from otel_audit_exporter.observability.metrics import observe
from otel_audit_exporter.observability.stats import (
    AuditStats,
    NotedError,
    by_database,
    by_trail,
    summed,
)
from otel_audit_exporter.outbox.loss_records import LossRecords
from otel_audit_exporter.pipeline.databases import Databases
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.health import DestinationsHealth
from otel_audit_exporter.pipeline.intake import EventIntake
from otel_audit_exporter.pipeline.series import PipelineSeries, record_writes
from otel_audit_exporter.pipeline.trails import Trail
from otel_audit_exporter.runtime.call_thread import CallThread
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import register_renewed, renew_if_forked
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.runtime.process_exit import end_with_multiprocessing_child
from otel_audit_exporter.runtime.threads import Event, RLock, call_blocking, get_ident
from otel_audit_exporter.runtime.times import utc_now
from otel_audit_exporter.sinks.base import deadline_after

if TYPE_CHECKING:
    from otel_audit_exporter.pipeline.orphans import Orphanage


class AuditPipeline(EventIntake):
    """The way of audit events from :meth:`emit` to the sink. Made by ``configure_audit`` and ``attach_audit``.

    Once :meth:`emit` has returned, the event is in the table once, or pending in the outbox, or parked in the
    dead letters. Safe to use from any thread, and in a forked child, where it starts again. As a context manager
    it is shut down at the end of the block.
    """

    def __init__(
        self,
        exporters: Sequence[AuditExporter],
        settings: Settings,
        *,
        provider: Any,
        processors: Sequence[LogRecordProcessor],
        attached: bool,
        owns: bool = True,
        meter_provider: MeterProvider | None = None,
        trails: Mapping[str, Trail] | None = None,
        databases: Databases | None = None,
    ) -> None:
        self._processors = tuple(processors)
        self._sdk = CallThread()
        super().__init__(
            exporters,
            settings,
            provider,
            attached=attached,
            trails=trails or {},
            databases=databases or Databases(None),
        )
        for exporter in self._exporters if owns else ():
            exporter.own_by_pipeline()
        self._health = DestinationsHealth(settings.health_thresholds)
        self._orphanage: Orphanage | None = None
        self._watch = HealthMonitor(
            self.health,
            self.stats,
            cycle_seconds=self._primary.channel.options.cycle_seconds,
            on_change=settings.on_health_change,
        )
        register_renewed(self)
        self._series = PipelineSeries(self, self._health)
        self._metrics = observe(self._series, meter_provider)
        record_writes(self.destinations, self._metrics, with_database=settings.metrics_database)
        self._watch.start()
        folder = self._primary.channel.logs.directory
        if folder is not None and self.destinations.several:
            from otel_audit_exporter.pipeline.orphans import Orphanage

            self._orphanage = Orphanage(self.destinations, str(folder.root))
            housekeeper.visit(self._orphanage.look)

    def _begin(self) -> None:
        super()._begin()
        self._forked = False
        self._lock = RLock()  # also for a signal handler that shuts down in the middle of a shutdown
        self._closed = False
        self._closing_thread: int | None = None
        self._let_go_of = Event()

    # --- the state ----------------------------------------------------------------------------------------------

    def stats(self) -> AuditStats:
        """Return the counters of this process at one instant: the total, and each trail, database and sink."""
        renew_if_forked()
        sinks = {exporter.channel.name: exporter.channel.stats() for exporter in self._exporters}
        first = sinks[self._primary.channel.name]
        parts = {self._default.name: first}
        parts |= {name: exporter.channel.stats() for name, exporter in self.destinations.others().items()}
        return replace(summed(parts.values()), sinks=sinks, trails=by_trail(parts), databases=by_database(parts))

    def health(self) -> AuditHealth:
        """Return the level, the reasons for it and the figures, at one instant.

        Levels begin where ``health_thresholds`` say. A thread looks several times in one export cycle; it calls
        ``on_health_change`` and writes one log line when the level has changed.
        """
        renew_if_forked()
        now = utc_now()
        warnings = [] if self._orphanage is None else [one.words(now) for one in self._orphanage.waiting]
        return self._health.of(self._exporters, self.destinations.others(), warnings)

    def losses(self) -> LossRecords:
        """Return what was rejected, or lost with a damaged file, in the last 24 hours, by all processes.

        It is what nobody has acknowledged. What is parked is in :meth:`dead_letters`. Raises :class:`OutboxError`
        where it cannot be read.
        """
        renew_if_forked()
        return self._primary.losses.records()

    def acknowledge_losses(self, reason: str) -> int:
        """Record that somebody has seen what was rejected, lost and parked so far; return how many events.

        Health then judges by what comes later. Dead letters stay where they are. ``reason`` says what was found or
        done, and must not be empty (ValueError). Raises :class:`OutboxError` where it cannot be written.
        """
        renew_if_forked()
        return sum(exporter.losses.acknowledge(reason) for exporter in self.destinations.exporters())

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What the backlog was in the last hour, the oldest first."""
        return self._watch.samples

    @property
    def latest_errors(self) -> tuple[NotedError, ...]:
        """The primary sink's latest errors, the oldest first."""
        return self._primary.channel.counters.latest_errors

    def dead_letters(self, trail: str | None = None, database: str | None = None) -> DeadLetters:
        """Return the parked events of a destination's first sink.

        Raises :class:`AuditEventError` where there is no such destination.
        """
        renew_if_forked()
        exporter = self.exporter_of(trail, database)
        return DeadLetters(exporter.channel, exporter.rules)

    def exporter_of(self, trail: str | None = None, database: str | None = None) -> AuditExporter:
        """Return the primary exporter of a destination, which is opened where it is not.

        Raises :class:`AuditEventError` where there is no such destination.
        """
        name, _ = split_route({"trail": trail, "database": database})
        return self._primary if name == self._default.name else self.destinations.find(name).primary

    @property
    def name(self) -> str:
        """The primary sink's name."""
        return self._primary.channel.name

    @property
    def target(self) -> str:
        """Where the primary sink's rows go, for people."""
        return self._primary.target

    @property
    def closed(self) -> bool:
        """Whether the pipeline was shut down."""
        renew_if_forked()
        return self._closed

    @property
    def primary(self) -> AuditExporter:
        """The first exporter: receipts, flush, quota and the figures at the top are its."""
        return self._primary

    @property
    def exporters(self) -> tuple[AuditExporter, ...]:
        """The exporters, the first one being the primary."""
        return self._exporters

    # --- flush and end ------------------------------------------------------------------------------------------

    def force_flush(self, timeout_millis: float | None = 10_000) -> bool:
        """Deliver what waits; True only if everything accepted so far is stored or parked within the time.

        ``None`` is no limit, as in the SDK.
        """
        renew_if_forked()
        return call_blocking(self._flush, timeout_millis)

    def _flush(self, timeout_millis: float | None) -> bool:
        deadline = deadline_after(0 if delivers_here() else timeout_millis)
        if self._attached and not self._green:
            self._sdk.run([processor.force_flush for processor in self._processors[:1]], deadline)
        for exporter in self.destinations.exporters():
            exporter.relay.retry_held_now()
        primaries = dict.fromkeys(route.primary for route in self.destinations.opened)
        settled = [one.channel.wait_until_settled(deadline, one.relay.deliver_now) for one in primaries]
        return all(settled)

    def shutdown(self, timeout_millis: float | None = 10_000) -> bool:
        """Deliver what waits and let go of the outbox; True only if everything is stored or parked in time.

        ``None`` is no limit. A second call waits for the first one, no longer than the time that it is given itself.
        What is left in an outbox on disk is delivered by the next process of the same destination.
        """
        return call_blocking(self._shutdown, timeout_millis, True)

    def let_go(self) -> None:
        """Give what came after the shutdown to the pipeline that comes next."""
        for exporter in self.destinations.exporters():
            exporter.channel.close()

    def end_with_process(self) -> None:
        """Shut down within ``OTEL_AUDIT_SHUTDOWN_TIMEOUT``, for the end of the process."""
        try:
            self._shutdown(self.settings.shutdown_timeout_millis, False)
        except Exception as error:
            logger.error("audit: the shutdown at the end of the process failed: %s", error)

    def _shutdown(self, timeout_millis: float | None, patient: bool) -> bool:
        renew_if_forked()
        deadline = deadline_after(timeout_millis)
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                self._closing_thread = get_ident()
        if not first:
            if self._closing_thread != get_ident():  # a signal handler would wait for what it interrupts
                self._let_go_of.wait(max(deadline - Clock.monotonic(), 0.0))
            return not any(exporter.channel.counters.pending for exporter in self.destinations.exporters())
        if self._attached and not self._green:
            self._sdk.run([processor.force_flush for processor in self._processors], deadline)
        try:
            self.destinations.closed = True
            everybody = self.destinations.exporters()
            for exporter in everybody[1:]:
                exporter.relay.retry_held_now()
            results = [exporter.close(deadline, patient=patient) for exporter in everybody]
            self.destinations.end(deadline)
        finally:
            self._let_go_of.set()
        self._metrics.keep_totals()
        self._watch.stop(deadline)
        if self._begun or not self._forked:  # else nothing was handed over here, and the SDK's thread is the parent's
            if not self._green:
                self._sdk.run([processor.shutdown for processor in self._processors], deadline)
            self._sdk.end()
        return all(results)

    def __enter__(self) -> AuditPipeline:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()

    # --- forks --------------------------------------------------------------------------------------------------

    def renew_after_fork(self) -> None:
        """In a forked child: start again at the first event."""
        closed = self._closed
        self._begin()
        if closed:
            self._closed = True
            self._let_go_of.set()
        self._forked = True

    def _begin_here(self) -> None:
        super()._begin_here()
        if self._forked:
            end_with_multiprocessing_child()
            if not self._closed:
                self._watch.start()
