"""Audit events written inside the caller's own PostgreSQL transaction: there if and only if it commits.

What is done in the database is one coroutine (:func:`_write`), and each kind of connection is a way to execute a
statement. For connections without asyncio it runs through at once, as nothing in it waits for a loop.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otel_audit_exporter.api.span_reference import mark_span
from otel_audit_exporter.config.settings import Settings, load_settings
from otel_audit_exporter.errors import AuditDeliveryError, AuditEventError
from otel_audit_exporter.event.context import current_scope, overlay
from otel_audit_exporter.event.encoded_event import EncodedEvent
from otel_audit_exporter.event.identity import Nobody
from otel_audit_exporter.event.routing import DEFAULT_TRAIL, split_route
from otel_audit_exporter.event.validation import EventValidator
from otel_audit_exporter.pipeline.current import current_pipeline
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.factory import make_mapping, make_rules
from otel_audit_exporter.pipeline.reading import trail_settings
from otel_audit_exporter.pipeline.standalone import standalone_exporter
from otel_audit_exporter.sinks.base import not_stored
from otel_audit_exporter.sinks.known_rows import KnownRows
from otel_audit_exporter.sinks.sql_names import for_psycopg
from otel_audit_exporter.sinks.sqlstate_rules import classify_sqlstate, describe_sqlstate
from otel_audit_exporter.sinks.verdict import Fault
from otel_audit_exporter.table.mapping import TableMapping

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
        trail: str | None
        database: str | None


Rows = Sequence[Sequence[Any]]
Execute = Callable[["_Statement"], Awaitable[Rows]]

_SAVEPOINT: Final = "otel_audit_event"
_NO_TRANSACTION: Final = "25P01"
_SERIALIZATION: Final = "40"
_SHAPES: Final[dict[Insert, TableShape]] = {}
_KNOWN_ROWS: Final = KnownRows((), ())


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
        pipeline's first sink, or those of the ``trail`` that is named; else the environment's. ``database`` is not
        looked at: the row goes to the database of ``connection``.
    :raises AuditEventError: names every wrong field, or says what is wrong with ``connection``; nothing is written.
    :raises AuditDeliveryError: the table refuses the row (``state`` is ``"refused"``, and ``cause`` says why and
        what to do, with no value of the row); the savepoint is rolled back, and the transaction goes on. A deadlock
        or serialization failure is the transaction's own, and comes as the driver's error.
    """
    row = _Row(action, fields)
    held = _held_by(connection, asynchronous=False)
    refused = _run_through(_write_by_psycopg(held, row)) if _is_psycopg(held) else _write_by_sqlalchemy(held, row)
    _raise_refusal(row, refused)
    return row.finish()


async def write_audit_event_async(connection: Any, action: str, **fields: Unpack[EventFields]) -> str:
    """Do what :func:`write_audit_event` does, for connections of asyncio.

    ``connection`` is a psycopg ``AsyncConnection``, or a SQLAlchemy ``AsyncConnection`` or ``AsyncSession`` (with
    psycopg or asyncpg below). Arguments, guarantees and errors are the same.
    """
    row = _Row(action, fields)
    held = _held_by(connection, asynchronous=True)
    if _is_psycopg(held):
        refused = await _write_by_async_psycopg(held, row)
    else:
        connected = await held.connection() if hasattr(held, "add") else held
        refused = await connected.run_sync(_write_by_sqlalchemy, row)
    _raise_refusal(row, refused)
    return row.finish()


class _Row:
    """One event as the row it will be, and the counters that it counts in."""

    def __init__(self, action: str, fields: EventFields) -> None:
        name, said = split_route(_with_context({"action": action, **fields}))
        exporter = _exporter()
        self._counters = None if exporter is None else exporter.channel.counters
        self._settings, self._mapping, rules = _shape_of(name.trail, exporter)
        self._spans = bool(said.pop("as_span_event", False))
        try:
            self.event: EncodedEvent = rules.compose(said)
        except AuditEventError:
            if self._counters is not None:
                self._counters.count(rejected=1)
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
            self._mapping.compared_columns,
        )

    def finish(self) -> str:
        """Count the row, mark the span where that was asked for, and return the id."""
        if self._counters is not None:
            self._counters.count(transactional=1)
        if (scope := current_scope()) is not None:
            scope.note_event()
        if self._spans:
            mark_span(self.event.record_id, self.event.action)
        return self.event.record_id


def _with_context(said: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in said.items() if value is not None or name == "outcome"}
    scope = current_scope()
    return given if scope is None else overlay(scope.merged(), given)


def _shape_of(trail: str, exporter: AuditExporter | None) -> tuple[Settings, TableMapping, EventValidator]:
    """Return what a trail's rows are like: that of the pipeline in force, else that of the environment."""
    pipeline = current_pipeline()
    if trail != DEFAULT_TRAIL and pipeline is not None:
        known = pipeline.destinations.trails.get(trail)
        if known is None:
            raise AuditEventError({"trail": f"there is no trail {trail!r} ({', '.join(pipeline.destinations.trails)})"})
        shape = known.primary.shape
        return shape.settings, shape.mapping, shape.rules
    if trail != DEFAULT_TRAIL:
        settings = trail_settings(trail)
    elif exporter is not None:
        return exporter.settings, exporter.mapping, exporter.rules
    else:
        settings = load_settings({})
    mapping = make_mapping(settings)
    return settings, mapping, make_rules(settings, mapping)


def _exporter() -> AuditExporter | None:
    pipeline = current_pipeline()
    return standalone_exporter() if pipeline is None else pipeline.primary


# --- what is done in the database --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Statement:
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
_ROLL_BACK: Final = _Statement(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
_RELEASE: Final = _Statement(f"RELEASE SAVEPOINT {_SAVEPOINT}")


async def _write(row: _Row, execute: Execute) -> _RefusedError | None:
    """Write the row under a savepoint; return what it was refused for, with the savepoint rolled back."""
    try:
        await execute(_Statement(f"SAVEPOINT {_SAVEPOINT}"))
        try:
            shape, written = await _insert_row(row.insert, row.document, execute)
            if not written:
                await _look_for_row(row.insert, shape, row.document, execute)
        except _RefusedError:
            await execute(_ROLL_BACK)
            await execute(_RELEASE)
            raise
        await execute(_RELEASE)
    except _RefusedError as refused:
        return refused
    return None


async def _insert_row(insert: Insert, document: str, execute: Execute) -> tuple[TableShape, bool]:
    """Insert into the table as it is known, or as it is now; return whether it took the row."""
    shape = _SHAPES.get(insert)
    if shape is not None:
        try:
            return shape, bool(await execute(_Statement(_insertion(insert, shape), document)))
        except _RefusedError as refused:
            if classify_sqlstate(refused.code, refused.message).fault is not Fault.CONFIGURATION:
                raise
            _SHAPES.pop(insert, None)
            await execute(_ROLL_BACK)
    shape = await _look_at_table(insert, execute)
    rows = await execute(_Statement(_insertion(insert, shape), document))
    _SHAPES[insert] = shape
    return shape, bool(rows)


async def _look_for_row(insert: Insert, shape: TableShape, document: str, execute: Execute) -> None:
    """See whether the row that the table did not take just now is one that it has, even if only others can see it."""
    try:
        there = await execute(_Statement(insert.look_up(shape, _PARAMETER), document))
        if not there:
            there = await execute(_Statement(insert.plain_statement(shape, _PARAMETER) + _TELL, document))
    except _RefusedError as refused:
        if refused.code not in _THERE_OR_NOT_TO_SEE:
            raise
        await execute(_ROLL_BACK)
        return
    if not there:
        raise _RefusedError(None, "", dropped=True)
    await _compare_row(insert, shape, document, execute)


async def _compare_row(insert: Insert, shape: TableShape, document: str, execute: Execute) -> None:
    """Log it where the row that is there has other content, as far as the role may read it."""
    try:
        rows = await execute(_Statement(insert.differences(shape, _PARAMETER), document))
    except _RefusedError:
        await execute(_ROLL_BACK)
        return
    for (places,) in rows:
        _KNOWN_ROWS.note(insert.name, insert.differing_columns(places))


async def _look_at_table(insert: Insert, execute: Execute) -> TableShape:
    import orjson

    from otel_audit_exporter.sinks.postgres.statements import DESCRIBE_TABLE, TableShape

    lines = DESCRIBE_TABLE.read_text(encoding="utf-8").splitlines()
    query = "\n".join(line for line in lines if not line.startswith("--")).replace("$1", _PARAMETER)
    sql = f"SELECT d.types::text, d.keys::text FROM ({query}) AS d (types, keys, indexes)"  # noqa: S608  # our own
    rows = await execute(_Statement(sql, insert.name))
    if not rows:
        raise _RefusedError("42P01", f'relation "{insert.schema}.{insert.table}" does not exist')
    types, keys = rows[0]
    return TableShape(orjson.loads(types or "{}"), orjson.loads(keys or "[]"))


def _insertion(insert: Insert, shape: TableShape) -> str:
    from otel_audit_exporter.sinks.postgres.statements import ShapeError

    try:
        return insert.statement(shape, _PARAMETER) + _TELL
    except ShapeError as error:
        raise _RefusedError(error.code, error.message) from None


def _raise_refusal(row: _Row, refused: _RefusedError | None) -> None:
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


async def _write_by_psycopg(connection: Any, row: _Row) -> _RefusedError | None:
    import psycopg
    from psycopg.rows import tuple_row

    async def execute(statement: _Statement) -> Rows:
        try:
            cursor.execute(*_for_psycopg(statement))
            if connection.pgconn.pipeline_status:
                with connection.pipeline() as pipeline:
                    pipeline.sync()
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise _refused_by(error) from error

    with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
        return await _write(row, execute)


async def _write_by_async_psycopg(connection: Any, row: _Row) -> _RefusedError | None:
    import psycopg
    from psycopg.rows import tuple_row

    async def execute(statement: _Statement) -> Rows:
        try:
            await cursor.execute(*_for_psycopg(statement))
            if connection.pgconn.pipeline_status:
                async with connection.pipeline() as pipeline:
                    await pipeline.sync()
            return await cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise _refused_by(error) from error

    async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
        return await _write(row, execute)


def _for_psycopg(statement: _Statement) -> tuple[Any, ...]:
    if statement.value is None:
        return (statement.sql,)
    return for_psycopg(statement.sql).replace(_PARAMETER, "%s"), (statement.value,)


def _write_by_sqlalchemy(connected: Any, row: _Row) -> _RefusedError | None:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    connection = connected.connection() if hasattr(connected, "add") else connected
    if connection.dialect.name != "postgresql":
        raise AuditEventError({"connection": f"is to {connection.dialect.name}, and the row goes to PostgreSQL"})

    async def execute(statement: _Statement) -> Rows:
        sql = statement.sql.replace(":", "\\:").replace(_PARAMETER, ":value")
        try:
            result = connection.execute(text(sql), {} if statement.value is None else {"value": statement.value})
            return [tuple(found) for found in result] if result.returns_rows else []
        except DBAPIError as error:
            error.hide_parameters = True
            raise _refused_by(error.orig, error) from error

    return _run_through(_write(row, execute))


def _run_through(work: Coroutine[Any, Any, _RefusedError | None]) -> _RefusedError | None:
    """Run a coroutine in which nothing waits for a loop."""
    try:
        work.send(None)
    except StopIteration as done:
        result: _RefusedError | None = done.value
        return result
    raise AssertionError("the coroutine waits for something")


def _refused_by(error: Any, raised: Exception | None = None) -> _RefusedError:
    """Read the error of a driver (psycopg, psycopg2 or asyncpg); ``raised``: what SQLAlchemy makes of it."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    diagnosis = getattr(error, "diag", None)
    words = getattr(diagnosis, "message_primary", None) or getattr(error.__cause__, "message", None)
    return _RefusedError(code, words or "", raised or error)
