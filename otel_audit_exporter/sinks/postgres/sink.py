"""Rows into a PostgreSQL table over a direct connection.

A batch is one statement: the server takes the rows apart itself, from one JSON array. A large one is copied where
that stores the same (:mod:`copy`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import orjson

from otel_audit_exporter.event.joined import json_array
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import register_renewed, renew_if_forked
from otel_audit_exporter.sinks.base import JSON_COLUMNS, SinkError, not_stored, seconds_left, unproved
from otel_audit_exporter.sinks.dns import Resolver
from otel_audit_exporter.sinks.idle_connections import IdleConnections
from otel_audit_exporter.sinks.known_rows import KnownRows
from otel_audit_exporter.sinks.postgres.copy import TABLE_CHANGED, Copy, copy_for
from otel_audit_exporter.sinks.postgres.dsn import read_dsn
from otel_audit_exporter.sinks.postgres.refusals import connect_error, server_error
from otel_audit_exporter.sinks.postgres.statements import DESCRIBE_TABLE, Insert, ShapeError, Statements, TableShape
from otel_audit_exporter.sinks.sqlstate_rules import UNIQUE_VIOLATION
from otel_audit_exporter.sinks.verdict import CUT_OFF, OUT_OF_TIME, Fault

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from otel_audit_exporter.sinks.postgres.connection import PgConnection, Statement

Which = Callable[[Statements], bytes]

_INSERT: Final[Which] = attrgetter("insert")
_PLAIN_INSERT: Final[Which] = attrgetter("plain_insert")
_LOOK_UP: Final[Which] = attrgetter("look_up")
_DIFFERENCES: Final[Which] = attrgetter("differences")
_NOT_ALLOWED: Final = "42501"

# The server gives up a little before this side does, so that it gives the reason, and stops work that nobody waits for.
_ANSWER_SHARE: Final = 0.1
_ANSWER_SECONDS: Final = 0.5

COPY_ROWS: Final = 500  # from so many on COPY is worth its one more round trip
_COPY_PAUSE_SECONDS: Final = 60.0
_ROWS_FAULT: Final = ("22", "23")  # classes of SQLSTATE


@dataclass
class _Copied:
    """How many rows the table took; None where they have to be inserted. ``sent``: it may have taken them even so."""

    count: int | None = None
    sent: bool = False


class PostgresSink:
    """Insert rows over a direct connection; a row whose key is known is ignored.

    An insert is one transaction in one round trip, or two where many rows are copied; where the table took fewer rows
    than it was given, one more query finds out which of them it has. Connections are made as they are needed, one for
    each insert at a time, with TLS as the DSN says. ``dsn``: ``postgresql://...`` (also ``postgres://`` and
    ``postgresql+driver://``) or ``key=value`` pairs. ``columns``: those that every row has. ``key_columns``: what a
    unique constraint of the table is on; None looks for the shortest one that holds ``id_column`` and otherwise only
    columns that are written, which on a partitioned table is its primary key. ``json_columns``: those whose text is
    kept as it is where their type is not ``jsonb``. ``compared_columns``: those in which a row whose key is there
    should equal the one in the table: a difference is logged, and counted in ``known_rows``. Raises ``ValueError`` for
    a DSN that cannot be read and ``ImportError`` where psycopg is missing.
    """

    name = "postgres"

    def __init__(
        self,
        dsn: str,
        *,
        table: str = "pms_audit_log",
        schema: str = "public",
        columns: Sequence[str],
        key_columns: Sequence[str] | None = None,
        id_column: str = "id",
        json_columns: Collection[str] = JSON_COLUMNS,
        compared_columns: Collection[str] | None = None,
    ) -> None:
        self._parameters = read_dsn(dsn)
        # Here, and not in the middle of an insert: in a child forked there, that import would never end.
        import otel_audit_exporter.sinks.postgres.connection  # noqa: F401

        self.known_rows = KnownRows(columns, compared_columns)
        self._may_read = True
        self._insertion = Insert(
            schema,
            table,
            tuple(columns),
            id_column,
            None if key_columns is None else tuple(key_columns),
            frozenset(json_columns),
            self.known_rows.columns,
        )
        self._statements: Statements | None = None
        self._copy: Copy | None = None
        self._copy_again_at = 0.0
        self._inherited: list[object] = []
        self._start()
        register_renewed(self)

    @property
    def target(self) -> str:
        host = self._parameters.get("host") or self._parameters.get("hostaddr") or "localhost"
        port = self._parameters.get("port") or "5432"
        database = self._parameters.get("dbname") or self._parameters.get("user") or ""
        return f"postgresql://{host}:{port}/{database} {self._insertion.schema}.{self._insertion.table}"

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Store every row whose key is not there yet, in one statement and one transaction."""
        if not rows:
            return
        renew_if_forked()
        copied = self._copy_rows(rows, deadline) if len(rows) >= COPY_ROWS else _Copied()
        if copied.count == len(rows):
            return
        values = json_array(rows)
        count = self._insert(values, deadline, sent=copied.sent) if copied.count is None else copied.count
        if count < len(rows):
            self._look_for(len(rows), values, deadline)

    def close(self) -> None:
        """Close every connection, those in use after their insert; a later insert opens a new one."""
        self._open.clear()
        self._idle.close()

    def renew_after_fork(self) -> None:
        """Forget the parent's connections, which stay referenced so that nothing closes them."""
        self._inherited.append(self._open)
        self._start()

    def __repr__(self) -> str:
        return f"<PostgresSink {self.target}>"

    def _start(self) -> None:
        self._resolver = Resolver()
        self._open: set[PgConnection] = set()
        self._idle: IdleConnections[PgConnection] = IdleConnections(self._open.discard)

    def _copy_rows(self, rows: Sequence[bytes], deadline: float) -> _Copied:
        """Copy the rows. If the server refuses, they can be inserted."""
        from otel_audit_exporter.sinks.postgres.connection import ConnectError, ConnectionLostError, ServerError

        copy = self._copy if Clock.monotonic() >= self._copy_again_at else None
        data = None if copy is None else copy.data(rows)
        if copy is None or data is None:
            return _Copied()
        try:
            connection = self._idle.take() or self._connect(deadline)
        except ConnectError as error:
            raise connect_error(str(error)) from None
        try:
            return _Copied(connection.copy(b"%b; %b" % (_timeout(deadline), copy.commands), data, deadline))
        except ServerError as error:
            if error.code == TABLE_CHANGED:
                self._statements = None
            elif not error.code.startswith(_ROWS_FAULT):
                self._copy_again_at = Clock.monotonic() + _COPY_PAUSE_SECONDS
            return _Copied()
        except ConnectionLostError:
            self._copy_again_at = Clock.monotonic() + _COPY_PAUSE_SECONDS
            return _Copied(sent=True)
        except TimeoutError:
            raise SinkError(CUT_OFF, "no answer in time") from None
        finally:
            self._put_back(connection, deadline)

    def _insert(self, values: bytes, deadline: float, *, sent: bool) -> int:
        known = self._statements is not None
        try:
            return _row_count(self._ask(_INSERT, values, deadline, sent=sent))
        except SinkError as error:
            self._statements = None
            if not known or error.verdict.fault is not Fault.CONFIGURATION:
                raise
        # The table may have changed since it was looked at.
        return _row_count(self._ask(_INSERT, values, deadline, sent=sent))

    def _look_for(self, count: int, values: bytes, deadline: float) -> None:
        """See whether the rows that the table did not take just now are those that it had already."""
        try:
            result = self._ask(_LOOK_UP, values, deadline)
        except SinkError as error:
            if error.verdict.fault is Fault.TRANSIENT:
                raise unproved(error) from None
            return  # who may not look has to believe the table
        there = [int(result.get_value(at, 0) or 0) - 1 for at in range(result.ntuples)]
        if len(there) < count and not (count == 1 and self._is_known(values, deadline)):
            raise not_stored(there)
        if there and self._may_read and self.known_rows.columns:
            self._compare(values, deadline)

    def _compare(self, values: bytes, deadline: float) -> None:
        """Log and count the rows that are there with other content. All rows are stored, even if this check fails."""
        try:
            result = self._ask(_DIFFERENCES, values, deadline)
        except SinkError as error:
            self._may_read = error.code != _NOT_ALLOWED
            return
        for at in range(result.ntuples):
            places = (result.get_value(at, 0) or b"").decode()
            self.known_rows.note(self.target, self._insertion.differing_columns(places))

    def _is_known(self, values: bytes, deadline: float) -> bool:
        """Find out, by an insert that ignores nothing, whether there is a row that the role does not see."""
        try:
            return _row_count(self._ask(_PLAIN_INSERT, values, deadline)) > 0
        except SinkError as error:
            if error.code == UNIQUE_VIOLATION:
                return True
            raise

    def _ask(self, which: Which, values: bytes, deadline: float, *, sent: bool = False) -> PGresult:
        from otel_audit_exporter.sinks.postgres.connection import ConnectError, ConnectionLostError, ServerError

        sent = sent or bool(self._idle)  # on a connection that broke the rows may have been stored all the same
        try:
            result = self._ask_on_kept(which, values, deadline)
            return self._ask_on(self._connect(deadline), which, values, deadline) if result is None else result
        except ConnectError as error:
            if sent:
                raise SinkError(CUT_OFF, "the connection broke, and no new one can be made") from None
            raise connect_error(str(error)) from None
        except ServerError as error:
            raise server_error(error.code, error.message) from None
        except ConnectionLostError:
            raise SinkError(CUT_OFF, "the connection broke") from None
        except TimeoutError:
            raise SinkError(CUT_OFF, "no answer in time") from None

    def _ask_on_kept(self, which: Which, values: bytes, deadline: float) -> PGresult | None:
        """Ask on a connection that was used before; None where there is none, or the server closed it."""
        from otel_audit_exporter.sinks.postgres.connection import ConnectionLostError, ServerError

        connection = self._idle.take()
        if connection is None:
            return None
        try:
            return self._ask_on(connection, which, values, deadline)
        except (ConnectionLostError, ServerError):
            if connection.alive:
                raise
            return None

    def _ask_on(self, connection: PgConnection, which: Which, values: bytes, deadline: float) -> PGresult:
        try:
            statements = self._statements or self._look_at_table(connection, deadline)
            results = connection.run(_transaction(which(statements), values, deadline), deadline)
            if results[-1].command_status != b"COMMIT":
                raise SinkError(CUT_OFF, "the server did not commit")
            self._statements = statements
            return results[-2]
        finally:
            self._put_back(connection, deadline)

    def _connect(self, deadline: float) -> PgConnection:
        from otel_audit_exporter.sinks.postgres.connection import connect

        if seconds_left(deadline) == 0:
            raise SinkError(OUT_OF_TIME, "no time left to connect")
        connection = connect(self._parameters, self._resolver, deadline)
        self._open.add(connection)
        return connection

    def _put_back(self, connection: PgConnection, deadline: float) -> None:
        if not connection.usable:
            connection.roll_back(deadline)
        if connection.usable and connection in self._open:
            self._idle.keep(connection)
        else:
            self._open.discard(connection)
            connection.close()

    def _look_at_table(self, connection: PgConnection, deadline: float) -> Statements:
        result = connection.run([(DESCRIBE_TABLE.read_bytes(), [self._insertion.name.encode()])], deadline)[0]
        if not result.ntuples:
            schema, table = self._insertion.schema, self._insertion.table
            raise server_error("42P01", f'relation "{schema}.{table}" does not exist')
        found = (orjson.loads(result.get_value(0, at) or empty) for at, empty in enumerate((b"{}", b"[]", b"[]")))
        shape = TableShape(*found)
        try:
            statements = Statements(self._insertion, shape)
            self._copy = copy_for(self._insertion, shape)
            return statements
        except ShapeError as error:
            raise server_error(error.code, error.message) from None


def _timeout(deadline: float) -> bytes:
    left = seconds_left(deadline)
    milliseconds = max(int((left - min(_ANSWER_SHARE * left, _ANSWER_SECONDS)) * 1000), 1)
    return b"SET LOCAL statement_timeout = %d" % milliseconds


def _transaction(statement: bytes, values: bytes, deadline: float) -> list[Statement]:
    return [
        (b"BEGIN", ()),
        (_timeout(deadline), ()),
        (statement, (values,)),
        (b"COMMIT", ()),
    ]


def _row_count(result: PGresult) -> int:
    return result.command_tuples or 0
