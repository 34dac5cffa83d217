"""How a pipeline takes events: into every sink's outbox first, and then to the SDK."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from logging import WARNING
from typing import Any, Final

from opentelemetry._logs import Logger, NoOpLogger
from opentelemetry.sdk._logs import LogRecordLimits
from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.delivery.channel import Ticket, Waiter
from otel_audit_exporter.delivery.receipts import PendingReceipt
from otel_audit_exporter.delivery.relay import delivers_here
from otel_audit_exporter.errors import AuditError, AuditEventError, AuditShutdownError, OutboxError
from otel_audit_exporter.event.audit_event import AuditEvent
from otel_audit_exporter.event.context import current_scope, overlay
from otel_audit_exporter.event.encoded_event import EncodedEvent
from otel_audit_exporter.event.fields import SCOPE_NAME
from otel_audit_exporter.event.log_record import AuditLogRecord, AuditReadWriteLogRecord
from otel_audit_exporter.observability.losses import Cause
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.runtime.log import RateLimitedLogger, logger

_REMEMBERED_KEYS: Final = 10_000
UNLIMITED: Final = LogRecordLimits(*[LogRecordLimits.UNSET] * 4)


class EventIntake:
    """Takes events for a number of exporters, the first of which is the primary. ``queues``: the SDK's, if known."""

    def __init__(
        self,
        exporters: Sequence[AuditExporter],
        settings: Settings,
        provider: Any,
        queues: Sequence[deque[Any]],
        *,
        attached: bool,
    ) -> None:
        self.settings = settings
        self._exporters = tuple(exporters)
        self._primary = self._exporters[0]
        sdk_logger: Logger = provider.get_logger(SCOPE_NAME)
        # The SDK's logger takes its own record as it is, which the interface does not say.
        self._emit: Callable[[Any], None] = sdk_logger.emit
        self._scope = getattr(sdk_logger, "instrumentation_scope", None)
        self._resource: Resource = getattr(provider, "resource", None) or Resource.get_empty()
        self._sync = settings.mode == "sync"
        self._attached = attached
        # Where others see the records too, none is kept from the SDK.
        self._queues = queues
        self.repeats = RateLimitedLogger()
        self._begin()
        if isinstance(sdk_logger, NoOpLogger) and not self._sync:
            self._do_without_sdk()

    def _begin(self) -> None:
        self._lock = threading.RLock()  # also for a signal handler that audits in the middle of a call
        self._forked = False
        self._warned_of_bypass = False
        self._keys: OrderedDict[str, bytes] = OrderedDict()
        self._waited_in_vain_at = -1

    def _begin_in_child(self) -> None:
        self._forked = False

    def _do_without_sdk(self) -> None:
        logger.warning(
            "audit: the OpenTelemetry SDK is switched off (OTEL_SDK_DISABLED): events are delivered from the "
            "outbox instead"
        )
        for exporter in self._exporters:
            exporter.relay.without_hot_road()

    def emit(self, event: AuditEvent) -> PendingReceipt:
        """Accept one event, and return at once (in sync mode: when the first attempt has ended).

        What it does not say is filled in from the ``audit_context`` that is open here, as in ``audit_event``.
        Raises :class:`AuditEventError` for what this pipeline's settings do not allow, and :class:`OutboxError`
        where the outbox refuses the event (see ``on_outbox_error``).
        """
        if not isinstance(event, AuditEvent):
            error = AuditEventError({"event": f"must be an AuditEvent, not {type(event).__name__}"})
            self._primary.rejections.invalid(error, {})
            raise error
        said, scope = event.arguments(), current_scope()
        return self.submit(said if scope is None else overlay(scope.merged(), said))

    def submit(self, said: Mapping[str, Any]) -> PendingReceipt:
        """Accept one event, given as arguments of ``audit_event``."""
        if self._forked:
            self._begin_in_child()
        try:
            event = self._primary.rules.compose(said)
        except AuditEventError as error:
            self._primary.rejections.invalid(error, said)
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
        except (AuditShutdownError, OutboxError) as error:
            self._primary.rejections.refused(error, event.body)
            if self.settings.on_outbox_error == "raise" or isinstance(error, AuditShutdownError):
                raise
            return {}
        if self._primary.rejections.refused_at is not None:
            self._primary.rejections.refused_at = None
        for secondary in self._exporters[1:]:
            try:
                tickets[secondary.lane.name] = secondary.lane.accept(event.body)
            except AuditError as error:
                tickets[secondary.lane.name] = None
                secondary.rejections.passed_by(error, event.body)
        return tickets

    def _send(self, event: EncodedEvent, tickets: Mapping[str, Ticket | None]) -> None:
        try:
            if self._has_room():
                record = AuditLogRecord(event, tickets, slim=not self._attached)
                self._emit(AuditReadWriteLogRecord(record, self._resource, self._scope, UNLIMITED))
        except Exception as error:
            self._warn_of_bypass(error)
        if self._sync:
            self._wait_for_first_attempt(tickets)

    def _has_room(self) -> bool:
        """Return whether an SDK's queue takes one more; else the relay delivers the event, and nothing is dropped."""
        for queue in self._queues:
            if len(queue) < (queue.maxlen or 0):
                return True
        return not self._queues

    def _wait_for_first_attempt(self, tickets: Mapping[str, Ticket | None]) -> None:
        for exporter in self._exporters[1:]:
            exporter.relay.wake()
        lane = self._primary.lane
        if delivers_here() or lane.closed or not lane.gate.is_open or lane.attempts_ended == self._waited_in_vain_at:
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

    def _warn_of_bypass(self, error: Exception) -> None:
        if not self._warned_of_bypass:
            self._warned_of_bypass = True
            logger.warning(
                "audit: the SDK did not take an event's log record (%s): such events are delivered from the outbox "
                "instead",
                type(error).__name__,
            )

    def reject(self, cause: Cause, example: str = "unknown") -> None:
        """Count, log and note an event that was refused before it came here."""
        self._primary.rejections.other(cause, example)

    def _hurry(self) -> None:
        for exporter in self._exporters:
            exporter.relay.deliver_now()
