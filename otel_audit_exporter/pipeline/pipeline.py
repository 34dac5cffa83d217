"""The pipeline: the one place that wires events, outbox, SDK and sink together."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from logging import CRITICAL, ERROR, WARNING
from typing import Any, Final

from opentelemetry._logs import Logger, NoOpLogger
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk._logs import LogRecordLimits, LogRecordProcessor
from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.delivery.channel import Ticket, Waiter
from otel_audit_exporter.delivery.dead_letters import DeadLetters
from otel_audit_exporter.delivery.receipts import PendingReceipt
from otel_audit_exporter.errors import AuditError, AuditEventError, AuditShutdownError, OutboxError
from otel_audit_exporter.event.audit_event import AuditEvent, EncodedEvent
from otel_audit_exporter.event.context import current_scope, overlay
from otel_audit_exporter.event.fields import SCOPE_NAME
from otel_audit_exporter.event.log_record import AuditLogRecord, AuditReadWriteLogRecord
from otel_audit_exporter.observability.health import AuditHealth, combine
from otel_audit_exporter.observability.health_monitor import HealthMonitor, Sample
from otel_audit_exporter.observability.metrics import keep_totals, observe
from otel_audit_exporter.observability.stats import AuditStats, NotedError
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.runtime.call_thread import CallThread
from otel_audit_exporter.runtime.fork_safety import register_renewed
from otel_audit_exporter.runtime.log import RateLimitedLogger, logger
from otel_audit_exporter.runtime.process_exit import end_with_multiprocessing_child
from otel_audit_exporter.sinks.base import deadline_after

_REMEMBERED_KEYS: Final = 10_000
UNLIMITED: Final = LogRecordLimits(*[LogRecordLimits.UNSET] * 4)


class AuditPipeline:
    """The road of audit events from :meth:`emit` to the sink. Made by ``configure_audit`` and ``attach_audit``.

    Once :meth:`emit` has returned, the event is in the table once, or pending in the outbox, or parked in the
    dead letters. Safe to use from any thread, and in a forked child, where it begins anew. As a context manager
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
    ) -> None:
        self.settings = settings
        self._exporters = tuple(exporters)
        self._primary = self._exporters[0]
        self._processors = tuple(processors)
        self._logger: Logger = provider.get_logger(SCOPE_NAME)
        # The SDK's logger takes its own record as it is, which the interface does not tell.
        self._emit: Callable[[Any], None] = self._logger.emit
        self._scope = getattr(self._logger, "instrumentation_scope", None)
        self._resource: Resource = getattr(provider, "resource", None) or Resource.get_empty()
        self._sync = settings.mode == "sync"
        self._attached = attached
        # Where others see the records too, none is kept from the SDK.
        self._queues = () if attached else _queues_of(processors)
        self._sdk = CallThread()
        self.repeats = RateLimitedLogger()
        self._begin()
        for exporter in self._exporters if owns else ():
            exporter.own_by_pipeline()
        if isinstance(self._logger, NoOpLogger) and not self._sync:
            logger.warning(
                "audit: the OpenTelemetry SDK is switched off (OTEL_SDK_DISABLED): events are delivered from the "
                "outbox instead"
            )
            for exporter in self._exporters:
                exporter.relay.without_hot_road()
        self._watch = HealthMonitor(
            self.health,
            self.stats,
            cycle_seconds=self._primary.lane.options.cycle_seconds,
            on_change=settings.on_health_change,
        )
        register_renewed(self)
        self._observe(meter_provider)
        self._watch.start()

    def _observe(self, meter_provider: MeterProvider | None) -> None:
        try:
            observe(self, meter_provider)
        except Exception as error:
            logger.warning("audit: there are no metrics, the meter provider raised %s", type(error).__name__)

    def _begin(self) -> None:
        self._lock = threading.RLock()  # also for a signal handler that audits in the middle of a call
        self._closed = False
        self._closing_thread: int | None = None
        self._let_go_of = threading.Event()
        self._forked = False
        self._told_broken_road = False
        self._keys: OrderedDict[str, bytes] = OrderedDict()
        self._waited_in_vain_at = -1

    # --- the events ---------------------------------------------------------------------------------------------

    def emit(self, event: AuditEvent) -> PendingReceipt:
        """Accept one event, and return at once (in sync mode: when the first attempt has ended).

        What it does not say is filled in from the ``audit_context`` that is open here, as in ``audit_event``.
        Raises :class:`AuditEventError` for what this pipeline's settings do not allow, and :class:`OutboxError`
        where the outbox refuses the event (see ``on_outbox_error``).
        """
        if not isinstance(event, AuditEvent):
            self.reject()
            raise AuditEventError({"event": f"must be an AuditEvent, not {type(event).__name__}"})
        said, scope = event.arguments(), current_scope()
        return self.submit(said if scope is None else overlay(scope.merged(), said))

    def submit(self, said: Mapping[str, Any]) -> PendingReceipt:
        """Accept one event said as arguments of ``audit_event``."""
        if self._forked:
            self._begin_in_child()
        try:
            event = self._primary.rules.compose(said)
        except AuditEventError:
            self._primary.lane.books.count(rejected=1)
            raise
        if event.digest is not None:
            self._compare_with_earlier(event)
        tickets = self._accept(event)
        if not tickets:
            return PendingReceipt(event.record_id, None, None, self._hurry)
        self._send(event, tickets)
        return PendingReceipt(event.record_id, self._primary.lane, tickets[self._primary.lane.name], self._hurry)

    def _accept(self, event: EncodedEvent) -> dict[str, Ticket | None]:
        """Commit an event to every sink's outbox; None where a secondary's refuses it, nothing where the primary's."""
        lane = self._primary.lane
        try:
            tickets: dict[str, Ticket | None] = {lane.name: lane.accept(event.body)}
        except AuditShutdownError:
            lane.books.count(rejected=1)
            raise
        except OutboxError as error:
            lane.books.count(rejected=1)
            if self.settings.on_outbox_error == "raise":
                raise
            self.repeats.say(
                CRITICAL,
                (lane.name, type(error)),
                "audit %s: an event is lost, the outbox refuses it: %s",
                lane.name,
                error,
            )
            return {}
        for secondary in self._exporters[1:]:
            try:
                tickets[secondary.lane.name] = secondary.lane.accept(event.body)
            except AuditError as error:
                secondary.lane.books.count(rejected=1)
                name = secondary.lane.name
                tickets[name] = None
                self.repeats.say(ERROR, (name, type(error)), "audit %s: an event passed by this sink: %s", name, error)
        return tickets

    def _send(self, event: EncodedEvent, tickets: Mapping[str, Ticket | None]) -> None:
        try:
            if self._has_room():
                record = AuditLogRecord(event, tickets, slim=not self._attached)
                self._emit(AuditReadWriteLogRecord(record, self._resource, self._scope, UNLIMITED))
        except Exception as error:
            self._tell_broken_road(error)
        if self._sync:
            self._wait_for_first_attempt(tickets)

    def _has_room(self) -> bool:
        """Tell whether an SDK's queue takes one more; else the event is the relay's at once, and nothing is dropped."""
        for queue in self._queues:
            if len(queue) < (queue.maxlen or 0):
                return True
        return not self._queues

    def _wait_for_first_attempt(self, tickets: Mapping[str, Ticket | None]) -> None:
        for exporter in self._exporters[1:]:
            exporter.relay.wake()
        lane = self._primary.lane
        if lane.closed or not lane.gate.is_open or lane.attempts_ended == self._waited_in_vain_at:
            self._primary.relay.wake()
            return
        ticket = tickets[lane.name]
        assert ticket is not None
        waiter = Waiter()
        lane.watch(ticket, waiter)
        try:
            self._primary.relay.deliver_now()
            if not waiter.wait_for_attempt(self.settings.export_timeout_millis / 1000):
                self._waited_in_vain_at = lane.attempts_ended  # no call waits again before that attempt has ended
        finally:
            lane.unwatch(ticket, waiter)

    def _compare_with_earlier(self, event: EncodedEvent) -> None:
        assert event.digest is not None
        with self._lock:
            earlier = self._keys.setdefault(event.record_id, event.digest)
            if len(self._keys) > _REMEMBERED_KEYS:
                self._keys.popitem(last=False)
        if earlier != event.digest:
            self.repeats.say(
                WARNING,
                ("said before", event.action),
                "audit: %s was said before under the id %s, and says something else now: the first one counts",
                event.action,
                event.record_id,
            )

    def _tell_broken_road(self, error: Exception) -> None:
        if not self._told_broken_road:
            self._told_broken_road = True
            logger.warning(
                "audit: the SDK did not take an event's log record (%s): such events are delivered from the outbox "
                "instead",
                type(error).__name__,
            )

    # --- the state ----------------------------------------------------------------------------------------------

    def stats(self) -> AuditStats:
        """Return the counters of this process at one instant."""
        sinks = {exporter.lane.name: exporter.lane.stats() for exporter in self._exporters}
        return replace(sinks[self._primary.lane.name], sinks=sinks)

    def health(self) -> AuditHealth:
        """Return the level, the reasons for it and the figures, at one instant.

        Levels begin where ``health_thresholds`` say. A change of level is told to ``on_health_change`` and in one
        log line, by a thread that looks several times in one export cycle.
        """
        thresholds = self.settings.health_thresholds
        return combine({exporter.lane.name: exporter.lane.health(thresholds) for exporter in self._exporters})

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What the backlog was in the last hour, the oldest first."""
        return self._watch.samples

    @property
    def latest_errors(self) -> tuple[NotedError, ...]:
        """The primary sink's latest errors, the oldest first."""
        return self._primary.lane.books.latest_errors

    def dead_letters(self) -> DeadLetters:
        """Return the parked events of the first sink."""
        return DeadLetters(self._primary.lane)

    def reject(self) -> None:
        """Count an event that was refused before it came here."""
        self._primary.lane.books.count(rejected=1)

    @property
    def name(self) -> str:
        """The primary sink's name."""
        return self._primary.lane.name

    @property
    def target(self) -> str:
        """Where the primary sink's rows go, for people."""
        return self._primary.target

    @property
    def closed(self) -> bool:
        """Whether the pipeline was shut down."""
        return self._closed

    @property
    def exporters(self) -> tuple[AuditExporter, ...]:
        """The exporters, the first one being the primary."""
        return self._exporters

    # --- flush and end ------------------------------------------------------------------------------------------

    def _hurry(self) -> None:
        for exporter in self._exporters:
            exporter.relay.deliver_now()

    def force_flush(self, timeout_millis: float | None = 10_000) -> bool:
        """Deliver what waits; True only if everything accepted so far is stored or parked within the time.

        ``None`` is no limit, as in the SDK.
        """
        deadline = deadline_after(timeout_millis)
        if self._attached:
            self._sdk.run([processor.force_flush for processor in self._processors[:1]], deadline)
        for secondary in self._exporters[1:]:
            secondary.relay.retry_held_now()
        self._primary.relay.retry_held_now()
        return self._primary.lane.wait_until_settled(deadline, self._primary.relay.deliver_now)

    def shutdown(self, timeout_millis: float | None = 10_000) -> bool:
        """Deliver what waits and let go of the outbox; True only if everything is stored or parked in time.

        ``None`` is no limit. A second call waits for the first one, no longer than the time that it is given itself.
        What is left in an outbox on disk is delivered by the next process of the same destination.
        """
        return self._shutdown(timeout_millis, patient=True)

    def let_go(self) -> None:
        """Give what came after the shutdown to the pipeline that comes next."""
        for exporter in self._exporters:
            exporter.lane.close()

    def end_with_process(self) -> None:
        """Shut down within ``OTEL_AUDIT_SHUTDOWN_TIMEOUT``, for the end of the process."""
        try:
            self._shutdown(self.settings.shutdown_timeout_millis, patient=False)
        except Exception as error:
            logger.error("audit: the shutdown at the end of the process failed: %s", error)

    def _shutdown(self, timeout_millis: float | None, *, patient: bool) -> bool:
        deadline = deadline_after(timeout_millis)
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                self._closing_thread = threading.get_ident()
        if not first:
            if self._closing_thread != threading.get_ident():  # a signal handler would wait for what it interrupts
                self._let_go_of.wait(max(deadline - time.monotonic(), 0.0))
            return not any(exporter.lane.books.pending for exporter in self._exporters)
        if self._attached:
            self._sdk.run([processor.force_flush for processor in self._processors], deadline)
        try:
            results = [exporter.close(deadline, patient=patient) for exporter in self._exporters]
        finally:
            self._let_go_of.set()
        keep_totals(self)
        self._watch.stop(deadline)
        self._sdk.run([processor.shutdown for processor in self._processors], deadline)
        self._sdk.end()
        return all(results)

    def __enter__(self) -> AuditPipeline:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()

    # --- forks --------------------------------------------------------------------------------------------------

    def renew_after_fork(self) -> None:
        """In a forked child: begin anew at the first event."""
        closed = self._closed
        self._begin()
        if closed:
            self._closed = True
            self._let_go_of.set()
        self._forked = True

    def _begin_in_child(self) -> None:
        self._forked = False
        end_with_multiprocessing_child()
        if not self._closed:
            self._watch.start()


def _queues_of(processors: Sequence[LogRecordProcessor]) -> tuple[deque[Any], ...]:
    """Return the queues of the SDK's batch processors; none where they have another shape than here known."""
    found = [getattr(getattr(one, "_batch_processor", None), "_queue", None) for one in processors]
    queues = tuple(queue for queue in found if isinstance(queue, deque) and queue.maxlen)
    return queues if len(queues) == len(found) else ()
