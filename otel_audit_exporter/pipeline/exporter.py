"""The OpenTelemetry edge: log record exporters whose rows cannot get lost behind them.

``export()`` commits what it is given to the outbox, answers SUCCESS once it is there, and delivers. Of a
pipeline's own records, which are in the outbox before the SDK sees them, it only delivers.
"""

from __future__ import annotations

import time
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from logging import CRITICAL, ERROR, INFO, WARNING
from pathlib import Path
from typing import Any, Final, Self

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.config.settings import MAY_BE_EMPTY, Settings, default_outbox_dir, load_settings, read_settings
from otel_audit_exporter.delivery.channel import AnyStore, Lane, LaneOptions, RowsOf, shape_error
from otel_audit_exporter.delivery.relay import Relay, deliver_hot
from otel_audit_exporter.errors import AuditConfigurationError, AuditError, AuditEventError
from otel_audit_exporter.event.audit_event import EventValidator
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.log_record import AuditLogRecord, event_arguments_from, is_audit_record, raw_body
from otel_audit_exporter.event.redaction import Redactor
from otel_audit_exporter.outbox.dead_letter_store import DeadLetterStore, MemoryDeadLetters, SqliteDeadLetterStore
from otel_audit_exporter.outbox.directory import DEAD_LETTERS, Destination, OutboxDirectory
from otel_audit_exporter.outbox.store import Entry
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.sinks.base import Sink, SinkError, deadline_after
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.table.mapping import TableMapping

# In the order in which they were made.
_standalone: Final[weakref.WeakKeyDictionary[AuditExporter, None]] = weakref.WeakKeyDictionary()
_COLD_AFTER_SECONDS: Final = 2.0
# What an exporter is made of; the other settings are the pipeline's.
_OWN: Final = frozenset(
    {
        *("url", "key", "token", "dsn", "path", "endpoint", "format", "table", "schema", "columns", "column_defaults"),
        *("key_columns", "unmapped", "ids", "outbox", "outbox_dir", "outbox_max_bytes", "foreign_key_grace_seconds"),
        *("redact_keys", "redact_hook", "max_value_bytes", "slow_write_seconds"),
    }
)


class AuditExporter(LogRecordExporter):
    """What the exporters of this library have in common.

    It works behind any ``BatchLogRecordProcessor``. It takes audit records only (those with an ``audit.action``
    attribute) and lets others pass; a record that cannot become a row is parked with its reason. Where settings
    are missing it does not raise, as the SDK's auto-configuration would then switch off every signal: it holds
    the events, says once what is missing, and the next process that has the settings delivers them.
    """

    exporter_name: str
    adopts = True
    restarts = True  # its sink can be made a second time
    address_settings: tuple[str, ...] = ()  # what says where the sink is, and who asks there
    _unreadable: str | None = None  # what is wrong with the environment's settings

    def __init__(self, **options: Any) -> None:
        self._start(self._load(drop_unset(options)), strict=False)

    @classmethod
    def from_settings(cls, settings: Settings, resource: Resource | None = None) -> Self:
        """Build the exporter for a pipeline: what is missing or wrong is an :class:`AuditConfigurationError`."""
        exporter = cls.__new__(cls)
        exporter._start(settings, strict=True)
        return exporter

    def _start(self, settings: Settings, *, strict: bool) -> None:
        self._lock = ForkSafeLock()
        self._settings = settings
        self._mapping = TableMapping(settings.columns, settings.column_defaults, settings.unmapped)
        self._mapping.tell_left_out(self._say_left_out)
        self._rules = make_rules(settings, self._mapping)
        self._sink = self._make_sink_or_hold(strict)
        self._lane = self._make_lane(strict)
        self._relay = Relay(
            self._lane,
            cold_after_seconds=max(_COLD_AFTER_SECONDS, 5 * settings.schedule_delay_millis / 1000),
            hot=settings.mode == "batch",
        )
        self._owned = False
        self._shut_down = False
        self._lane.adopt_orphans()
        self._relay.start()
        _standalone[self] = None

    # --- made by each exporter ---------------------------------------------------------------------------------

    def _make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        raise NotImplementedError

    def _place(self, settings: Settings) -> str:
        """Return the host or path that rows go to; empty where it is not known."""
        return ""

    def _missing(self, settings: Settings) -> str | None:
        """Say what is missing to make the sink."""
        return None

    # --- what a pipeline needs ---------------------------------------------------------------------------------

    @property
    def lane(self) -> Lane:
        """The lane behind this exporter."""
        return self._lane

    @property
    def relay(self) -> Relay:
        """What redelivers from the lane's outbox."""
        return self._relay

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    @property
    def rules(self) -> EventValidator:
        """What an event must have to become a row here."""
        return self._rules

    @property
    def mapping(self) -> TableMapping:
        """Which column takes which field."""
        return self._mapping

    @property
    def target(self) -> str:
        """Where rows go, for people."""
        return self._sink.target

    def take_settings(self, settings: Settings, *, alone: bool) -> None:
        """Take the arguments of a pipeline's set-up beside those that this exporter was made with, and begin anew.

        What it was made with stays. Raises :class:`AuditConfigurationError` where an argument contradicts that and
        can be meant for no other exporter (``alone``), and where one comes too late: events were taken already.
        """
        own, given = self._settings.arguments(), settings.arguments()
        new = {name for name in given.keys() & _OWN if given[name] != self._settings.values[name]}
        wrong = new & own.keys() if alone else set()
        new -= own.keys()
        if not self.restarts or self._lane.books.submitted:
            wrong |= new
        if wrong:
            raise AuditConfigurationError(
                f"{', '.join(sorted(wrong))}: the exporter that was given is made already, with another value or none: "
                "give such arguments to it"
            )
        if new:
            self.close(time.monotonic(), patient=False)
            self._start(load_settings({**own, **{name: given[name] for name in new}}), strict=True)

    def own_by_pipeline(self) -> None:
        """Leave the end of the lane to a pipeline: the SDK's shutdown then ends only the hot road."""
        self._owned = True
        _standalone.pop(self, None)

    # --- the SDK's interface -----------------------------------------------------------------------------------

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Commit the audit records of ``batch`` to the outbox and offer them to the sink, once.

        SUCCESS: every one is in the outbox, in the table or in the dead letters. FAILURE: the outbox refused
        some, which is logged as critical; these are lost, as nothing else holds them. Never raises.
        """
        try:
            mine, refused = self._take(batch)
            for store, entries in mine.items():
                deliver_hot(self._lane, store, entries)
        except BaseException as error:
            said = "audit %s: an export failed (%s); its events stay in the outbox"
            self._lane.repeats.say(ERROR, type(error), said, self._lane.name, type(error).__name__)
            logger.debug("audit %s: where the export failed", self._lane.name, exc_info=error)
            self._relay.wake()
            return LogRecordExportResult.FAILURE
        return LogRecordExportResult.FAILURE if refused else LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: float | None = 10_000) -> bool:
        """Deliver what waits; True if everything accepted so far is stored or parked in time (None: no limit)."""
        deadline = deadline_after(timeout_millis)
        self._relay.retry_held_now()
        return self._lane.wait_until_settled(deadline, self._relay.deliver_now)

    def shutdown(self, timeout_millis: float | None = 10_000) -> None:
        """Deliver what waits within the time, and let go of the outbox; what is left is the next process's."""
        if not self._owned:
            limit = deadline_after(self._settings.shutdown_timeout_millis)
            self.close(min(deadline_after(timeout_millis), limit), patient=False)

    def close(self, deadline: float, *, patient: bool = True) -> bool:
        """End the lane by ``deadline`` (monotonic seconds); True if everything is stored or parked.

        ``patient=False``: where the sink is known to be away and the outbox is on disk, one attempt is enough.
        """
        with self._lock:
            if self._shut_down:
                return not self._lane.books.pending
            self._shut_down = True
        if not patient and not self._lane.gate.is_open and self._lane.on_disk:
            if self._lane.gate.asked_until <= time.monotonic():  # else the server has asked not to be tried
                self._lane.wait_for_attempt(deadline, self._relay.deliver_now)
            if not self._lane.gate.is_open:
                deadline = time.monotonic()
        self._relay.retry_held_now()
        settled = self._lane.wait_until_settled(deadline, self._relay.deliver_now)
        self._relay.stop(deadline)
        self._lane.close()
        _standalone.pop(self, None)
        return settled

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.target}>"

    # --- inside ------------------------------------------------------------------------------------------------

    def _take(self, batch: Iterable[ReadableLogRecord]) -> tuple[dict[AnyStore, list[Entry]], int]:
        mine: dict[AnyStore, list[Entry]] = {}
        refused = 0
        for readable in batch:
            record = readable.log_record
            tickets = record.tickets if isinstance(record, AuditLogRecord) else {}
            ticket = tickets.get(self._lane.name)
            if isinstance(record, AuditLogRecord) and ticket is not None:
                mine.setdefault(ticket.store, []).append((ticket.seq, record.event_body or b""))
            elif self._lane.name not in tickets and is_audit_record(record):  # None: it passed us by, and is counted
                try:
                    self._commit(record, mine)
                except Exception as error:  # whatever is wrong with one record, the others are taken
                    said = "audit %s: an event is lost, the outbox refuses it: %s"
                    shown = error if isinstance(error, AuditError) else type(error).__name__
                    self._lane.repeats.say(CRITICAL, type(error), said, self._lane.name, shown)
                    self._lane.books.count(rejected=1)
                    refused += 1
        return mine, refused

    def _commit(self, record: Any, mine: dict[AnyStore, list[Entry]]) -> None:
        """Commit a record to the outbox and put it to ``mine``; one that cannot become a row is parked."""
        try:
            body = self._rules.compose(event_arguments_from(record)).body
        except AuditEventError as error:
            self._lane.park_unsent(raw_body(record, self._rules.encoder), shape_error(str(error)))
            return
        ticket = self._lane.accept(body)
        mine.setdefault(ticket.store, []).append((ticket.seq, body))

    def _say_left_out(self, field: str) -> None:
        logger.log(
            WARNING if field in self._mapping.lost else INFO,
            "audit %s: events say %s, and no column takes it: it is left out (see the `columns` setting)",
            self.exporter_name,
            field,
        )

    def _load(self, options: dict[str, Any]) -> Settings:
        load_settings(options, {})  # raises where it is the arguments that are wrong
        settings, problems = read_settings(options)
        self._unreadable = "; ".join(problems) or None
        return settings

    def _make_sink_or_hold(self, strict: bool) -> Sink:
        missing = self._unreadable or self._missing(self._settings)
        try:
            if missing is None:
                return self._make_sink(self._settings, self._mapping)
        except ImportError as error:
            missing = str(error)
        except ValueError as error:
            sources = [self._settings.sources[name] for name in self.address_settings if self._settings.chosen(name)]
            missing = f"{error} ({', '.join(sources)})" if sources else str(error)
        if strict:
            raise AuditConfigurationError(f"exporter {self.exporter_name}: {missing}")
        logger.error("audit %s: events are held in the outbox: %s", self.exporter_name, missing)
        return UnconfiguredSink(self.exporter_name, missing)

    def _make_lane(self, strict: bool) -> Lane:
        settings = self._settings
        options = LaneOptions(
            outbox=settings.outbox if self.adopts else "memory",
            outbox_max_bytes=settings.outbox_max_bytes,
            export_timeout_seconds=settings.export_timeout_millis / 1000,
            foreign_key_grace_seconds=settings.foreign_key_grace_seconds,
            schedule_delay_seconds=settings.schedule_delay_millis / 1000,
            slow_write_seconds=settings.slow_write_seconds,
        )
        folders = [] if options.outbox == "memory" else self._folders()
        try:
            return self._lane_with(options, folders)
        except AuditConfigurationError as error:
            if strict:
                raise
            logger.error("audit %s: events are kept in memory only: %s", self.exporter_name, error)
            return self._lane_with(options, [])

    def _lane_with(self, options: LaneOptions, folders: Sequence[OutboxDirectory]) -> Lane:
        letters: DeadLetterStore = MemoryDeadLetters()
        if folders:
            letters = SqliteDeadLetterStore(Path(folders[0].path) / DEAD_LETTERS)
        return Lane(
            self.exporter_name,
            self._sink,
            self._rows_of(),
            folders=folders,
            dead_letters=letters,
            options=options,
            identity=uuid.uuid4().hex,
        )

    def _rows_of(self) -> RowsOf:
        return self._mapping.rows

    def _folders(self) -> list[OutboxDirectory]:
        settings = self._settings
        root = settings.outbox_dir or default_outbox_dir()
        places = dict.fromkeys((self._place(settings), ""))  # what waited for the place to be known, too
        return [
            OutboxDirectory(root, Destination(self.exporter_name, place, settings.schema, settings.table))
            for place in places
        ]


class UnconfiguredSink:
    """Stands where a sink cannot be made yet: it refuses everything as a fault of the configuration."""

    def __init__(self, name: str, missing: str) -> None:
        self.name = name
        self.target = "(not configured)"
        self._missing = missing

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        raise SinkError(Verdict(Fault.CONFIGURATION, remedy=self._missing), f"not configured: {self._missing}")

    def close(self) -> None:
        """Nothing is open."""

    def renew_after_fork(self) -> None:
        """Nothing is inherited."""


def drop_unset(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not said: a configuration file has an empty string for a variable that is not set."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and not (value == "" and name not in MAY_BE_EMPTY)
    }


def make_rules(settings: Settings, mapping: TableMapping) -> EventValidator:
    """Return what these settings ask of an event."""
    encoder = Encoder(Redactor(settings.redact_keys, settings.redact_hook), settings.max_value_bytes)
    return EventValidator(ids=settings.ids, encoder=encoder, required=mapping.required, refused=mapping.refused)


def standalone_exporter() -> AuditExporter | None:
    """Return the first exporter of ours that was built in this process outside of a pipeline (by the SDK, say)."""
    return next(iter(_standalone), None)
