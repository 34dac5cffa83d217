"""Audit events written inside the caller's own PostgreSQL transaction: there if and only if it commits.

What is said to the database is one conversation (:func:`_conversation`), and each kind of connection is a way
to hold it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otel_audit_exporter.api.span_processor import mark_span
from otel_audit_exporter.config.settings import load_settings
from otel_audit_exporter.errors import AuditDeliveryError, AuditEventError
from otel_audit_exporter.event.context import current_scope, overlay
from otel_audit_exporter.event.encoded_event import EncodedEvent
from otel_audit_exporter.event.identity import Nobody
from otel_audit_exporter.pipeline.configure import current_pipeline
from otel_audit_exporter.pipeline.exporter import AuditExporter, standalone_exporter
from otel_audit_exporter.pipeline.factory import make_mapping, make_rules
from otel_audit_exporter.sinks.base import not_stored
from otel_audit_exporter.sinks.verdict import Fault, classify_sqlstate, describe_sqlstate

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Required, TypedDict, Unpack
    from uuid import UUID

    from otel_audit_exporter.api.events import ActorType, Identifier, Outcome
    from otel_audit_exporter.sinks.postgres.statements import Insert, TableShape

    class EventFields(TypedDict, total=False):
        """The keyword arguments of ``audit_event``."""

        entity_type: Required[str]
        entity_id: Required[Identifier]
        yacht_id: Identifier | Nobody | None
        user_id: Identifier | Nobody | None
        tenant_id: Identifier | Nobody | None
        actor_id: Identifier | Nobody | None
        old_values: Any
        new_values: Any
        outcome: Outcome
        actor_type: ActorType | None
        on_behalf_of: Identifier | None
        event_name: str | None
        metadata: Any
        signature: Any
        timestamp: datetime | None
        record_id: UUID | str | None
        idempotency_key: str | None
        as_span_event: bool


Rows = Sequence[Sequence[Any]]
Conversation = Generator["_Ask", Rows, None]

_SAVEPOINT: Final = "otel_audit_event"
_NO_TRANSACTION: Final = "25P01"
_SERIALIZATION: Final = "40"
_SHAPES: Final[dict[Insert, TableShape]] = {}


def write_audit_event(connection: Any, action: str, **fields: Unpack[EventFields]) -> str:
    """Write an audit event's row inside the transaction of ``connection``, and return the record's id.

    The row is in the table if and only if the caller commits: a rollback leaves none, a commit always leaves one.
    It costs three short round trips and goes past the outbox, so there is no receipt and nothing is retried. It is
    written under a savepoint, so a refusal does not spoil what the caller has done so far. An id that is in the
    table already is left as it is. ``get_audit_stats().transactional`` counts what was written, committed or not.

    :param connection: a psycopg ``Connection``, or a SQLAlchemy ``Connection`` or ``Session`` to PostgreSQL.
        Where no transaction is open one is begun; a connection in autocommit mode needs an open one.
    :param action: and ``fields``: the arguments of :func:`otel_audit_exporter.audit_event`, with the same checks,
        the fields of an ``audit_context`` and redaction. Table, columns and ids are those of the configured
        pipeline's first sink, else the environment's.
    :raises AuditEventError: names every wrong field, or says what is wrong with ``connection``; nothing is written.
    :raises AuditDeliveryError: the table refuses the row (``state`` is ``"refused"``, and ``cause`` says why and
        what to do, with no value of the row); the savepoint is rolled back, and the transaction goes on. A deadlock
        or serialization failure is the transaction's own, and comes as the driver's error.
    """
    row = _Row(action, fields)
    held = _held_by(connection, asynchronous=False)
    _settle(row, _hold_psycopg(held, row) if _is_psycopg(held) else _hold_sqlalchemy(held, row))
    return row.finish()


async def write_audit_event_async(connection: Any, action: str, **fields: Unpack[EventFields]) -> str:
    """Do what :func:`write_audit_event` does, for connections of asyncio.

    ``connection`` is a psycopg ``AsyncConnection``, or a SQLAlchemy ``AsyncConnection`` or ``AsyncSession`` (with
    psycopg or asyncpg below). Arguments, guarantees and errors are the same.
    """
    row = _Row(action, fields)
    held = _held_by(connection, asynchronous=True)
    if _is_psycopg(held):
        _settle(row, await _hold_psycopg_async(held, row))
    else:
        connected = await held.connection() if hasattr(held, "add") else held
        _settle(row, await connected.run_sync(_hold_sqlalchemy, row))
    return row.finish()


class _Row:
    """One event as the row it will be, and the counters that it counts in."""

    def __init__(self, action: str, fields: EventFields) -> None:
        exporter = _exporter()
        settings = load_settings({}) if exporter is None else exporter.settings
        if exporter is None:
            self._mapping = make_mapping(settings)
            rules = make_rules(settings, self._mapping)
        else:
            self._mapping, rules = exporter.mapping, exporter.rules
        self._settings = settings
        self._books = None if exporter is None else exporter.lane.books
        said: dict[str, Any] = {"action": action, **fields}
        self._spans = bool(said.pop("as_span_event", False))
        try:
            self.event: EncodedEvent = rules.compose(_with_context(said))
        except AuditEventError:
            if self._books is not None:
                self._books.count(rejected=1)
            raise

    @property
    def document(self) -> str:
        return f"[{self._mapping.row(self.event.body).decode()}]"

    @property
    def insert(self) -> Insert:
        from otel_audit_exporter.sinks.postgres.statements import Insert

        return Insert(
            self._settings.schema,
            self._settings.table,
            tuple(self._mapping.columns),
            self._mapping.key_column,
            self._settings.key_columns,
            self._mapping.json_columns,
        )

    def finish(self) -> str:
        """Count the row, mark the span where that was asked for, and return the id."""
        if self._books is not None:
            self._books.count(transactional=1)
        if self._spans:
            mark_span(self.event.record_id, self.event.action)
        return self.event.record_id


def _with_context(said: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in said.items() if value is not None or name == "outcome"}
    scope = current_scope()
    return given if scope is None else overlay(scope.merged(), given)


def _exporter() -> AuditExporter | None:
    pipeline = current_pipeline()
    return standalone_exporter() if pipeline is None else pipeline.primary


# --- what is said to the database -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ask:
    """A statement; :data:`_PARAMETER` in it stands for ``value``."""

    sql: str
    value: str | None = None


@dataclass
class _RefusedError(Exception):
    """The database's error: its SQLSTATE, its words (which may hold values), and the driver's own exception.

    ``dropped``: there was none, and the row is not in the table all the same.
    """

    code: str | None
    message: str
    error: Exception | None = None
    dropped: bool = False


_PARAMETER: Final = "\0"  # no name in PostgreSQL can hold it
_TELL: Final = " RETURNING true"  # a row for each that is written
_THERE_OR_NOT_TO_SEE: Final = ("23505", "42501")
_ROLL_BACK: Final = _Ask(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
_RELEASE: Final = _Ask(f"RELEASE SAVEPOINT {_SAVEPOINT}")


def _conversation(row: _Row) -> Conversation:
    insert, document = row.insert, row.document
    yield _Ask(f"SAVEPOINT {_SAVEPOINT}")
    try:
        shape, written = yield from _insert_row(insert, document)
        if not written:
            yield from _look_for_row(insert, shape, document)
    except _RefusedError:
        yield _ROLL_BACK
        yield _RELEASE
        raise
    yield _RELEASE


def _insert_row(insert: Insert, document: str) -> Generator[_Ask, Rows, tuple[TableShape, bool]]:
    """Insert into the table as it is known, or as it is now; tell whether it took the row."""
    shape = _SHAPES.get(insert)
    if shape is not None:
        try:
            rows = yield _Ask(_statement(insert, shape), document)
        except _RefusedError as refused:
            if classify_sqlstate(refused.code, refused.message).fault is not Fault.CONFIGURATION:
                raise
            _SHAPES.pop(insert, None)
            yield _ROLL_BACK
        else:
            return shape, bool(rows)
    shape = yield from _look_at_table(insert)
    rows = yield _Ask(_statement(insert, shape), document)
    _SHAPES[insert] = shape
    return shape, bool(rows)


def _look_for_row(insert: Insert, shape: TableShape, document: str) -> Generator[_Ask, Rows, None]:
    """See whether the row that the table did not take just now is one that it has, be it for others to see."""
    try:
        there = yield _Ask(insert.look_up(shape, _PARAMETER), document)
        if not there:
            there = yield _Ask(insert.plain_statement(shape, _PARAMETER) + _TELL, document)
    except _RefusedError as refused:
        if refused.code not in _THERE_OR_NOT_TO_SEE:
            raise
        yield _ROLL_BACK
        return
    if not there:
        raise _RefusedError(None, "", dropped=True)


def _look_at_table(insert: Insert) -> Generator[_Ask, Rows, TableShape]:
    import orjson

    from otel_audit_exporter.sinks.postgres.statements import DESCRIBE_TABLE, TableShape

    lines = DESCRIBE_TABLE.read_text(encoding="utf-8").splitlines()
    query = "\n".join(line for line in lines if not line.startswith("--")).replace("$1", _PARAMETER)
    rows = yield _Ask(f"SELECT d.types::text, d.keys::text FROM ({query}) AS d (types, keys, indexes)", insert.name)  # noqa: S608
    if not rows:
        raise _RefusedError("42P01", f'relation "{insert.schema}.{insert.table}" does not exist')
    types, keys = rows[0]
    return TableShape(orjson.loads(types or "{}"), orjson.loads(keys or "[]"))


def _statement(insert: Insert, shape: TableShape) -> str:
    from otel_audit_exporter.sinks.postgres.statements import ShapeError

    try:
        return insert.statement(shape, _PARAMETER) + _TELL
    except ShapeError as error:
        raise _RefusedError(error.code, error.message) from None


def _settle(row: _Row, refused: _RefusedError | None) -> None:
    """Raise what a refusal means. Outside of any handler: the driver's error, whose words hold values, stays behind."""
    if refused is None:
        return
    code = refused.code or ""
    if code == _NO_TRANSACTION:
        raise AuditEventError({"connection": "is in autocommit mode, and no transaction is open on it"})
    if code.startswith(_SERIALIZATION) and refused.error is not None:
        raise refused.error
    if refused.dropped:
        error = not_stored()
        raise AuditDeliveryError(row.event.record_id, "refused", f"{error}: {error.verdict.remedy}")
    remedy = classify_sqlstate(refused.code, refused.message).remedy
    said = f"{describe_sqlstate(refused.code, refused.message)}{f' ({code})' if code else ''}"
    raise AuditDeliveryError(row.event.record_id, "refused", f"{said}: {remedy}" if remedy else said)


# --- the kinds of connection ------------------------------------------------------------------------------------


def _held_by(connection: Any, *, asynchronous: bool) -> Any:
    """Return the connection or session; refuse what is neither, or is one of the other kind."""
    for module, names, kind in _KINDS:
        loaded = sys.modules.get(module)
        if not any(isinstance(connection, getattr(loaded, name, ())) for name in names):
            continue
        if kind != asynchronous:
            other = "write_audit_event" if asynchronous else "await write_audit_event_async"
            raise AuditEventError({"connection": f"is {type(connection).__name__}: use {other}(...) with it"})
        return connection() if "scoped_session" in type(connection).__name__ else connection
    raise AuditEventError(
        {"connection": f"must be a connection or session of psycopg or SQLAlchemy, not {type(connection).__name__}"}
    )


_KINDS: Final = (
    ("psycopg", ("Connection",), False),
    ("psycopg", ("AsyncConnection",), True),
    ("sqlalchemy.engine", ("Connection",), False),
    ("sqlalchemy.orm", ("Session", "scoped_session"), False),
    ("sqlalchemy.ext.asyncio", ("AsyncConnection", "AsyncSession", "async_scoped_session"), True),
)


def _is_psycopg(connection: Any) -> bool:
    psycopg = sys.modules.get("psycopg")
    return psycopg is not None and isinstance(connection, psycopg.Connection | psycopg.AsyncConnection)


def _hold_psycopg(connection: Any, row: _Row) -> _RefusedError | None:
    import psycopg
    from psycopg.rows import tuple_row

    cursor = psycopg.Cursor(connection, row_factory=tuple_row)
    talk = _conversation(row)
    try:
        ask = next(talk)
        while True:
            try:
                cursor.execute(*_for_psycopg(ask))
                if connection.pgconn.pipeline_status:
                    with connection.pipeline() as pipeline:
                        pipeline.sync()
                rows = cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                ask = talk.throw(_RefusedError(error.sqlstate, error.diag.message_primary or "", error))
            else:
                ask = talk.send(rows)
    except StopIteration:
        return None
    except _RefusedError as refused:
        return refused
    finally:
        cursor.close()


async def _hold_psycopg_async(connection: Any, row: _Row) -> _RefusedError | None:
    import psycopg
    from psycopg.rows import tuple_row

    cursor = psycopg.AsyncCursor(connection, row_factory=tuple_row)
    talk = _conversation(row)
    try:
        ask = next(talk)
        while True:
            try:
                await cursor.execute(*_for_psycopg(ask))
                if connection.pgconn.pipeline_status:
                    async with connection.pipeline() as pipeline:
                        await pipeline.sync()
                rows = await cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                ask = talk.throw(_RefusedError(error.sqlstate, error.diag.message_primary or "", error))
            else:
                ask = talk.send(rows)
    except StopIteration:
        return None
    except _RefusedError as refused:
        return refused
    finally:
        await cursor.close()


def _for_psycopg(ask: _Ask) -> tuple[Any, ...]:
    if ask.value is None:
        return (ask.sql,)
    return ask.sql.replace("%", "%%").replace(_PARAMETER, "%s"), (ask.value,)


def _hold_sqlalchemy(connected: Any, row: _Row) -> _RefusedError | None:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    connection = connected.connection() if hasattr(connected, "add") else connected
    if connection.dialect.name != "postgresql":
        raise AuditEventError({"connection": f"is to {connection.dialect.name}, and the row goes to PostgreSQL"})
    talk = _conversation(row)
    try:
        ask = next(talk)
        while True:
            try:
                sql = ask.sql.replace(":", "\\:").replace(_PARAMETER, ":value")
                result = connection.execute(text(sql), {} if ask.value is None else {"value": ask.value})
                rows = [tuple(found) for found in result] if result.returns_rows else []
            except DBAPIError as error:
                error.hide_parameters = True
                ask = talk.throw(_RefusedError(*_said_by(error.orig), error))
            else:
                ask = talk.send(rows)
    except StopIteration:
        return None
    except _RefusedError as refused:
        return refused


def _said_by(error: Any) -> tuple[str | None, str]:
    """Return the SQLSTATE and the words of a driver's error, be it psycopg's, psycopg2's or asyncpg's."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    diagnosis = getattr(error, "diag", None)
    words = getattr(diagnosis, "message_primary", None) or getattr(error.__cause__, "message", None)
    return code, words or ""
