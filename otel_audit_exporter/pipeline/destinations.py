"""The destinations of a pipeline: each is a trail in a database, with logs of its own.

A destination is opened at its first event, once, and found in a plain dict from then on. Nobody is asked where a named
database is before something is to be delivered there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.config.trail_settings import database_settings
from otel_audit_exporter.delivery.log_set import start_error
from otel_audit_exporter.delivery.sender_pool import SenderPool
from otel_audit_exporter.errors import AuditConfigurationError, AuditEventError
from otel_audit_exporter.event.routing import RouteName
from otel_audit_exporter.outbox.address_file import AddressFile
from otel_audit_exporter.outbox.destination import Destination
from otel_audit_exporter.outbox.space import SharedQuota
from otel_audit_exporter.pipeline.databases import LIMIT_SECONDS, Databases
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.factory import (
    ExporterParts,
    SinkFactory,
    TrailShape,
    UnconfiguredSink,
    build_pooled_parts,
    cold_after_seconds,
    outbox_directory,
)
from otel_audit_exporter.pipeline.resolving_sink import ResolvingSink
from otel_audit_exporter.pipeline.trails import Trail, TrailKind
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock
from otel_audit_exporter.sinks.base import Sink, SinkError

if TYPE_CHECKING:
    from otel_audit_exporter.outbox.directory import OutboxDirectory

_OWN_CONNECTIONS = 6  # at most, of the first destination: its sender, helpers and receipts, and the SDK's worker


class PooledExporter(AuditExporter):
    """The exporter of a destination beside the first one. The pool delivers; the SDK never calls it."""

    def __init__(self, factory: SinkFactory, parts: ExporterParts, name: RouteName) -> None:
        self._factory = factory
        self.trail = name.trail
        self.database = name.database
        self._start(parts)
        self.own_by_pipeline()


class Route:
    """One destination: its exporters, the first of which is the primary."""

    def __init__(self, name: RouteName, exporters: Sequence[AuditExporter]) -> None:
        self.name = name
        self.exporters = tuple(exporters)
        self.primary = self.exporters[0]
        self.waited_in_vain_at = -1

    def deliver_more(self) -> None:
        """Have what waits in it delivered. Takes no lock."""
        for exporter in self.exporters:
            exporter.relay.deliver_more()


class Destinations:
    """Opens and finds the routes of one pipeline."""

    def __init__(self, default: Route, trails: Mapping[str, Trail], databases: Databases, settings: Settings) -> None:
        self.trails = dict(trails)
        self.databases = databases
        # Without an address of its own, the first destination takes nothing: each event names a database.
        self.named_only = databases.configured and isinstance(default.primary.sink, UnconfiguredSink)
        self.routes: dict[tuple[str, str | None], Route] = {} if self.named_only else {default.name: default}
        self.closed = False
        self.on_open: Callable[[AuditExporter], None] = lambda exporter: None
        self._default = default
        self._settings = settings
        self._lock = ForkSafeLock()
        self._pool: SenderPool | None = None
        self._quota = SharedQuota(settings.outbox_max_bytes)
        self._secondaries: dict[str, tuple[AuditExporter, ...]] = {default.name.trail: default.exporters[1:]}

    @property
    def pool(self) -> SenderPool:
        """What delivers for every destination but the first; made with the second one."""
        if self._pool is None:
            settings = self._settings
            self._default.primary.channel.logs.quota.join(self._quota)
            self._pool = SenderPool(
                max_connections=max(settings.max_connections - _OWN_CONNECTIONS, 1),
                cold_after_seconds=cold_after_seconds(settings),
                hot=settings.mode == "batch" and not self.without_sdk,
            )
        return self._pool

    without_sdk = False

    def find(self, name: RouteName) -> Route:
        """Return a destination, which is opened where this is its first event.

        Raises :class:`AuditEventError` where there is no such destination, and :class:`OutboxError` where its log
        cannot be opened.
        """
        route = self.routes.get(name)
        if route is not None:
            return route
        trail = self._trail_of(name)
        with self._lock:
            route = self.routes.get(name)
            if route is None:
                try:
                    route = self._open(name, trail)
                except AuditConfigurationError as error:
                    raise start_error(error) from error
                self.routes[name] = route
        return route

    def take(self, exporters: Iterable[AuditExporter]) -> None:
        """Let trails be delivered by exporters that were made for them."""
        for exporter in exporters:
            name = RouteName(exporter.trail)
            shape = TrailShape(exporter.factory, exporter.settings, exporter.mapping, exporter.rules)
            self.trails[name.trail] = Trail(name.trail, (TrailKind(shape, None, exporter.sink),))
            self.routes.setdefault(name, Route(name, [exporter]))

    def settings_of(self, name: RouteName) -> tuple[Settings, str]:
        """Return the settings that a destination's table is read with, and its exporter's name.

        Raises :class:`AuditConfigurationError` where the names cannot be resolved.
        """
        kind = self.trails[name.trail].primary
        settings, exporter = kind.shape.settings, kind.shape.factory.name
        if name.database is None:
            return settings, exporter
        try:
            given = self.databases.settings_of(name.database, Clock.monotonic() + LIMIT_SECONDS)
        except SinkError as error:
            raise AuditConfigurationError(str(error)) from None
        return database_settings(settings, name.database, given, kind.shape.factory.database_settings), exporter

    @property
    def several(self) -> bool:
        """Whether there may be other destinations than the first one."""
        return len(self.trails) > 1 or self.databases.configured

    def adopt(self, name: RouteName) -> None:
        """Take over what processes that have ended have left for this destination, and have it delivered."""
        exporter = self.find(name).primary
        if exporter.channel.adopt_orphans():
            exporter.relay.deliver_now()

    def looks_after(self, destination: Destination) -> bool:
        """Return whether events that wait for this destination are taken over; else the health reports them."""
        named = bool(destination.database) and self.databases.configured
        return named or self.name_of_place(destination) is not None

    def name_of_place(self, destination: Destination) -> RouteName | None:
        """Return the trail beside the default one whose rows go to this address."""
        for trail in self.trails.values():
            shape = trail.primary.shape
            if trail.primary.sink is None or trail.name == self._default.name.trail:
                continue
            if any(folder.destination == destination for folder in shape.factory.folders(shape.settings)):
                return RouteName(trail.name)
        return None

    def _trail_of(self, name: RouteName) -> Trail:
        trail = self.trails.get(name.trail)
        if trail is None:
            raise AuditEventError({"trail": f"there is no trail {name.trail!r} ({', '.join(self.trails)})"})
        if name.database is not None and not self.databases.configured:
            raise AuditEventError({"database": "no databases are configured (configure_audit(databases=...))"})
        if name.database is None and (trail.primary.sink is None or name == self._default.name):
            raise AuditEventError({"database": f"is missing: trail {name.trail!r} has no address of its own"})
        return trail

    def _open(self, name: RouteName, trail: Trail) -> Route:
        primary, *secondaries = trail.kinds
        if trail.name not in self._secondaries:
            here = RouteName(trail.name)
            self._secondaries[trail.name] = tuple(self._exporter(here, kind) for kind in secondaries)
        others = self._secondaries[trail.name]
        if name.database is not None:  # no rows of several databases in one table
            others = tuple(one for one in others if not one.factory.has_columns)
        route = Route(name, (self._exporter(name, primary), *others))
        if self.closed:
            route.primary.close(Clock.monotonic(), patient=False)
        return route

    def _exporter(self, name: RouteName, kind: TrailKind) -> AuditExporter:
        shape = kind.shape
        folders = self._folders(name, shape.factory, shape.settings)
        sink = kind.sink if name.database is None else self._resolving(name, kind, folders)
        assert sink is not None
        parts = build_pooled_parts(f"{shape.factory.name} {name}", shape, sink, folders, self.pool, self._quota)
        exporter = PooledExporter(shape.factory, parts, name)
        self.on_open(exporter)
        return exporter

    def _folders(self, name: RouteName, factory: SinkFactory, settings: Settings) -> list[OutboxDirectory]:
        if settings.outbox == "memory" or not factory.adopts:
            return []
        if name.database is None:
            return factory.folders(settings)
        if name.database in self.databases.addresses:  # known by it, as the first destination is
            return self._folders_at(name.database, factory, settings)
        return [outbox_directory(settings, Destination(trail=name.trail, database=name.database))]

    def _folders_at(self, database: str, factory: SinkFactory, settings: Settings) -> list[OutboxDirectory]:
        there = database_settings(settings, database, self.databases.known[database], factory.database_settings)
        return factory.folders(there)

    def _resolving(self, name: RouteName, kind: TrailKind, folders: Sequence[OutboxDirectory]) -> Sink:
        assert kind.new_factory is not None
        folder: Path | None = folders[0].path if folders and name.database not in self.databases.addresses else None
        return ResolvingSink(name, kind.shape, kind.new_factory, self.databases, AddressFile(folder))

    @property
    def opened(self) -> tuple[Route, ...]:
        """Every destination that is open, the first one first."""
        return tuple(dict.fromkeys((self._default, *self.routes.values())))

    def others(self) -> dict[RouteName, AuditExporter]:
        """Return the primary exporters of the open destinations beside the first one."""
        first = self._default.primary
        return {route.name: route.primary for route in self.opened if route.primary is not first}

    def exporters(self) -> tuple[AuditExporter, ...]:
        """Every exporter of an open destination, once."""
        found: Iterable[AuditExporter] = (one for route in self.opened for one in route.exporters)
        return tuple(dict.fromkeys(found))

    def end(self, deadline: float) -> None:
        """End the pool's threads."""
        if self._pool is not None:
            self._pool.stop(deadline)


def check_databases(trails: Mapping[str, Trail], databases: Databases) -> None:
    """Raise :class:`AuditConfigurationError` where the sinks of a trail cannot be in several databases."""
    for trail in trails.values() if databases.configured else ():
        others = [kind.shape.factory.name for kind in trail.kinds[1:] if kind.shape.factory.has_columns]
        if not trail.primary.takes_databases or others:
            name = others[0] if others else trail.primary.shape.factory.name
            raise AuditConfigurationError(
                f"databases: trail {trail.name!r}: exporter {name} is in one place only, so the rows of all databases "
                "would be mixed there"
            )


def check_places(trails: Mapping[str, Trail]) -> None:
    """Raise :class:`AuditConfigurationError` where two trails would write to one table: each has its own columns."""
    seen: dict[Destination, str] = {}
    for trail in trails.values():
        for kind in trail.kinds:
            shape = kind.shape
            if kind.sink is None or not (shape.factory.has_columns and shape.factory.adopts):
                continue
            place = shape.factory.place(shape.settings)
            where = Destination(shape.factory.name, place, shape.settings.schema, shape.settings.table)
            if where in seen:
                raise AuditConfigurationError(f"trails {seen[where]!r} and {trail.name!r} write to one table: {where}")
            seen[where] = trail.name
