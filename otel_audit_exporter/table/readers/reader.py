"""Events read page by page, in the order of time and id, with little memory however many there are."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import orjson

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS
from otel_audit_exporter.table.readers.base import Order, Source
from otel_audit_exporter.table.readers.columns import Column, ColumnReader
from otel_audit_exporter.table.readers.conditions import SEARCH_COLUMN, Beyond, Condition, conditions_of
from otel_audit_exporter.table.readers.postgres import PostgresSource
from otel_audit_exporter.table.readers.postgrest import PostgRESTSource
from otel_audit_exporter.table.readers.query import EventQuery, QueryError
from otel_audit_exporter.table.readers.sqlite import SQLiteSource
from otel_audit_exporter.table.readers.stored_event import MOST_EXACT, EventCount, StoredEvent, stored_event
from otel_audit_exporter.table.target import table_exporter

PAGE: Final = 500

SOURCES: Final[Mapping[str, Callable[[Settings], Source]]] = {
    "postgres": PostgresSource,
    "supabase": PostgRESTSource,
    "sqlite": SQLiteSource,
}


@dataclass(frozen=True)
class Segment:
    """A stretch of time in which rows were written with one mapping; ``since`` is included, ``until`` is not."""

    columns: ColumnReader
    since: datetime | None = None
    until: datetime | None = None

    def narrowed(self, query: EventQuery) -> EventQuery | None:
        """Return the part of a question that is about this stretch; None where there is none."""
        since = max(filter(None, (self.since, query.since)), default=None)
        until = min(filter(None, (self.until, query.until)), default=None)
        if since is not None and until is not None and since >= until:
            return None
        return replace(query, since=since, until=until)


@dataclass(frozen=True)
class Position:
    """Where an event stands: the number of its segment, and its time and id as the table writes both."""

    segment: int
    at: Any
    key: Any


class EventReader:
    """Reads the events of one table. Raises :class:`SinkError` where that cannot be done."""

    def __init__(self, source: Source, segments: Sequence[Segment], *, ids: str = "uuid") -> None:
        self._source = source
        self._segments = tuple(segments)
        self._ids = ids

    @property
    def has_tenants(self) -> bool:
        """Whether a column takes the tenant."""
        return any("yacht_id" in segment.columns.of for segment in self._segments)

    def events(
        self,
        query: EventQuery,
        *,
        newest_first: bool = True,
        after: StoredEvent | str | None = None,
        limit: int | None = None,
    ) -> Iterator[StoredEvent]:
        """Yield the events asked for, page by page; the question is checked at once."""
        if limit is not None and limit < 0:
            raise QueryError("limit: must not be negative")
        asked = query.normalised(self._ids)
        first = min(limit or PAGE, PAGE)
        found = self._all(asked, newest_first, _position(after, len(self._segments)), first)
        return found if limit is None else (event for _, event in zip(range(limit), found, strict=False))

    def count(self, query: EventQuery, most: int = MOST_EXACT) -> EventCount:
        """Return how many events there are: exactly up to ``most``."""
        asked, counted = query.normalised(self._ids), 0
        for segment in self._segments:
            conditions = self._conditions(segment, asked)
            if conditions is not None:
                counted += self._source.count(conditions, order_of(segment), most - counted)
            if counted > most:
                return EventCount(most, exact=False)
        return EventCount(counted, exact=True)

    def close(self) -> None:
        """Close what is open; a later call opens it again."""
        self._source.close()

    def _all(self, query: EventQuery, newest_first: bool, after: Position | None, first: int) -> Iterator[StoredEvent]:
        numbers = range(len(self._segments))
        for number in reversed(numbers) if newest_first else numbers:
            if after is not None and (number > after.segment if newest_first else number < after.segment):
                continue
            begin = after if after is not None and number == after.segment else None
            yield from self._of_segment(number, query, newest_first, begin, first)

    def _of_segment(
        self, number: int, query: EventQuery, newest_first: bool, beyond: Position | None, size: int
    ) -> Iterator[StoredEvent]:
        """Yield the events of a segment; ``size``: so many rows at first, as many as a whole page after that."""
        segment = self._segments[number]
        conditions = self._conditions(segment, query)
        if conditions is None:
            return
        order = order_of(segment, newest_first=newest_first)
        known = list(segment.columns.known)
        while True:
            page = self._source.rows(known, [*conditions, *_beyond(order, beyond)], order, size)
            size = PAGE
            if not page:  # and no sooner: a server may have a limit of its own
                return
            for row in page:
                beyond = Position(number, row[order.at.name], row[order.key.name])
                event = self._event(segment.columns, row, beyond)
                if _is_meant(event, query):
                    yield event

    def _conditions(self, segment: Segment, query: EventQuery) -> list[Condition] | None:
        narrowed = segment.narrowed(query)
        if narrowed is None:
            return None
        searchable = query.text is not None and self._source.searchable()
        return conditions_of(
            narrowed,
            segment.columns,
            ids=self._ids,
            searchable=searchable,
            is_there=lambda condition: self._source.count([condition], order_of(segment), 0) > 0,
        )

    def _event(self, columns: ColumnReader, row: Mapping[str, Any], position: Position) -> StoredEvent:
        other = {name: value for name, value in columns.other(row).items() if name != SEARCH_COLUMN}
        return stored_event(columns.values(row, all_text=self._source.json_is_text), other, _mark(position))


def open_reader(settings: Settings, name: str | None = None) -> EventReader:
    """Return a reader for the exporter called ``name``, by default the first chosen one with a table.

    Raises :class:`AuditConfigurationError` where there is none, or its settings are missing or wrong.
    """
    name = name or table_exporter(settings)
    try:
        return EventReader(SOURCES[name](settings), segments_of(settings), ids=settings.ids)
    except AuditConfigurationError:
        raise
    except (ValueError, ImportError) as error:
        raise AuditConfigurationError(f"exporter {name}: {error}") from None


def segments_of(settings: Settings) -> list[Segment]:
    """Return the stretches of time with a mapping of their own, the oldest first."""
    now = settings.columns or DEFAULT_COLUMNS
    before = sorted((settings.columns_before or {}).items())
    bounds = [None, *(until for until, _ in before), None]
    mappings = [ColumnReader(columns, beside=now) for _, columns in before] + [ColumnReader(now)]
    return [Segment(*each) for each in zip(mappings, bounds[:-1], bounds[1:], strict=True)]


def order_of(segment: Segment, *, newest_first: bool = True) -> Order:
    """Return the columns that rows of a stretch of time are put in order by."""
    at, key = (Column(segment.columns.of[name]) for name in ("timestamp", "record_id"))
    return Order(at, key, newest_first)


def _beyond(order: Order, position: Position | None) -> list[Condition]:
    if position is None:
        return []
    return [Beyond(order.at, order.key, (position.at, position.key), order.newest_first)]


def _is_meant(event: StoredEvent, query: EventQuery) -> bool:
    """Return whether a row that was found really fits the query: two columns may hold different values."""
    if query.tenants is not None and event.yacht_id not in query.tenants:
        return False
    return query.outcome is None or event.outcome == query.outcome


def _mark(position: Position) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([position.segment, position.at, position.key])).decode().rstrip("=")


def _position(after: StoredEvent | str | None, segments: int) -> Position | None:
    if after is None:
        return None
    mark = after.mark if isinstance(after, StoredEvent) else str(after)
    try:
        number, at, key = orjson.loads(base64.b64decode(mark + "=" * (-len(mark) % 4), b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error):
        raise QueryError("after: is no mark of an event that was read") from None
    if type(number) is not int or not 0 <= number < segments or not _plain(at) or not _plain(key):
        raise QueryError("after: is no mark of an event that was read")
    return Position(number, at, key)


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float) and not (isinstance(value, str) and "\0" in value)
