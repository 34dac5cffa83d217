"""What an application asks its own trail: every event, whichever tenant it belongs to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import datetime
from itertools import islice
from typing import Any, Final
from uuid import UUID

from otel_audit_exporter.pipeline.reading import open_trail
from otel_audit_exporter.table.readers import EventCount, EventReader, StoredEvent
from otel_audit_exporter.table.readers.query import arguments_query

Id = str | int | UUID
_AT_ONCE: Final = 500


def read_events(
    trail: str | None = None,
    database: str | None = None,
    *,
    entity: tuple[str, Id] | None = None,
    user: Id | None = None,
    tenant: Id | None = None,
    action: str | None = None,
    outcome: str | None = None,
    request_id: str | None = None,
    trace_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    text: str | None = None,
    newest_first: bool = True,
    after: StoredEvent | str | None = None,
    limit: int | None = None,
) -> Iterator[StoredEvent]:
    """Yield the events that are in the table, page by page, with little memory however many there are.

    Every field comes back in its place and every row is given: nothing is left out and there is no limit but yours.
    It is the application's own view, of all tenants. Events are in the order of time and id. The table read is that
    of the configured pipeline, else the one that the environment names.

    :param entity: type and id, such as ``("part", part_id)``.
    :param user: who did it; ``tenant``: on which yacht. Ids are found in any spelling of a UUID.
    :param action: the kind of event; ``outcome``: ``"success"``, ``"failure"`` or ``"unknown"``.
    :param request_id: the request; ``trace_id``: the trace in which it was recorded.
    :param since: from this time on (aware); ``until``: before this time.
    :param text: what action, entity or user is or begins with; also a part of the values, where the table has the
        column that ``otel-audit schema --search`` makes.
    :param newest_first: newest first by default, else the oldest.
    :param after: the event, or its ``mark``, behind which to go on: the last one of the page before.
    :param limit: at most so many; by default all.
    :raises AuditConfigurationError: at the call, for an argument that is wrong and where there is no table to read.
        While reading, :class:`SinkError` where the table cannot be read.
    """
    query = arguments_query(locals())
    reader = open_trail(trail, database)
    events = reader.events(query, newest_first=newest_first, after=after, limit=limit)
    return _closing(reader, events)


async def read_events_async(
    trail: str | None = None, database: str | None = None, **asked: Any
) -> AsyncIterator[StoredEvent]:
    """Yield what :func:`read_events` does, with the same arguments; the event loop is never held up."""
    import asyncio

    events = read_events(trail, database, **asked)
    try:
        while page := await asyncio.to_thread(lambda: list(islice(events, _AT_ONCE))):
            for event in page:
                yield event
    finally:
        await asyncio.to_thread(events.close)  # type: ignore[attr-defined]  # a generator's


def count_events(
    trail: str | None = None,
    database: str | None = None,
    *,
    entity: tuple[str, Id] | None = None,
    user: Id | None = None,
    tenant: Id | None = None,
    action: str | None = None,
    outcome: str | None = None,
    request_id: str | None = None,
    trace_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    text: str | None = None,
) -> EventCount:
    """Return how many events there are: exactly up to 10,000, and "10,000+" beyond.

    The arguments are those of :func:`read_events`, and so are the errors.
    """
    query = arguments_query(locals())
    with closing(open_trail(trail, database)) as reader:
        return reader.count(query)


def _closing(reader: EventReader, events: Iterator[StoredEvent]) -> Iterator[StoredEvent]:
    with closing(reader):
        yield from events
