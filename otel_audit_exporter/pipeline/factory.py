"""What an exporter is made of: the mapping of its rows, its sink, the outbox before the sink, and the relay."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otel_audit_exporter.config.options import MAY_BE_EMPTY
from otel_audit_exporter.config.settings import Settings, default_outbox_dir, load_settings, read_settings
from otel_audit_exporter.delivery.channel import DeliveryChannel, DeliveryOptions, RowsOf
from otel_audit_exporter.delivery.pool_member import PoolMember
from otel_audit_exporter.delivery.relay import Relay
from otel_audit_exporter.delivery.sender_pool import SenderPool
from otel_audit_exporter.errors import AuditConfigurationError, OutboxError
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.redaction import Redactor
from otel_audit_exporter.event.validation import EventValidator
from otel_audit_exporter.observability.losses import LossLedger
from otel_audit_exporter.outbox.dead_letter_store import DeadLetterStore, MemoryDeadLetters
from otel_audit_exporter.outbox.destination import Destination
from otel_audit_exporter.outbox.loss_file import LossFile, MemoryLosses
from otel_audit_exporter.outbox.space import SharedQuota
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.sinks.base import Sink, SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.table.mapping import TableMapping

if TYPE_CHECKING:
    from otel_audit_exporter.outbox.directory import OutboxDirectory
    from otel_audit_exporter.outbox.sqlite_dead_letters import SqliteDeadLetterStore

_COLD_AFTER_SECONDS: Final = 2.0


class SinkFactory:
    """How one kind of sink is made, and where its rows go. One instance for each exporter.

    ``name`` is the exporter's. ``adopts``: its outbox may be on disk, and the next process of the same destination
    delivers what is left there. ``restarts``: the sink can be made a second time.
    ``has_settings_only``: it is made of settings, and of nothing that was handed in.
    ``has_columns``: it gets rows; else it takes whole events. ``address_settings``: the settings
    that say where the sink is and who asks there. ``database_settings``: those that a named database may say; none:
    it cannot be in several.
    """

    name: str
    adopts = True
    restarts = True
    has_settings_only = True
    has_columns = True
    address_settings: tuple[str, ...] = ()
    database_settings: tuple[str, ...] = ()

    def make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        """Make the sink. Raises ValueError or ImportError that says what is wrong or missing."""
        raise NotImplementedError

    def place(self, settings: Settings) -> str:
        """Return the host or path that rows go to; empty where it is not known. Asked after :meth:`make_sink`."""
        return ""

    def address(self, settings: Settings) -> str:
        """Return what is kept of where a database is, and compared when its name is used again."""
        return f"{self.name} {self.place(settings)} {settings.schema}"

    def missing(self, settings: Settings) -> str | None:
        """Say which settings are missing to make the sink; None: none is."""
        return None

    def rows_of(self, mapping: TableMapping) -> RowsOf:
        """Return what makes the sink's rows of events' bytes."""
        return mapping.rows

    def folders(self, settings: Settings) -> list[OutboxDirectory]:
        """Return the folders of this destination in the outbox directory, the one to write to first."""
        places = dict.fromkeys((self.place(settings), ""))  # what waited for the place to be known, too
        return [
            outbox_directory(settings, Destination(self.name, place, settings.schema, settings.table))
            for place in places
        ]


def outbox_root(settings: Settings) -> str:
    """Return the outbox directory. Absolute, for the process or a forked child of it may change its directory."""
    return os.path.abspath(settings.outbox_dir or default_outbox_dir())


def outbox_directory(settings: Settings, destination: Destination) -> OutboxDirectory:
    """Return the folder of a destination in the outbox directory."""
    from otel_audit_exporter.outbox.directory import OutboxDirectory

    return OutboxDirectory(outbox_root(settings), destination)


def _import_outbox(settings: Settings, factory: SinkFactory) -> None:
    """Import what an outbox on disk takes, now and not when a thread opens one, which a fork could interrupt."""
    if factory.adopts and settings.outbox != "memory":
        import otel_audit_exporter.outbox.directory
        import otel_audit_exporter.outbox.sqlite_dead_letters  # noqa: F401


class ExporterParts(NamedTuple):
    """What an exporter delivers with."""

    settings: Settings
    mapping: TableMapping
    rules: EventValidator
    sink: Sink
    channel: DeliveryChannel
    relay: Relay | PoolMember
    losses: LossLedger

    def start(self) -> None:
        """Take over what earlier processes have left, and start to deliver."""
        if isinstance(self.relay, Relay):  # a sender of the pool does so when it comes to it
            self.channel.adopt_orphans()
        self.relay.start()


def build_parts(
    factory: SinkFactory,
    settings: Settings,
    *,
    strict: bool,
    unreadable: str | None = None,
    needs_address: bool = True,
) -> ExporterParts:
    """Build what an exporter delivers with.

    ``unreadable`` says what is wrong with the settings. ``strict``: what is missing or wrong is an
    :class:`AuditConfigurationError`. Else the events are held in the outbox, and the log says what is missing.
    ``needs_address=False``: where the address is missing, the sink is an :class:`UnconfiguredSink`.
    """
    _import_outbox(settings, factory)
    mapping, unfit = _mapping_or_default(settings, strict)
    unreadable = unreadable or unfit
    if factory.has_columns:
        warn_of_left_out(factory.name, settings, mapping)
    rules = make_rules(settings, mapping)
    missing = factory.missing(settings)
    try:
        if missing and not needs_address:
            sink: Sink = UnconfiguredSink(factory.name, missing)
        else:
            sink = make_sink(factory, settings, mapping, unreadable)
    except AuditConfigurationError as error:
        if strict:
            raise
        missing = str(error).removeprefix(f"exporter {factory.name}: ")
        logger.error("audit %s: events are held in the outbox: %s", factory.name, missing)
        sink = UnconfiguredSink(factory.name, missing)
    channel = _make_channel(factory, settings, sink, factory.rows_of(mapping), strict)
    relay = Relay(channel, cold_after_seconds=cold_after_seconds(settings), hot=settings.mode == "batch")
    return ExporterParts(settings, mapping, rules, sink, channel, relay, _make_losses(channel))


def cold_after_seconds(settings: Settings) -> float:
    """Return for how long fresh events are left to the SDK's batch processor."""
    return max(_COLD_AFTER_SECONDS, 5 * settings.schedule_delay_millis / 1000)


def build_pooled_parts(
    name: str, shape: TrailShape, sink: Sink, folders: Sequence[OutboxDirectory], pool: SenderPool, quota: SharedQuota
) -> ExporterParts:
    """Build what a destination beside the first one delivers with: a channel that the pool serves.

    Raises :class:`AuditConfigurationError` where the outbox directory cannot be used.
    """
    factory, settings = shape.factory, shape.settings
    options = delivery_options(factory, settings)
    channel = _channel(name, sink, factory.rows_of(shape.mapping), folders, options)
    channel.logs.quota.join(quota)
    return ExporterParts(
        settings, shape.mapping, shape.rules, sink, channel, PoolMember(pool, channel), _make_losses(channel)
    )


class TrailShape(NamedTuple):
    """What a trail's events and rows are like, and what kind of sink takes them."""

    factory: SinkFactory
    settings: Settings
    mapping: TableMapping
    rules: EventValidator


def make_shape(factory: SinkFactory, settings: Settings) -> TrailShape:
    """Return the shape that these settings describe. Raises :class:`AuditConfigurationError` where they do not fit."""
    _import_outbox(settings, factory)
    mapping = make_mapping(settings)
    return TrailShape(factory, settings, mapping, make_rules(settings, mapping))


def make_sink(factory: SinkFactory, settings: Settings, mapping: TableMapping, unreadable: str | None = None) -> Sink:
    """Make the sink. Raises :class:`AuditConfigurationError` that says what is missing or wrong."""
    missing = unreadable or factory.missing(settings)
    try:
        if missing is None:
            return factory.make_sink(settings, mapping)
    except ImportError as error:
        missing = str(error)
    except ValueError as error:
        sources = [settings.sources[name] for name in factory.address_settings if settings.chosen(name)]
        missing = f"{error} ({', '.join(sources)})" if sources else str(error)
    raise AuditConfigurationError(f"exporter {factory.name}: {missing}")


def _make_channel(
    factory: SinkFactory, settings: Settings, sink: Sink, rows_of: RowsOf, strict: bool
) -> DeliveryChannel:
    options = delivery_options(factory, settings)

    def channel_in(folders: Sequence[OutboxDirectory]) -> DeliveryChannel:
        return _channel(factory.name, sink, rows_of, folders, options)

    try:
        return channel_in([] if options.outbox == "memory" else factory.folders(settings))
    except AuditConfigurationError as error:
        if strict:
            raise
        logger.error("audit %s: events are kept in memory only: %s", factory.name, error)
        return channel_in([])


def _channel(
    name: str, sink: Sink, rows_of: RowsOf, folders: Sequence[OutboxDirectory], options: DeliveryOptions
) -> DeliveryChannel:
    letters: DeadLetterStore = stored_dead_letters(folders[0]) if folders else MemoryDeadLetters()
    return DeliveryChannel(
        name, sink, rows_of, directories=folders, dead_letters=letters, options=options, identity=uuid.uuid4().hex
    )


def _make_losses(channel: DeliveryChannel) -> LossLedger:
    if channel.logs.directory is None:
        return LossLedger(MemoryLosses(), channel.dead_letters)
    file = LossFile(channel.logs.directory.path)
    try:
        file.make()
    except OutboxError as error:
        logger.warning("audit %s: %s", channel.name, error)
    return LossLedger(file, channel.dead_letters)


def delivery_options(factory: SinkFactory, settings: Settings) -> DeliveryOptions:
    return DeliveryOptions(
        outbox=settings.outbox if factory.adopts else "memory",
        outbox_max_bytes=settings.outbox_max_bytes,
        outbox_write=settings.outbox_write,
        export_timeout_seconds=settings.export_timeout_millis / 1000,
        foreign_key_grace_seconds=settings.foreign_key_grace_seconds,
        schedule_delay_seconds=settings.schedule_delay_millis / 1000,
        slow_write_seconds=settings.slow_write_seconds,
    )


def stored_dead_letters(folder: OutboxDirectory) -> SqliteDeadLetterStore:
    """Return the dead letters of a destination, which are beside its outbox."""
    from otel_audit_exporter.outbox.directory import DEAD_LETTERS
    from otel_audit_exporter.outbox.sqlite_dead_letters import SqliteDeadLetterStore

    return SqliteDeadLetterStore(Path(folder.path) / DEAD_LETTERS)


def _mapping_or_default(settings: Settings, strict: bool) -> tuple[TableMapping, str | None]:
    """Return the mapping, or the default one and why the environment's settings do not fit a mapping."""
    try:
        return make_mapping(settings), None
    except AuditConfigurationError as error:
        if strict or settings.sources.get("columns") == "columns":
            raise
        return TableMapping(), str(error)


def warn_of_left_out(name: str, settings: Settings, mapping: TableMapping) -> None:
    """Log what the settings leave out of every row now, and what is found around calls when it is."""
    if mapping.dropped:
        logger.warning(
            "audit %s: no column takes %s: they are left out of every row, as `unmapped` asks",
            name,
            ", ".join(mapping.dropped),
        )

    def warn_of_surroundings(lost: Sequence[str]) -> None:
        logger.warning(
            "audit %s: no column takes %s, which were found around the calls: they are left out. To keep them, give "
            "them columns (`columns`, OTEL_AUDIT_COLUMNS), or set OTEL_AUDIT_SURROUNDINGS to ids or all (drop: leave "
            "them out without this warning)",
            name,
            ", ".join(lost),
        )

    if not settings.chosen("surroundings"):
        mapping.on_lost_surroundings(warn_of_surroundings)


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


def read_options(options: Mapping[str, Any]) -> tuple[Settings, str | None]:
    """Return an exporter's settings, and what is wrong with the environment's.

    Raises :class:`AuditConfigurationError` where it is the arguments that are wrong.
    """
    given = drop_unset(options)
    load_settings(given, {})
    settings, problems = read_settings(given)
    return settings, "; ".join(problems) or None


def drop_unset(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not set: a configuration file has an empty string for a variable that is not set."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and not (value == "" and name not in MAY_BE_EMPTY)
    }


def make_mapping(settings: Settings) -> TableMapping:
    """Return which column takes which field."""
    return TableMapping.from_settings(settings)


def make_rules(settings: Settings, mapping: TableMapping) -> EventValidator:
    """Return what these settings ask of an event."""
    redactor = Redactor(settings.redact_keys, settings.redact_hook)
    encoder = Encoder(redactor, settings.max_value_bytes, members=settings.objects == "members")
    optional = {*settings.optional, *(() if settings.tenants else ("yacht_id",))}
    return EventValidator(
        ids=settings.ids,
        encoder=encoder,
        required=mapping.required - optional,
        refused=mapping.refused,
        ip=settings.ip,
    )
