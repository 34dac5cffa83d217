"""Rows read back as events, page by page, from any sink with a table."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS, FIELDS, JSON_FIELDS
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.sql_names import for_psycopg, quoted
from otel_audit_exporter.sinks.supabase.id_lookup import quoted_list
from otel_audit_exporter.table.folding import fold_target, unfold
from otel_audit_exporter.table.mapping import TableMapping
from otel_audit_exporter.table.target import table_exporter

Event = dict[str, Any]

PAGE: Final = 500
OVERLAP_SECONDS: Final = 60.0
_NO_SUCH_VALUE: Final = "22P02"  # asked for something that the column's type cannot hold: no row has it


@dataclass(frozen=True)
class EventQuery:
    """Which events are asked for; None asks for all. Times are aware; ``since`` is included, ``until`` is not."""

    entity_type: str | None = None
    entity_id: str | None = None
    user_id: str | None = None
    yacht_id: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def fields(self) -> dict[str, str]:
        """Return what a field has to be equal to."""
        asked = {name: getattr(self, name) for name in ("entity_type", "entity_id", "user_id", "yacht_id", "action")}
        return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True)
class Position:
    """Where an event stands in the order of time and id, as the table writes both."""

    timestamp: Any
    record_id: Any


class ColumnReader:
    """Which column holds which field, for reading."""

    def __init__(self, settings: Settings) -> None:
        columns = settings.columns or DEFAULT_COLUMNS
        TableMapping(columns, unmapped="drop")  # refuses what is wrong in itself
        self.of: dict[str, str] = {}
        for column, name in columns.items():
            self.of.setdefault(name, column)
        if "timestamp" not in self.of:
            raise AuditConfigurationError("columns: no column takes timestamp, so events cannot be read in order")

    @property
    def fields(self) -> list[str]:
        """The fields that can be read, in their usual order."""
        return [name for name in FIELDS if name in self.of]

    def asked(self, question: EventQuery) -> list[tuple[str, str, str]]:
        """Return column, operator and value of each condition."""
        unknown = [name for name in question.fields() if name not in self.of]
        if unknown:
            raise AuditConfigurationError(f"columns: no column takes {', '.join(unknown)}, so it cannot be asked for")
        conditions = [(self.of[name], "=", value) for name, value in question.fields().items()]
        if question.since is not None:
            conditions.append((self.of["timestamp"], ">=", _iso(question.since)))
        if question.until is not None:
            conditions.append((self.of["timestamp"], "<", _iso(question.until)))
        return conditions

    def event(self, row: Mapping[str, Any], *, all_text: bool = False) -> Event:
        """Return a row as an event: field to value, the time in UTC, JSON as structures, what was folded in unfolded.

        ``all_text``: documents that are no object or array are JSON text, too.
        """
        event = {name: row[self.of[name]] for name in self.fields}
        for name in JSON_FIELDS & event.keys():
            event[name] = _document(event[name], all_text=all_text)
        moment = moment_of(event)
        event["timestamp"] = event["timestamp"] if moment is None else _iso(moment)
        return _unfolded(event)


class Reader(Protocol):
    """Reads one sink's table. Raises :class:`SinkError` where that cannot be done."""

    columns: ColumnReader

    def page(self, question: EventQuery, *, newest_first: bool, beyond: Position | None, limit: int) -> list[Event]:
        """Return the next events in the order of time and id, each with its position under the key ``""``."""

    def close(self) -> None:
        """Close what is open."""


def open_reader(settings: Settings) -> Reader:
    """Return a reader for the first chosen exporter with a table.

    Raises :class:`AuditConfigurationError` where there is none, or its settings are missing or wrong.
    """
    name = table_exporter(settings)
    readers: dict[str, Callable[[Settings], Reader]] = {
        "postgres": PostgresReader,
        "supabase": SupabaseReader,
        "sqlite": SQLiteReader,
    }
    try:
        return readers[name](settings)
    except AuditConfigurationError:
        raise
    except (ValueError, ImportError) as error:
        raise AuditConfigurationError(f"exporter {name}: {error}") from None


def read_events(reader: Reader, question: EventQuery, *, newest: int | None) -> Iterator[Event]:
    """Yield events, the oldest first: the ``newest`` ones, or all of them."""
    if newest is None:
        yield from _all(reader, question, newest_first=False)
        return
    yield from reversed(list(_all(reader, question, newest_first=True, limit=newest)))


def _all(reader: Reader, question: EventQuery, *, newest_first: bool, limit: int | None = None) -> Iterator[Event]:
    beyond: Position | None = None
    left = limit
    while left is None or left > 0:
        wanted = PAGE if left is None else min(PAGE, left)
        page = reader.page(question, newest_first=newest_first, beyond=beyond, limit=wanted)
        for event in page:
            beyond = event.pop("")
            yield event
        if len(page) < wanted:
            return
        left = None if left is None else left - len(page)


class Follower:
    """Asks again and again for what is new.

    Events land in the table a little after their time, and not in its order: each time the last
    ``overlap_seconds`` are read anew, and what was seen is left out. What lands later than that is not seen.
    """

    def __init__(
        self, reader: Reader, question: EventQuery, *, now: datetime, overlap_seconds: float = OVERLAP_SECONDS
    ):
        self._reader = reader
        self._question = question
        self._overlap = timedelta(seconds=overlap_seconds)
        self._seen: dict[str, datetime] = {}
        self._latest = now if question.since is None else max(now, question.since)

    def begin(self, shown: list[Event]) -> list[Event]:
        """Take note of what was shown; return what has come since then."""
        moments = [moment for event in shown if (moment := moment_of(event))]
        for event in shown:
            self._seen[str(event["record_id"])] = moment_of(event) or self._latest
        latest = self._latest = max(moments, default=self._latest)
        found = self.poll()
        return [event for event in found if not moments or (moment_of(event) or latest) > latest]

    def poll(self) -> list[Event]:
        """Return the events that were not seen before, the oldest first."""
        since = self._latest - self._overlap
        if self._question.since is not None:
            since = max(since, self._question.since)
        question = replace(self._question, since=since)
        fresh = [
            event
            for event in read_events(self._reader, question, newest=None)
            if str(event["record_id"]) not in self._seen
        ]
        for event in fresh:
            moment = moment_of(event) or self._latest
            self._seen[str(event["record_id"])] = moment
            self._latest = max(self._latest, moment)
        oldest = self._latest - self._overlap
        self._seen = {known: at for known, at in self._seen.items() if at >= oldest}
        return fresh


def moment_of(event: Event) -> datetime | None:
    """Return an event's time, in UTC where the table does not say otherwise; None where it is no time of a calendar's.

    (PostgreSQL's ``infinity`` and years before 1 or after 9999 are none, nor is whatever else a SQLite column holds.)
    """
    try:
        moment = datetime.fromisoformat(event["timestamp"])
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _document(value: Any, *, all_text: bool) -> Any:
    """Return what a JSON column holds, also where the column is one of text."""
    if isinstance(value, str) and (all_text or value[:1] in ("{", "[")):
        try:
            return loads_exact(value.encode())
        except ValueError:
            return value
    return value


def _unfolded(event: Event) -> Event:
    """Return the event with what was folded into one of its documents where it belongs."""
    fields = dict(event)
    target = fold_target(fields)
    if target is not None:
        fields[target], folded = unfold(fields[target], fields)
        fields.update(folded)
    return fields


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


class PostgresReader:
    """Reads over a direct connection."""

    def __init__(self, settings: Settings) -> None:
        from otel_audit_exporter.sinks.postgres.dsn import read_dsn

        self.columns = ColumnReader(settings)
        self._parameters = read_dsn(settings.dsn or "")
        self._table = f"{for_psycopg(quoted(settings.schema))}.{for_psycopg(quoted(settings.table))}"
        self._connection: Any = None

    def page(self, question: EventQuery, *, newest_first: bool, beyond: Position | None, limit: int) -> list[Event]:
        """Return the next events in the order of time and id."""
        at, key = (for_psycopg(quoted(self.columns.of[name])) for name in ("timestamp", "record_id"))
        conditions = [f"{at} is not null"]  # what has no time has no place in the order of time
        conditions += [
            f"{for_psycopg(quoted(column))} {operator} %s" for column, operator, _ in self.columns.asked(question)
        ]
        values = [value for _, _, value in self.columns.asked(question)]
        if beyond is not None:
            conditions.append(f"({at}, {key}) {'<' if newest_first else '>'} (%s, %s)")
            values += [beyond.timestamp, beyond.record_id]
        order = "desc" if newest_first else "asc"
        selected = ", ".join(for_psycopg(quoted(column)) for column in dict.fromkeys(self.columns.of.values()))
        where = " and ".join(conditions)
        query = (
            f"select row_to_json(r)::text from (select {selected} from {self._table} where {where}"  # noqa: S608  # quoted names
            f" order by {at} {order}, {key} {order} limit {int(limit)}) r"
        )
        return [_positioned(self.columns, loads_exact(row.encode())) for (row,) in self._run(query, values)]

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, query: str, values: list[str]) -> list[tuple[str]]:
        from otel_audit_exporter.sinks.postgres.connection import open_session, server_errors

        if self._connection is None:
            self._connection = open_session(self._parameters, autocommit=True)
            with server_errors():
                self._connection.execute("set timezone = 'UTC'")
        try:
            with server_errors():
                rows: list[tuple[str]] = self._connection.execute(query.encode(), values).fetchall()
                return rows
        except SinkError as error:
            self.close()
            if error.code == _NO_SUCH_VALUE:
                return []
            raise


# --- PostgREST ----------------------------------------------------------------------------------------------------

_OPERATORS: Final = {"=": "eq", ">=": "gte", "<": "lt"}


class SupabaseReader:
    """Reads through PostgREST."""

    def __init__(self, settings: Settings) -> None:
        from otel_audit_exporter.sinks.supabase.rest_client import RestClient

        self.columns = ColumnReader(settings)
        self._rest = RestClient(settings.url or "", settings.key or "", token=settings.token, schema=settings.schema)
        self._table = settings.table

    def page(self, question: EventQuery, *, newest_first: bool, beyond: Position | None, limit: int) -> list[Event]:
        """Return the next events in the order of time and id."""
        at, key = (quoted_list([self.columns.of[name]]) for name in ("timestamp", "record_id"))
        selected = ",".join(quoted_list([column]) for column in dict.fromkeys(self.columns.of.values()))
        order = "desc" if newest_first else "asc"
        parameters = [("select", selected), ("order", f"{at}.{order},{key}.{order}"), ("limit", str(limit))]
        parameters.append((at, "not.is.null"))  # what has no time has no place in the order of time
        for column, operator, value in self.columns.asked(question):
            parameters.append((quoted_list([column]), f"{_OPERATORS[operator]}.{value}"))
        if beyond is not None:
            than = "lt" if newest_first else "gt"
            moment, last = quoted_list([beyond.timestamp]), quoted_list([beyond.record_id])
            parameters.append(("or", f"({at}.{than}.{moment},and({at}.eq.{moment},{key}.{than}.{last}))"))
        try:
            rows = self._rest.get(self._table, parameters)
        except SinkError as error:
            if error.code == _NO_SUCH_VALUE:
                return []
            raise
        return [_positioned(self.columns, row) for row in rows]

    def close(self) -> None:
        """Close the connections."""
        self._rest.close()


# --- SQLite -------------------------------------------------------------------------------------------------------


class SQLiteReader:
    """Reads the embedded table, without changing the file."""

    def __init__(self, settings: Settings) -> None:
        self.columns = ColumnReader(settings)
        self._path = Path(settings.path).absolute()
        self._table = quoted(settings.table)

    def page(self, question: EventQuery, *, newest_first: bool, beyond: Position | None, limit: int) -> list[Event]:
        """Return the next events in the order of time and id."""
        if not self._path.exists():
            raise AuditConfigurationError(f"{self._path} is not there (OTEL_AUDIT_SQLITE_PATH)")
        at, key = (quoted(self.columns.of[name]) for name in ("timestamp", "record_id"))
        conditions = [f"{at} IS NOT NULL"]  # what has no time has no place in the order of time
        conditions += [f"{quoted(column)} {operator} ?" for column, operator, _ in self.columns.asked(question)]
        values = [value for _, _, value in self.columns.asked(question)]
        if beyond is not None:
            conditions.append(f"({at}, {key}) {'<' if newest_first else '>'} (?, ?)")
            values += [beyond.timestamp, beyond.record_id]
        order = "DESC" if newest_first else "ASC"
        selected = list(dict.fromkeys(self.columns.of.values()))
        where = " AND ".join(conditions)
        query = (
            f"SELECT {', '.join(map(quoted, selected))} FROM {self._table} WHERE {where}"  # noqa: S608  # quoted names
            f" ORDER BY {at} {order}, {key} {order} LIMIT {int(limit)}"
        )
        rows = (dict(zip(selected, row, strict=True)) for row in self._run(query, values))
        return [_positioned(self.columns, row, all_text=True) for row in rows]

    def close(self) -> None:
        """Nothing stays open."""

    def _run(self, query: str, values: list[str]) -> list[tuple[Any, ...]]:
        from otel_audit_exporter.sinks.sqlite import classify_sqlite

        try:
            with closing(sqlite3.connect(f"file:{quote(str(self._path))}?mode=ro", uri=True, timeout=10)) as connection:
                return connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise SinkError(classify_sqlite(error), f"the file cannot be read: {error}") from None


def _positioned(columns: ColumnReader, row: Mapping[str, Any], *, all_text: bool = False) -> Event:
    event = columns.event(row, all_text=all_text)
    event[""] = Position(row[columns.of["timestamp"]], row[columns.of["record_id"]])
    return event
