"""Events that ended processes have left for trails and named databases: they are delivered or reported.

At start and every minute the logs that nobody holds are listed. A destination whose names can be resolved here is
opened, which takes them over; the health reports the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from otel_audit_exporter.event.routing import DEFAULT_TRAIL, RouteName
from otel_audit_exporter.outbox.directory import Destination
from otel_audit_exporter.outbox.inspection import OutboxFileStatus, orphans_under
from otel_audit_exporter.pipeline.destinations import Destinations
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.times import duration_words
from otel_audit_exporter.sinks.base import SinkError

_RESOLVING_SECONDS: Final = 0.5
_OPENED_AT_ONCE: Final = 50


@dataclass(frozen=True)
class Orphaned:
    """Events for a named database that nobody here can resolve."""

    name: RouteName
    events: int
    oldest: datetime | None
    why: str

    def words(self, now: datetime) -> str:
        """Return the reason that health gives."""
        where = f"database {self.name.database}"
        where += "" if self.name.trail == DEFAULT_TRAIL else f" (trail {self.name.trail})"
        waits = None if self.oldest is None else max((now - self.oldest).total_seconds(), 0)
        age = "" if waits is None else f", the oldest for {duration_words(waits, digits=0)}"
        remedy = f"`otel-audit outbox drain --database {self.name.database}` delivers them"
        wait = "event waits" if self.events == 1 else "events wait"
        return f"{self.events:,} {wait} for {where}{age}; {self.why}. What to do: {remedy}"


class Orphanage:
    """Looks for what is left behind in the outbox directory of one pipeline."""

    def __init__(self, destinations: Destinations, root: str) -> None:
        self._destinations = destinations
        self._root = root
        self.waiting: tuple[Orphaned, ...] = ()

    def look(self) -> None:
        """Open the destinations that events were left for, a few at a time; note those that nobody here knows."""
        waiting: list[Orphaned] = []
        opened = 0
        for destination, logs in orphans_under(self._root):
            name = self._name_of(destination)
            if name is None or self._destinations.closed:
                continue
            why = self._why_unknown(name)
            if why is not None:
                waiting.append(_orphaned(name, logs, why))
            elif opened < _OPENED_AT_ONCE:
                opened += 1
                self._destinations.adopt(name)
        self.waiting = tuple(waiting)

    def _name_of(self, destination: Destination) -> RouteName | None:
        if destination.database:
            return RouteName(destination.trail, destination.database)
        return self._destinations.name_of_place(destination)

    def _why_unknown(self, name: RouteName) -> str | None:
        if name.trail not in self._destinations.trails:
            return f"there is no trail {name.trail} here"
        if name.database is None:
            return None
        try:
            self._destinations.databases.settings_of(name.database, Clock.monotonic() + _RESOLVING_SECONDS)
        except SinkError as error:
            return "nobody here knows it" if "nobody" in error.message else error.message
        return None


def _orphaned(name: RouteName, logs: Sequence[OutboxFileStatus], why: str) -> Orphaned:
    oldest = min((log.oldest for log in logs if log.oldest is not None), default=None)
    return Orphaned(name, sum(log.events or 0 for log in logs), oldest, why)
