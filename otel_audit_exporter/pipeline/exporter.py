"""The OpenTelemetry edge: log record exporters whose rows cannot get lost behind them.

``export()`` commits what it is given to the outbox, answers SUCCESS once it is there, and delivers. A pipeline's own
records are in the outbox before the SDK sees them: ``export()`` only delivers these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from logging import ERROR
from typing import Any, Final

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult

from otel_audit_exporter.config.settings import Settings, load_settings
from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.delivery.pool_member import PoolMember
from otel_audit_exporter.delivery.relay import Relay
from otel_audit_exporter.errors import AuditConfigurationError, AuditEventError
from otel_audit_exporter.event.log_record import (
    AuditLogRecord,
    event_arguments_from,
    is_audit_record,
    raw_body,
    route_of,
)
from otel_audit_exporter.event.routing import DEFAULT_TRAIL, RouteName, route_problems
from otel_audit_exporter.event.validation import EventValidator
from otel_audit_exporter.observability.causes import Cause
from otel_audit_exporter.observability.examples import describe_arguments
from otel_audit_exporter.pipeline.factory import ExporterParts, SinkFactory, build_parts, read_options
from otel_audit_exporter.pipeline.rejections import Rejections
from otel_audit_exporter.pipeline.standalone import STANDALONE, standalone_exporter
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock, renew_if_forked
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.runtime.uwsgi import leave_signals_to_uwsgi
from otel_audit_exporter.sinks.base import Sink, deadline_after
from otel_audit_exporter.table.mapping import TableMapping

_SDK_THREAD: Final = "OtelBatch"
_HANGING_SECONDS: Final = 1.0
# What an exporter is made of; the other settings are the pipeline's.
_OWN: Final = frozenset(
    {
        *("url", "key", "token", "dsn", "path", "endpoint", "format", "table", "schema", "columns", "column_defaults"),
        *("key_columns", "unmapped", "surroundings", "ip", "tenants", "optional", "ids"),
        *("outbox", "outbox_dir", "outbox_max_bytes", "outbox_write", "foreign_key_grace_seconds"),
        *("redact_keys", "redact_hook", "max_value_bytes", "objects", "slow_write_seconds"),
    }
)


class AuditExporter(LogRecordExporter):
    """What the exporters of this library have in common: the SDK's interface over an outbox and its delivery.

    It works behind any ``BatchLogRecordProcessor``. It takes audit records only (those with an ``audit.action``
    attribute) and lets others pass; a record that cannot become a row is parked with its reason. Where settings
    are missing it does not raise, as the SDK's auto-configuration would then switch off every signal: it holds
    the events, says once what is missing, and the next process that has the settings delivers them.

    ``trail``: it takes the records of this trail only (``audit.trail``; those that name none are of the default one).

    A pipeline's set-up gives the option ``settings`` (a ``Settings``) instead of all others: then what is missing or
    wrong is an :class:`AuditConfigurationError`.
    """

    database: str | None = None  # the named one that its rows go to

    def __init__(
        self,
        factory: SinkFactory,
        *,
        settings: Settings | None = None,
        needs_address: bool = True,
        trail: str = DEFAULT_TRAIL,
        **options: Any,
    ) -> None:
        if route_problems(trail, None):
            raise AuditConfigurationError("trail: must be the name of a trail")
        self.trail = trail
        self._factory = factory
        if settings is None:
            settings, unreadable = read_options(options)
            self._start(build_parts(factory, settings, strict=False, unreadable=unreadable))
        else:
            self._start(build_parts(factory, settings, strict=True, needs_address=needs_address))

    def _start(self, parts: ExporterParts) -> None:
        self._lock = ForkSafeLock()
        self._parts = parts
        self._channel, self._relay, self._rules = parts.channel, parts.relay, parts.rules
        self.losses = parts.losses
        self.rejections = Rejections(parts.channel, parts.losses)
        self._owned = False
        self._shut_down = False
        self.find_exporter: Callable[[RouteName], AuditExporter] | None = None  # of a pipeline's other destinations
        self.records_seen = 0  # of a pipeline, by the SDK's worker: what it handed over and has taken
        parts.start()
        STANDALONE[self] = None

    # --- what a pipeline needs ---------------------------------------------------------------------------------

    @property
    def channel(self) -> DeliveryChannel:
        """The delivery channel behind this exporter."""
        return self._channel

    @property
    def relay(self) -> Relay | PoolMember:
        """What redelivers from the outbox."""
        return self._relay

    @property
    def factory(self) -> SinkFactory:
        """How its sink was made."""
        return self._factory

    @property
    def exporter_name(self) -> str:
        """The exporter's name."""
        return self._factory.name

    @property
    def sink(self) -> Sink:
        """What takes the rows."""
        return self._parts.sink

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._parts.settings

    @property
    def rules(self) -> EventValidator:
        """What an event must have to become a row here."""
        return self._rules

    @property
    def mapping(self) -> TableMapping:
        """Which column takes which field."""
        return self._parts.mapping

    @property
    def target(self) -> str:
        """Where rows go, for people."""
        return self.sink.target

    @property
    def has_settings_only(self) -> bool:
        """Whether its settings say all of it: it can be made a second time, of nothing that was handed in."""
        return self._factory.has_settings_only

    def take_settings(self, settings: Settings, *, alone: bool) -> None:
        """Add the arguments of a pipeline's set-up to those that this exporter was made with, and start again.

        What it was made with stays. Raises :class:`AuditConfigurationError` where an argument contradicts that and
        can be meant for no other exporter (``alone``), and where one comes too late: events were taken already.
        """
        own, given = self.settings.arguments(), settings.arguments()
        new = {name for name in given.keys() & _OWN if given[name] != self.settings.values[name]}
        wrong = new & own.keys() if alone else set()
        new -= own.keys()
        if not self._factory.restarts or self._channel.counters.submitted:
            wrong |= new
        if wrong:
            raise AuditConfigurationError(
                f"{', '.join(sorted(wrong))}: the exporter that was given is made already, with another value or none: "
                "give such arguments to it"
            )
        if new:
            self.close(Clock.monotonic(), patient=False)
            settings = load_settings({**own, **{name: given[name] for name in new}})
            self._start(build_parts(self._factory, settings, strict=True))

    def own_by_pipeline(self) -> None:
        """Leave the end to a pipeline: the SDK's shutdown then ends only the SDK's own processor."""
        self._owned = True
        STANDALONE.pop(self, None)

    # --- the SDK's interface -----------------------------------------------------------------------------------

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Commit the audit records of ``batch`` to the outbox and offer them to the sink, once.

        SUCCESS: every one is in the outbox, in the table or in the dead letters. FAILURE: the outbox refused
        some, which is logged as critical; these are lost, as nothing else holds them. Never raises.
        """
        renew_if_forked()
        if threading.current_thread().name.startswith(_SDK_THREAD):  # never on a thread of the application's
            leave_signals_to_uwsgi()
        try:
            rows, refused = self._take(batch)
            self._deliver(rows)
        except BaseException as error:
            said = "audit %s: an export failed (%s); its events stay in the outbox"
            self._channel.rate_limited_log.say(ERROR, type(error), said, self._channel.name, type(error).__name__)
            logger.debug("audit %s: where the export failed", self._channel.name, exc_info=error)
            self._relay.wake()
            return LogRecordExportResult.FAILURE
        return LogRecordExportResult.FAILURE if refused else LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: float | None = 10_000) -> bool:
        """Deliver what waits; True if everything accepted so far is stored or parked in time (None: no limit)."""
        renew_if_forked()
        deadline = deadline_after(timeout_millis)
        self._relay.retry_held_now()
        return self._channel.wait_until_settled(deadline, self._relay.deliver_now)

    def shutdown(self, timeout_millis: float | None = 10_000) -> None:
        """Deliver what waits within the time, and let go of the outbox; what is left is the next process's."""
        if not self._owned:
            limit = deadline_after(self.settings.shutdown_timeout_millis)
            self.close(min(deadline_after(timeout_millis), limit), patient=False)

    def close(self, deadline: float, *, patient: bool = True) -> bool:
        """End the delivery by ``deadline`` (monotonic seconds); True if everything is stored or parked.

        ``patient=False``: where the outbox is on disk, one attempt that fails is enough; it gets a second where the
        last one has had no answer in time.
        """
        renew_if_forked()
        with self._lock:
            if self._shut_down:
                return not self._channel.counters.pending
            self._shut_down = True
        if not patient and self._channel.logs.on_disk:
            deadline = self._attempt_once(deadline)
        self._relay.retry_held_now()
        settled = self._channel.wait_until_settled(deadline, self._relay.deliver_now)
        self._relay.stop(deadline)
        self._channel.close()
        self.losses.write()
        STANDALONE.pop(self, None)
        return settled

    def _attempt_once(self, deadline: float) -> float:
        """Deliver until an attempt fails; return the time for all that follows: none, where one has failed."""
        channel = self._channel
        if channel.sender.backoff.is_open:
            channel.wait_until_settled(
                deadline, self._relay.deliver_now, or_until=lambda: not channel.sender.backoff.is_open
            )
        elif channel.sender.backoff.asked_until <= Clock.monotonic():  # else the server has asked not to be tried
            until = min(deadline, Clock.monotonic() + _HANGING_SECONDS) if channel.sender.hangs else deadline
            channel.completions.wait_for_attempt(until, self._relay.deliver_now, lambda: channel.counters.pending <= 0)
        return deadline if channel.sender.backoff.is_open else Clock.monotonic()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.target}>"

    # --- inside ------------------------------------------------------------------------------------------------

    def _deliver(self, rows: int) -> None:
        """Offer as many events as a batch covers, the oldest first; what the sink does not take is the relay's."""
        if rows and self._channel.sender.backoff.is_open:
            self._channel.sender.deliver_next(rows)
        if not self._channel.sender.backoff.is_open:
            self._relay.wake()
        self._channel.parking.park_invalid()

    def _take(self, batch: Iterable[ReadableLogRecord]) -> tuple[int, int]:
        """Return how many events of the batch are in the outbox, and how many it refuses.

        Those of a pipeline were there before; those of other code enter it here.
        """
        mine = refused = 0
        for readable in batch:
            record = readable.log_record
            refs = record.tickets if isinstance(record, AuditLogRecord) else None
            if refs is not None and isinstance(record, AuditLogRecord):
                self.records_seen += 1
                if record.deliver is not None:  # it is in the log of another destination
                    record.deliver()
                    continue
            if refs is not None and self._channel.name in refs:
                mine += refs[self._channel.name] is not None  # None: the outbox refused it, and it is counted
            elif is_audit_record(record):
                try:
                    mine += self._take_foreign(record)
                except Exception as error:  # a fault of one record does not stop the others
                    self.rejections.refused(error, raw_body(record, self._rules.encoder))
                    refused += 1
        return mine, refused

    def _take_foreign(self, record: Any) -> int:
        """Commit a record of other code where it belongs; return how many events of it are here."""
        name = route_of(record)
        if name == RouteName(self.trail):
            return self._commit(record)
        if self.find_exporter is not None:
            try:
                other = self.find_exporter(name)
            except AuditEventError as error:
                self.rejections.invalid(error, event_arguments_from(record))
                return 0
            if other._commit(record):
                other.relay.deliver_more()
        elif self._is_nobodys(name):
            cause = Cause(f"no exporter takes records of {name}", "configure an exporter with that trail")
            self.rejections.other(cause, describe_arguments(event_arguments_from(record)))
        return 0

    def _is_nobodys(self, name: RouteName) -> bool:
        """Return whether a record is for no exporter here. Of several exporters, only the first reports it."""
        known = [RouteName(one.trail) for one in STANDALONE]
        return not self._owned and name not in known and standalone_exporter() is self

    def _commit(self, record: Any) -> int:
        """Store a record of other code, and return 1; one that cannot become a row is parked."""
        given = event_arguments_from(record)
        try:
            body = self._rules.compose(given).body
        except AuditEventError as error:
            self._channel.accept_invalid(self._rules.compose_invalid(given, error.problems)[1])
            return 0
        self._channel.accept(body)
        return 1
