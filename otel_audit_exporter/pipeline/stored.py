"""What a destination has on disk beside its logs, opened by itself: its dead letters and its losses."""

from __future__ import annotations

from dataclasses import replace

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.config.trail_settings import trail_settings
from otel_audit_exporter.delivery.dead_letters import StoredLetters
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.routing import DEFAULT_TRAIL, RouteName
from otel_audit_exporter.observability.losses import LossLedger
from otel_audit_exporter.outbox.address_file import AddressFile
from otel_audit_exporter.outbox.destination import Destination
from otel_audit_exporter.outbox.directory import OutboxDirectory
from otel_audit_exporter.outbox.loss_file import LossFile
from otel_audit_exporter.pipeline.building import DEFAULT_EXPORTER
from otel_audit_exporter.pipeline.databases import Databases
from otel_audit_exporter.pipeline.factory import (
    SinkFactory,
    TrailShape,
    delivery_options,
    make_shape,
    make_sink,
    outbox_root,
    stored_dead_letters,
)
from otel_audit_exporter.pipeline.resolving_sink import ResolvingSink
from otel_audit_exporter.pipeline.sink_factories import SINK_FACTORIES
from otel_audit_exporter.sinks.base import Sink


def stored_letters(settings: Settings, trail: str | None = None, database: str | None = None) -> StoredLetters:
    """Return the dead letters of a destination with the sink that they can be offered to, and nothing else of it.

    The settings have the address of a named ``database``. Raises :class:`AuditConfigurationError` where a setting is
    missing, or where that exporter keeps none on disk.
    """
    shape, sink, folder = _opened(settings, RouteName(trail or DEFAULT_TRAIL, database))
    options = delivery_options(shape.factory, shape.settings)
    letters = stored_dead_letters(folder)
    return StoredLetters(sink, shape.factory.rows_of(shape.mapping), letters, options, shape.rules)


def stored_losses(settings: Settings, trail: str | None = None, database: str | None = None) -> LossLedger:
    """Return the losses of a destination, and nothing else of it. Raises as :func:`stored_letters` does."""
    _, sink, folder = _opened(settings, RouteName(trail or DEFAULT_TRAIL, database))
    sink.close()
    return LossLedger(LossFile(folder.path), stored_dead_letters(folder))


def settings_of_trail(settings: Settings, trail: str | None) -> Settings:
    """Return the settings of a trail that the environment declares. Raises :class:`AuditConfigurationError`."""
    if trail is None or trail == DEFAULT_TRAIL:
        return settings
    declared = trail_settings(replace(settings, exporter=settings.exporter or DEFAULT_EXPORTER), None)
    if trail not in declared:
        names = ", ".join([DEFAULT_TRAIL, *declared])
        raise AuditConfigurationError(f"there is no trail {trail!r} ({names}): declare it in OTEL_AUDIT_TRAILS")
    return declared[trail]


def settings_of_table(settings: Settings, trail: str | None, database: str | None) -> Settings:
    """Return the settings of a trail's table; those given say where a named ``database`` is.

    Raises :class:`AuditConfigurationError` where its rows were delivered to another address so far.
    """
    settings = settings_of_trail(settings, trail)
    if database is None or database == DEFAULT_TRAIL:
        return settings
    factory = _factory_on_disk(settings)
    make_sink(factory, settings, make_shape(factory, settings).mapping).close()  # after which it knows its place
    folder = OutboxDirectory(outbox_root(settings), Destination(trail=trail or DEFAULT_TRAIL, database=database))
    here = factory.address(settings)
    kept = AddressFile(folder.path).read()
    if kept is not None and kept != here:
        raise AuditConfigurationError(f"database {database}: its rows are at {kept}, and the settings lead to {here}")
    return settings


def address_of(settings: Settings) -> dict[str, object]:
    """Return what these settings say of where a database is."""
    allowed = _factory_on_disk(settings).database_settings
    return {name: value for name in allowed if (value := getattr(settings, name)) is not None}


def _opened(settings: Settings, name: RouteName) -> tuple[TrailShape, Sink, OutboxDirectory]:
    settings = settings_of_trail(settings, name.trail)
    factory = _factory_on_disk(settings)
    shape = make_shape(factory, settings)
    if name.database is None:
        sink = make_sink(factory, settings, shape.mapping)  # after which the factory knows its place
        return shape, sink, factory.folders(settings)[0]
    folder = OutboxDirectory(outbox_root(settings), Destination(trail=name.trail, database=name.database))
    databases = Databases({name.database: address_of(settings)})
    return shape, ResolvingSink(name, shape, type(factory), databases, AddressFile(folder.path)), folder


def _factory_on_disk(settings: Settings) -> SinkFactory:
    first = (settings.exporter or DEFAULT_EXPORTER).lower().replace(" ", "").partition(",")[0]
    make = SINK_FACTORIES.get(first)
    made = None if make is None else make()
    if made is None or not made.adopts:
        raise AuditConfigurationError(f"exporter {first!r} keeps no dead letters on disk, and no losses")
    return made
