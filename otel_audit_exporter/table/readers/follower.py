"""What comes into a table, asked for again and again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from otel_audit_exporter.table.readers.query import EventQuery
from otel_audit_exporter.table.readers.reader import EventReader
from otel_audit_exporter.table.readers.stored_event import StoredEvent

OVERLAP_SECONDS: Final = 60.0


class Follower:
    """Asks again and again for what is new.

    Events land in the table a little after their time, and not in its order: each time the last
    ``overlap_seconds`` are read again, and what was seen is left out. What lands later than that is not seen.
    """

    def __init__(
        self, reader: EventReader, query: EventQuery, *, now: datetime, overlap_seconds: float = OVERLAP_SECONDS
    ):
        self._reader = reader
        self._query = query
        self._overlap = timedelta(seconds=overlap_seconds)
        self._seen: dict[str, datetime] = {}
        self._latest = now if query.since is None else max(now, query.since)
        self._shown_until: datetime | None = None
        self._begun = False

    def note(self, event: StoredEvent) -> None:
        """Take note of an event that was shown before the first look."""
        moment = event.timestamp or self._latest
        if self._shown_until is None or moment > self._shown_until:
            self._shown_until = self._latest = moment
        self._seen[event.record_id] = moment
        self._forget()

    def poll(self) -> list[StoredEvent]:
        """Return the events that were not seen before, the oldest first."""
        fresh = [event for event in self._recent() if event.record_id not in self._seen]
        shown_until, first = self._shown_until, not self._begun
        for event in fresh:
            moment = event.timestamp or self._latest
            self._seen[event.record_id] = moment
            self._latest = max(self._latest, moment)
        self._forget()
        self._begun = True
        if not first or shown_until is None:
            return fresh
        return [event for event in fresh if (event.timestamp or shown_until) > shown_until]

    def _recent(self) -> Iterator[StoredEvent]:
        since = self._latest - self._overlap
        if self._query.since is not None:
            since = max(since, self._query.since)
        return self._reader.events(replace(self._query, since=since), newest_first=False)

    def _forget(self) -> None:
        oldest = self._latest - self._overlap
        if len(self._seen) > 1000 or self._begun:
            self._seen = {known: at for known, at in self._seen.items() if at >= oldest}
