"""Rows of PostgreSQL over a direct connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.sql_names import for_psycopg, quoted
from otel_audit_exporter.table.readers.base import NO_RIGHT, NO_SUCH_VALUE, Order, no_such_value, read_error
from otel_audit_exporter.table.readers.columns import Place
from otel_audit_exporter.table.readers.conditions import SEARCH_COLUMN, Condition
from otel_audit_exporter.table.readers.sql import Statement, column_of, path_of, select_count, select_rows

# To count a few of many rows, a server may scan the table from its beginning. That is fast where they are
# common, and slow where they are not. An index answers every question of a reader, planned for the values in it.
_SESSION: Final = ("timezone = 'UTC'", "enable_seqscan = off", "jit = off", "plan_cache_mode = force_custom_plan")


class PostgresDialect:
    """What PostgreSQL says its own way."""

    holder = "%s"

    def place(self, place: Place) -> str:
        column = _in_statement(column_of(place))
        path = path_of(place)
        if not path:
            return column
        *inner, last = (f"'{name}'" for name in path)
        return f"({' -> '.join([f'({column})::jsonb', *inner])} ->> {last})"

    def distinct(self, place: str) -> str:
        return f"{place} is distinct from %s"

    def prefix(self, place: str) -> str:
        return f"{place} like %s"

    def prefix_value(self, text: str) -> str:
        return f"{_like(text)}%"

    def contains(self, place: str) -> str:
        return f"{place} ilike %s"

    def contains_value(self, text: str) -> str:
        return f"%{_like(text)}%"


class PostgresSource:
    """Reads over a direct connection, which stays open until it is closed."""

    dialect = PostgresDialect()
    json_is_text = False

    def __init__(self, settings: Settings) -> None:
        from otel_audit_exporter.sinks.postgres.dsn import read_dsn

        self._parameters = read_dsn(settings.dsn or "")
        self._schema, self._name = settings.schema, settings.table
        self._table = f"{_in_statement(settings.schema)}.{_in_statement(settings.table)}"
        self._connection: Any = None
        self._searchable: bool | None = None

    def rows(
        self, known: Sequence[str], conditions: Sequence[Condition], order: Order, limit: int
    ) -> list[Mapping[str, Any]]:
        """Return the next rows, with every column that this role may read."""
        try:
            return self._rows("*", conditions, order, limit)
        except SinkError as error:
            if error.code != NO_RIGHT:
                raise
        try:  # a role that may read these columns and no others
            return self._rows(", ".join(map(_in_statement, known)), conditions, order, limit)
        except SinkError as error:
            raise read_error(error) from None

    def count(self, conditions: Sequence[Condition], order: Order, most: int) -> int:
        """Return how many rows there are, or one more than ``most``."""
        # In the order of time a server counts common rows by the index of time, and stops. Where no index has the
        # order and the rows are few among many, it would fetch every one to sort it. It knows which of both costs less.
        ways = [select_count(self.dialect, self._table, conditions, most, way) for way in (order, None)]
        try:
            return int(self._run(min(ways, key=self._cost))[0][0])
        except SinkError as error:
            raise read_error(error) from None

    def _cost(self, statement: Statement) -> tuple[bool, float]:
        (plan,) = self._run(Statement(f"explain (format json) {statement.text}", statement.values))[0]
        # A scan that is switched off costs as little as ever since PostgreSQL 18, and is told apart.
        return "Seq Scan" in str(plan), float(plan[0]["Plan"]["Total Cost"])

    def searchable(self) -> bool:
        """Return whether the table has the column for searching in values."""
        if self._searchable is None:
            found = Statement(
                "select count(*) from pg_attribute where attrelid = to_regclass(%s) and attname = %s",
                [f"{quoted(self._schema)}.{quoted(self._name)}", SEARCH_COLUMN],
            )
            self._searchable = bool(self._run(found)[0][0])
        return self._searchable

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _rows(self, what: str, conditions: Sequence[Condition], order: Order, limit: int) -> list[Mapping[str, Any]]:
        inner = select_rows(self.dialect, what, self._table, conditions, order, limit)
        query = f"select row_to_json(r)::text from ({inner.text}) r"  # noqa: S608  # quoted names
        return [loads_exact(row.encode()) for (row,) in self._run(Statement(query, inner.values))]

    def _run(self, statement: Statement) -> list[tuple[Any, ...]]:
        if self._connection is not None:
            try:
                return self._execute(statement)
            except SinkError:
                if not self._connection.closed:
                    raise
                self.close()  # it had stood open since the last time, and the server ended it
        self._connect()
        return self._execute(statement)

    def _execute(self, statement: Statement) -> list[tuple[Any, ...]]:
        from otel_audit_exporter.sinks.postgres.connection import server_errors

        try:
            with server_errors():
                cursor = self._connection.execute(statement.text.encode(), statement.values)
                rows: list[tuple[Any, ...]] = cursor.fetchall()
                return rows
        except SinkError as error:
            if error.code in NO_SUCH_VALUE:
                raise no_such_value() from None
            raise

    def _connect(self) -> None:
        from otel_audit_exporter.sinks.postgres.connection import open_session, server_errors

        self._connection = open_session(self._parameters, autocommit=True)
        with server_errors():
            for setting in _SESSION:
                self._connection.execute(f"set {setting}".encode())


def _in_statement(name: str) -> str:
    return for_psycopg(quoted(name))


def _like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
