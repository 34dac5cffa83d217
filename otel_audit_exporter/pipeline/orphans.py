"""Events that ended processes have left for trails and named databases: they are delivered or reported.

At start and every minute the logs that nobody holds are listed. A destination whose names can be resolved here is
opened, which takes them over; the health reports the others. A log that another process held is soon examined again:
that process may have been killed just now.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.event.routing import DEFAULT_TRAIL, RouteName
from otel_audit_exporter.outbox.destination import Destination
from otel_audit_exporter.outbox.held_elsewhere import FIRST_SECONDS, LONGEST_SECONDS, HeldElsewhere
from otel_audit_exporter.outbox.inspection import LogsLeft, OutboxFileStatus, orphans_under
from otel_audit_exporter.pipeline.destinations import Destinations
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import register_renewed
from otel_audit_exporter.runtime.times import duration_words
from otel_audit_exporter.sinks.base import SinkError

_RESOLVING_SECONDS: Final = 0.5
OPENED_AT_ONCE: Final = 50


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
        self._begin()
        register_renewed(self)

    def _begin(self) -> None:
        self._held = HeldElsewhere()
        self._look_at_all_at = 0.0
        self._put_off: set[Path] = set()  # folders that follow when the opened ones are empty
        self._opened: set[RouteName] = set()
        self._waiting: dict[Path, Orphaned] = {}

    @property
    def waiting(self) -> tuple[Orphaned, ...]:
        """What nobody here can deliver."""
        return tuple(self._waiting.values())

    def look(self) -> float:
        """Open the destinations that events were left for, a few at a time; remember those that nobody here knows.

        Return after how many seconds to look again.
        """
        if Clock.monotonic() >= self._look_at_all_at:
            self._look_at_all()
        else:
            self._look_again()
        soon = Clock.monotonic() + FIRST_SECONDS if self._put_off else self._held.next_at
        return max(min(soon, self._look_at_all_at) - Clock.monotonic(), 0.0)

    def _look_at_all(self) -> None:
        self._look_at_all_at = Clock.monotonic() + LONGEST_SECONDS
        self._put_off.clear()
        folders, held = self._look_through(None, self._room())
        self._waiting = {folder: one for folder, one in self._waiting.items() if folder in folders}
        self._held.keep(held)

    def _look_again(self) -> None:
        due, room = self._held.due(), self._room()
        ready = set(sorted(self._put_off)[:room])
        self._put_off -= ready
        _, held = self._look_through(sorted({path.parent for path in due} | ready), room)
        for path in due:
            if path not in held:
                self._held.forget(path)

    def renew_after_fork(self) -> None:
        """In a forked child: look anew."""
        self._begin()

    def _room(self) -> int:
        """Return how many destinations may be opened while others that were opened here still deliver."""
        routes = self._destinations.routes
        channels = {name: routes[name].primary.channel for name in self._opened if name in routes}
        self._opened = {name for name, one in channels.items() if one.logs.adopted and one.sender.backoff.is_open}
        return max(OPENED_AT_ONCE - len(self._opened), 0)

    def _look_through(self, folders: Sequence[Path] | None, room: int) -> tuple[set[Path], set[Path]]:
        """Return the folders that exist, and the logs that others hold of destinations that are not open here."""
        found: set[Path] = set()
        held: set[Path] = set()
        for destination, logs in orphans_under(self._root, folders):
            found.add(logs.folder)
            name = self._name_of(destination)
            if name is None or self._destinations.closed:
                continue
            if name not in self._destinations.routes:  # otherwise its own channel looks again
                held.update(logs.held)
            room -= self._deliver(name, logs, room)
        for path in held:
            self._held.note(path)
        return found, held

    def _deliver(self, name: RouteName, logs: LogsLeft, room: int) -> bool:
        """Open a destination that events were left for, if there is room; return whether it was opened."""
        why = self._why_unknown(name) if logs.orphans else None
        if why is not None:
            self._waiting[logs.folder] = _orphaned(name, logs.orphans, why)
            return False
        self._waiting.pop(logs.folder, None)
        if not logs.orphans:
            return False
        if room <= 0:
            self._put_off.add(logs.folder)
            return False
        self._opened.add(name)
        with suppress(OutboxError):  # for example a full disk: it is tried again in a minute
            self._destinations.adopt(name)
        return True

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
