"""The one way from a route to the reader: nothing is read without knowing for whom."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from otel_audit_exporter.errors import AuditError
from otel_audit_exporter.pipeline.reading import DEFAULT_TRAIL, check_names, open_trail, trail_settings
from otel_audit_exporter.runtime.fork_safety import register_renewed, renew_if_forked
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.table.readers import EventCount, EventQuery, EventReader, StoredEvent
from otel_audit_exporter.trail.filters import TrailFilter
from otel_audit_exporter.trail.identity import Reader

_KEPT: Final = 4
_SOURCE: Final = ("source_ip", "user_agent")


class NotAllowedError(Exception):
    """Say that this reader may not see what was asked for."""


class ScopedTrail:
    """Reads for somebody: only what that reader may see. Safe to use from several threads at once."""

    def __init__(self) -> None:
        self._idle: deque[tuple[object, EventReader]] = deque()
        self._inherited: list[object] = []
        register_renewed(self)

    def events(
        self, reader: Reader, asked: TrailFilter, *, after: str | None = None, limit: int | None = None
    ) -> Iterator[StoredEvent]:
        """Yield the events that were asked for and that this reader may see."""
        query = _scoped(reader, asked)
        with self._open(asked) as table:
            events = table.events(query, newest_first=asked.newest_first, after=after, limit=limit)
            yield from (_seen_by(reader, event) for event in events)

    def count(self, reader: Reader, asked: TrailFilter) -> EventCount:
        """Return how many events were asked for that this reader may see."""
        query = _scoped(reader, asked)
        with self._open(asked) as table:
            return table.count(query)

    def shows_any(self, reader: Reader) -> bool:
        """Return whether the table shows anything at all to this reader, who may not see events without a tenant."""
        if reader.scope is None:
            return True
        with self._open(TrailFilter({})) as table:
            return table.has_tenants

    def warn_of_missing_tenants(self) -> bool:
        """Log it where only readers who may see all see anything; return whether that was the case."""
        try:
            with self._open(TrailFilter({})) as table:
                if table.has_tenants:
                    return False
        except AuditError:  # the answers show what is wrong with it
            return False
        logger.warning("audit: no column takes yacht_id, so the trail shows nothing to a reader who may not see ALL")
        return True

    @contextmanager
    def _open(self, asked: TrailFilter) -> Iterator[EventReader]:
        trail, database = asked.given.get("trail"), asked.given.get("database")
        renew_if_forked()
        key = (trail, database, trail_settings(trail, database))
        table = self._take(key) or open_trail(trail, database)
        try:
            yield table
        except GeneratorExit:
            self._keep(key, table)
            raise
        except BaseException:
            table.close()
            raise
        self._keep(key, table)

    def renew_after_fork(self) -> None:
        """In a forked child: use none of the parent's connections, and keep them open for it."""
        self._inherited.append(list(self._idle))
        self._idle = deque()

    def _take(self, key: object) -> EventReader | None:
        while True:
            try:
                known, table = self._idle.pop()
            except IndexError:
                return None
            if known == key:
                return table
            table.close()

    def _keep(self, key: object, table: EventReader) -> None:
        if len(self._idle) < _KEPT:
            self._idle.append((key, table))
        else:
            table.close()


def _scoped(reader: Reader, asked: TrailFilter) -> EventQuery:
    """Return the question as this reader may ask it."""
    if not isinstance(reader, Reader):
        raise NotAllowedError("identify_reader returned no Reader")
    trail, database = asked.given.get("trail") or DEFAULT_TRAIL, asked.given.get("database")
    if trail not in reader.trails:
        raise NotAllowedError("this trail is not for you")
    check_names(trail, database)
    return replace(asked.query(), tenants=reader.scope)


def _seen_by(reader: Reader, event: StoredEvent) -> StoredEvent:
    """Return the event as this reader may see it."""
    if reader.sees_source:
        return event
    other: dict[str, Any] = {name: value for name, value in event.other.items() if name not in _SOURCE}
    return replace(event, source_ip=None, user_agent=None, other=other)
