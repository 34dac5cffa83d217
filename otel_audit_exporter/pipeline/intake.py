"""How a pipeline takes events: into every sink's outbox first, and then to the SDK."""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from logging import WARNING
from typing import Any, Final

from opentelemetry._logs import Logger, NoOpLogger
from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.delivery.completion import CompletionWaiter
from otel_audit_exporter.delivery.receipts import PendingReceipt
from otel_audit_exporter.delivery.sender_thread import delivers_here
from otel_audit_exporter.errors import AuditError, AuditEventError, AuditShutdownError, OutboxError
from otel_audit_exporter.event.audit_event import AuditEvent
from otel_audit_exporter.event.context import current_scope, overlay
from otel_audit_exporter.event.encoded_event import EncodedEvent
from otel_audit_exporter.event.fields import SCOPE_NAME
from otel_audit_exporter.event.log_record import AuditLogRecord, AuditReadWriteLogRecord
from otel_audit_exporter.event.routing import RouteName, split_route
from otel_audit_exporter.observability.causes import Cause
from otel_audit_exporter.outbox.stripe import EventRef
from otel_audit_exporter.pipeline.clients import ClientDatabases
from otel_audit_exporter.pipeline.databases import Databases
from otel_audit_exporter.pipeline.destinations import Destinations, Route
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.invalid_events import InvalidEvents
from otel_audit_exporter.pipeline.late_events import AwaitedEvent, LateEvents
from otel_audit_exporter.pipeline.sdk_versions import UNLIMITED
from otel_audit_exporter.pipeline.trails import Trail, default_trail
from otel_audit_exporter.runtime.fork_safety import renew_if_forked
from otel_audit_exporter.runtime.log import RateLimitedLogger, logger
from otel_audit_exporter.runtime.threads import call_blocking, get_ident, is_green

_REMEMBERED_KEYS: Final = 10_000


class EventIntake:
    """Takes events for a number of exporters, the first of which is the primary."""

    def __init__(
        self,
        exporters: Sequence[AuditExporter],
        settings: Settings,
        provider: Any,
        *,
        attached: bool,
        trails: Mapping[str, Trail],
        databases: Databases,
    ) -> None:
        self.settings = settings
        self._take_exporters(exporters, trails, databases)
        sdk_logger: Logger = provider.get_logger(SCOPE_NAME)
        # The SDK's logger takes its own record as it is, which the interface does not say.
        self._emit: Callable[[Any], None] = sdk_logger.emit
        self._scope = getattr(sdk_logger, "instrumentation_scope", None)
        self._resource: Resource = getattr(provider, "resource", None) or Resource.get_empty()
        self._sync = settings.mode == "sync"
        self._attached = attached
        # Below this many records in its queue, the SDK's emit wakes nobody, for which it would take a lock. Where
        # others see the records too, none is kept from the SDK.
        self._most_in_sdk = 2**62 if attached else min(settings.max_queue_size, settings.max_export_batch_size) - 1
        self.late = LateEvents(settings) if settings.profile == "ephemeral" else None
        self.rate_limited_log = RateLimitedLogger()
        self._begin()
        if isinstance(sdk_logger, NoOpLogger) and not self._sync:
            self._do_without_sdk()

    def _take_exporters(
        self, exporters: Sequence[AuditExporter], trails: Mapping[str, Trail], databases: Databases
    ) -> None:
        self._exporters = tuple(exporters)
        self._primary = self._exporters[0]
        self._default = Route(RouteName(), self._exporters)
        default = default_trail(self._exporters)
        self.destinations = Destinations(self._default, {default.name: default, **trails}, databases, self.settings)
        self._routes = self.destinations.routes
        destinations = self.destinations
        self._primary.find_exporter = lambda name: destinations.find(name).primary
        self.clients = ClientDatabases(self._primary, databases)
        self._named_only = self.destinations.named_only

    def _begin(self) -> None:
        self._begun = False  # at the first event of each process
        self._green = False
        self._handed_over = 0  # records, to the SDK
        self._handing_over = count(1)
        for exporter in self._exporters:
            exporter.records_seen = 0
        for route in self.destinations.opened:
            route.waited_in_vain_at = -1
        self._emitting: set[int] = set()  # threads in the middle of the SDK's emit
        self._interrupting: deque[Any] = deque()  # records of calls that interrupted the emit of their own thread
        self._warned_of_bypass = False
        self._keys: OrderedDict[tuple[str, RouteName], bytes] = OrderedDict()
        self._invalid: dict[AuditExporter, InvalidEvents] = {}

    def _begin_here(self) -> None:
        """Begin at the first event of a process, which may be a forked child."""
        self._begun = True
        if is_green() and not self._green:
            self._green = True
            logger.warning(
                "audit: gevent has replaced Python's threads in process %d after configure_audit(): its events are "
                "delivered by a thread of their own, without the OpenTelemetry SDK's processor",
                os.getpid(),
            )
            for exporter in self._exporters:
                exporter.relay.without_hot_road()

    def _do_without_sdk(self) -> None:
        logger.warning(
            "audit: the OpenTelemetry SDK is switched off (OTEL_SDK_DISABLED): events are delivered from the "
            "outbox instead"
        )
        self.destinations.without_sdk = True
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
        if scope is None:
            return self.submit(said)
        receipt = self.submit(overlay(scope.merged(), said))
        scope.note_event()
        return receipt

    def submit(self, said: Mapping[str, Any], *, park_invalid: bool = False) -> PendingReceipt:
        """Accept one event, given as arguments of ``audit_event``; ``park_invalid``: a wrong one, too, in any case."""
        renew_if_forked()
        if not self._begun:
            self._begin_here()
        if self._named_only or "trail" in said or "database" in said:
            return self._submit_elsewhere(said, park_invalid=park_invalid)
        return self._submit(said, self._default, park_invalid=park_invalid)

    def _submit_elsewhere(self, said: Mapping[str, Any], *, park_invalid: bool) -> PendingReceipt:
        """Accept an event that names its destination."""
        try:
            name, rest = split_route(said)
            route = self._routes.get(name) or self._open_route(name, rest)
        except AuditEventError as error:
            return self._refuse_or_keep(error, said, self._primary, park_invalid=park_invalid)
        return self._submit(rest, route, park_invalid=park_invalid) if isinstance(route, Route) else route

    def _refuse_or_keep(
        self, error: AuditEventError, said: Mapping[str, Any], primary: AuditExporter, *, park_invalid: bool
    ) -> PendingReceipt:
        """Refuse an event that is wrong, or keep it for the dead letters, as the settings say."""
        settings = self.settings if primary is self._primary else primary.settings
        if not park_invalid and settings.on_invalid == "raise":
            primary.rejections.invalid(error, said)
            raise error
        return self.keep_invalid(error, said, primary)

    def _open_route(self, name: RouteName, said: Mapping[str, Any]) -> Route | PendingReceipt:
        """Open a destination at its first event; where that fails, the event is refused."""
        try:
            return self.destinations.find(name)
        except OutboxError as error:
            event = self.destinations.trails[name.trail].primary.shape.rules.compose(said)
            self._primary.rejections.refused(error, event.body)
            if self.settings.on_outbox_error == "raise":
                raise
            return PendingReceipt(event.record_id, None, None)

    def _submit(self, said: Mapping[str, Any], route: Route, *, park_invalid: bool = False) -> PendingReceipt:
        primary = route.primary
        try:
            event = primary.rules.compose(said)
        except AuditEventError as error:
            return self._refuse_or_keep(error, said, primary, park_invalid=park_invalid)
        if event.digest is not None:
            self._compare_with_earlier(event, route)
        tickets = self._accept(event, route)
        if not tickets:
            return PendingReceipt(event.record_id, None, None)
        self._send(event, tickets, route)
        receipt = PendingReceipt(event.record_id, primary.channel, tickets[primary.channel.name])
        if self.late is not None:
            self._collect(self.late, receipt, event, tickets, route)
        return receipt

    def _collect(
        self,
        late: LateEvents,
        receipt: PendingReceipt,
        event: EncodedEvent,
        tickets: Mapping[str, EventRef | None],
        route: Route,
    ) -> None:
        """Have the response of a request wait for the event that belongs to it."""
        scope = current_scope()
        if scope is not None and scope.collector is not None:
            refs = [(exporter.channel, tickets[exporter.channel.name]) for exporter in route.exporters]
            accepted = [(channel, ref) for channel, ref in refs if ref is not None]
            scope.collector.add(AwaitedEvent(receipt, event.body, accepted, late))

    def keep_invalid(
        self, error: AuditEventError, said: Mapping[str, Any], primary: AuditExporter | None = None
    ) -> PendingReceipt:
        """Keep an event that is wrong, for the dead letters of the sink that it is for; no other sink gets it."""
        primary = primary or self._primary
        receipt = self._invalid_of(primary).keep(error, said)
        for secondary in self._exporters[1:] if primary is self._primary else ():
            secondary.rejections.invalid(error, said)
        if self._sync:
            primary.channel.parking.park_invalid()
        return receipt

    def _invalid_of(self, primary: AuditExporter) -> InvalidEvents:
        return self._invalid.setdefault(primary, InvalidEvents(primary))

    def _accept(self, event: EncodedEvent, route: Route) -> dict[str, EventRef | None]:
        """Commit an event to every sink's outbox; None where a secondary's refuses it, nothing where the primary's."""
        primary = route.primary
        channel = primary.channel
        try:
            tickets: dict[str, EventRef | None] = {channel.name: channel.accept(event.body)}
        except (AuditShutdownError, OutboxError) as error:
            primary.rejections.refused(error, event.body)
            if self.settings.on_outbox_error == "raise" or isinstance(error, AuditShutdownError):
                raise
            return {}
        if primary.rejections.refused_at is not None:
            primary.rejections.refused_at = None
        for secondary in route.exporters[1:]:
            try:
                tickets[secondary.channel.name] = secondary.channel.accept(event.body)
            except AuditError as error:
                tickets[secondary.channel.name] = None
                secondary.rejections.passed_by(error, event.body)
        return tickets

    def _send(self, event: EncodedEvent, tickets: Mapping[str, EventRef | None], route: Route) -> None:
        if self._sync:
            self._wait_for_first_attempt(tickets, route)
        elif not self._green and self._handed_over - min(self._seen()) < self._most_in_sdk:
            deliver = None if route is self._default else route.deliver_more
            record = AuditLogRecord(event, tickets, slim=not self._attached, route=route.name, deliver=deliver)
            self._hand_over(AuditReadWriteLogRecord(record, self._resource, self._scope, UNLIMITED))
        else:
            route.deliver_more()

    def _seen(self) -> Iterator[int]:
        return (exporter.records_seen for exporter in self._exporters)

    def _hand_over(self, record: Any) -> None:
        """Emit a record. One of a call that interrupts the emit of its own thread is emitted after that one.

        The SDK's emit may hold a lock that the same thread must not take again.
        """
        thread = get_ident()
        if thread in self._emitting:
            self._interrupting.append(record)
            return
        self._emitting.add(thread)
        try:
            self._handed_over = next(self._handing_over)
            self._emit(record)
        except Exception as error:
            self._warn_of_bypass(error)
        finally:
            self._emitting.discard(thread)
        while self._interrupting:
            self._hand_over(self._interrupting.popleft())

    def _wait_for_first_attempt(self, tickets: Mapping[str, EventRef | None], route: Route) -> None:
        for exporter in route.exporters[1:]:
            exporter.relay.wake()
        channel = route.primary.channel
        waited_in_vain = channel.completions.attempts_ended == route.waited_in_vain_at
        if delivers_here() or channel.closed or not channel.sender.backoff.is_open or waited_in_vain:
            route.primary.relay.wake()
            return
        ticket = tickets[channel.name]
        assert ticket is not None
        waiter = CompletionWaiter()
        channel.completions.watch(ticket, waiter)
        try:
            channel.deliver_soon([ticket])
            if not call_blocking(waiter.wait_for_attempt, self.settings.export_timeout_millis / 1000):
                route.waited_in_vain_at = (
                    channel.completions.attempts_ended
                )  # no call waits again before that attempt has ended
        finally:
            channel.completions.unwatch(ticket, waiter)

    def _compare_with_earlier(self, event: EncodedEvent, route: Route) -> None:
        assert event.digest is not None
        # No lock: each of these is one step of the interpreter.
        earlier = self._keys.setdefault((event.record_id, route.name), event.digest)
        if len(self._keys) > _REMEMBERED_KEYS:
            with suppress(KeyError):
                self._keys.popitem(last=False)
        if earlier != event.digest:
            self.rate_limited_log.say(
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
