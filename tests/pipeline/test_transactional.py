"""Audit events in the caller's own transaction: there if and only if it commits."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from psycopg.sql import SQL
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from otel_audit_exporter import (
    AuditDeliveryError,
    AuditEventError,
    audit_context,
    configure_audit,
    get_audit_stats,
    shutdown_audit,
    write_audit_event,
    write_audit_event_async,
)
from tests.stack import AuditTable, Stack
from tests.support.process_state import forget_pipelines

TRANSACTIONS = 1000
SECRET = "S3CRET-VALUE"
YACHT = str(uuid4())


@pytest.fixture(autouse=True)
def pipeline(stack: Stack, audit_table: AuditTable) -> Iterator[None]:
    """A pipeline to the test's table, of which the transactions take table and columns."""
    configure_audit("postgres", dsn=stack.dsn(), table=audit_table.name, outbox="memory")
    yield
    shutdown_audit()


def said(**changes: Any) -> dict[str, Any]:
    fields = {"entity_type": "part", "entity_id": str(uuid4()), "yacht_id": YACHT, "user_id": str(uuid4())}
    return fields | {"new_values": {"note": SECRET}} | changes


def url(stack: Stack, driver: str) -> str:
    return stack.dsn().replace("postgresql://", f"postgresql+{driver}://")


# --- the kinds of connection, each as a way to run one transaction -------------------------------------------------

Transaction = Callable[[], Any]


@contextmanager
def by_psycopg(stack: Stack) -> Iterator[Transaction]:
    with psycopg.connect(stack.dsn(), row_factory=dict_row) as connection:
        yield lambda: Held(connection, connection)


@contextmanager
def by_connection(stack: Stack, driver: str = "psycopg") -> Iterator[Transaction]:
    engine = sqlalchemy.create_engine(url(stack, driver))
    with engine.connect() as connection:
        yield lambda: Held(connection, connection)
    engine.dispose()


@contextmanager
def by_connection_of_psycopg2(stack: Stack) -> Iterator[Transaction]:
    with by_connection(stack, "psycopg2") as begin:
        yield begin


@contextmanager
def by_session(stack: Stack) -> Iterator[Transaction]:
    engine = sqlalchemy.create_engine(url(stack, "psycopg"))
    with Session(engine) as session:
        yield lambda: Held(session, session)
    engine.dispose()


@contextmanager
def by_scoped_session(stack: Stack) -> Iterator[Transaction]:
    engine = sqlalchemy.create_engine(url(stack, "psycopg2"))
    registry = scoped_session(sessionmaker(engine))
    yield lambda: Held(registry, registry)
    registry.remove()
    engine.dispose()


class Held:
    """A connection in a transaction that is ended by hand."""

    def __init__(self, connection: Any, ends: Any) -> None:
        self.connection = connection
        self.commit = ends.commit
        self.rollback = ends.rollback


SYNC = [by_psycopg, by_connection, by_connection_of_psycopg2, by_session, by_scoped_session]


@asynccontextmanager
async def by_async_psycopg(stack: Stack) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(stack.dsn(), row_factory=dict_row) as connection:
        yield connection


@asynccontextmanager
async def by_async_connection(stack: Stack) -> AsyncIterator[Any]:
    engine = create_async_engine(url(stack, "asyncpg"))
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


@asynccontextmanager
async def by_async_connection_of_psycopg(stack: Stack) -> AsyncIterator[Any]:
    engine = create_async_engine(url(stack, "psycopg"))
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


@asynccontextmanager
async def by_async_session(stack: Stack) -> AsyncIterator[Any]:
    engine = create_async_engine(url(stack, "asyncpg"))
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


@asynccontextmanager
async def by_async_scoped_session(stack: Stack) -> AsyncIterator[Any]:
    engine = create_async_engine(url(stack, "asyncpg"))
    registry = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
    yield registry
    await registry.remove()
    await engine.dispose()


ASYNC = [
    by_async_psycopg,
    by_async_connection,
    by_async_connection_of_psycopg,
    by_async_session,
    by_async_scoped_session,
]
sync_kinds = pytest.mark.parametrize("kind", SYNC, ids=lambda kind: kind.__name__)
async_kinds = pytest.mark.parametrize("kind", ASYNC, ids=lambda kind: kind.__name__)


# --- if and only if the caller commits ----------------------------------------------------------------------------


@sync_kinds
def test_of_a_thousand_transactions_exactly_the_committed_half_has_rows(
    kind: Any, stack: Stack, audit_table: AuditTable
) -> None:
    committed = []
    with kind(stack) as begin:
        for number in range(TRANSACTIONS):
            transaction = begin()
            record_id = write_audit_event(transaction.connection, "receive", **said())
            if number % 2:
                transaction.rollback()
            else:
                transaction.commit()
                committed.append(record_id)
    assert audit_table.ids() == sorted(committed)
    assert len(committed) == TRANSACTIONS / 2
    assert get_audit_stats().transactional == TRANSACTIONS
    assert get_audit_stats().submitted == 0


@async_kinds
def test_of_a_thousand_asyncio_transactions_exactly_the_committed_half_has_rows(
    kind: Any, stack: Stack, audit_table: AuditTable
) -> None:
    committed = []

    async def work() -> None:
        async with kind(stack) as connection:
            for number in range(TRANSACTIONS):
                record_id = await write_audit_event_async(connection, "receive", **said())
                if number % 2:
                    await connection.rollback()
                else:
                    await connection.commit()
                    committed.append(record_id)

    asyncio.run(work())
    assert audit_table.ids() == sorted(committed)
    assert len(committed) == TRANSACTIONS / 2
    assert get_audit_stats().transactional == TRANSACTIONS


def test_nobody_sees_the_row_before_the_commit(stack: Stack, audit_table: AuditTable) -> None:
    with psycopg.connect(stack.dsn()) as connection:
        write_audit_event(connection, "receive", **said())
        assert audit_table.count() == 0
    assert audit_table.count() == 1


def test_a_transaction_block_of_the_callers_ends_as_the_caller_says(stack: Stack, audit_table: AuditTable) -> None:
    with psycopg.connect(stack.dsn(), autocommit=True) as connection:
        with connection.transaction():
            kept = write_audit_event(connection, "receive", **said())
            with connection.transaction(force_rollback=True):
                write_audit_event(connection, "receive", **said())
        with connection.transaction(force_rollback=True):
            write_audit_event(connection, "receive", **said())
    assert audit_table.ids() == [kept]


# --- a row that the table refuses ---------------------------------------------------------------------------------


@sync_kinds
def test_a_refused_row_raises_and_the_callers_work_goes_on(kind: Any, stack: Stack, audit_table: AuditTable) -> None:
    audit_table.alter("add constraint short check (length(action) < 10)")
    with kind(stack) as begin:
        transaction = begin()
        first = write_audit_event(transaction.connection, "receive", **said())
        with pytest.raises(AuditDeliveryError) as caught:
            write_audit_event(transaction.connection, SECRET * 2, **said())
        second = write_audit_event(transaction.connection, "receive", **said())
        transaction.commit()
    assert audit_table.ids() == sorted([first, second])
    assert caught.value.state == "refused"
    assert '"short"' in str(caught.value.cause)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None
    assert get_audit_stats().transactional == 2


@async_kinds
def test_a_refused_row_raises_in_asyncio_and_the_transaction_continues(
    kind: Any, stack: Stack, audit_table: AuditTable
) -> None:
    audit_table.alter("add constraint short check (length(action) < 10)")

    async def work() -> tuple[AuditDeliveryError, list[str]]:
        async with kind(stack) as connection:
            first = await write_audit_event_async(connection, "receive", **said())
            with pytest.raises(AuditDeliveryError) as caught:
                await write_audit_event_async(connection, SECRET * 2, **said())
            second = await write_audit_event_async(connection, "receive", **said())
            await connection.commit()
            return caught.value, [first, second]

    error, written = asyncio.run(work())
    assert audit_table.ids() == sorted(written)
    assert '"short"' in str(error.cause)
    assert SECRET not in "".join(traceback.format_exception(error))
    assert error.__context__ is None


@sync_kinds
def test_a_row_dropped_by_a_trigger_raises_and_the_transaction_continues(
    kind: Any, stack: Stack, audit_table: AuditTable
) -> None:
    audit_table.run_before_insert("if new.action = 'drop' then return null; end if; return new;")
    with kind(stack) as begin:
        transaction = begin()
        first = write_audit_event(transaction.connection, "receive", **said())
        with pytest.raises(AuditDeliveryError) as caught:
            write_audit_event(transaction.connection, "drop", **said())
        again = write_audit_event(transaction.connection, "receive", **said(record_id=first))
        second = write_audit_event(transaction.connection, "receive", **said())
        transaction.commit()
    assert audit_table.ids() == sorted([first, second])
    assert (caught.value.state, again) == ("refused", first)
    assert "BEFORE INSERT trigger" in str(caught.value.cause)
    assert get_audit_stats().transactional == 3


def test_an_existing_row_that_the_role_cannot_see_is_no_error(
    stack: Stack, audit_table: AuditTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = f"{audit_table.name}_view"
    stack.sql(f"create view {view} as select * from {audit_table.name} where action <> 'hidden'")
    forget_pipelines()
    monkeypatch.setenv("OTEL_AUDIT_TABLE", view)
    record_id = str(uuid4())
    with psycopg.connect(stack.dsn()) as connection:
        for _ in range(2):
            write_audit_event(connection, "hidden", **said(record_id=record_id))
    assert audit_table.ids() == [record_id]
    stack.sql(f"drop view {view}")


def test_a_missing_table_is_reported_and_spoils_nothing(
    stack: Stack, audit_table: AuditTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_pipelines()
    monkeypatch.setenv("OTEL_AUDIT_TABLE", "no_such_table")
    with psycopg.connect(stack.dsn()) as connection:
        with pytest.raises(AuditDeliveryError, match="no_such_table"):
            write_audit_event(connection, "receive", **said())
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_table_that_was_changed_is_looked_at_again(stack: Stack, audit_table: AuditTable) -> None:
    with psycopg.connect(stack.dsn()) as connection:
        write_audit_event(connection, "receive", **said())
        connection.commit()
        audit_table.alter(f"drop constraint {audit_table.name}_pkey, add primary key (id, created_at)")
        write_audit_event(connection, "receive", **said())
    assert audit_table.count() == 2


def test_a_serialization_failure_comes_as_the_drivers_own_error(stack: Stack, audit_table: AuditTable) -> None:
    record_id = str(uuid4())
    with psycopg.connect(stack.dsn()) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("select 1")
        stack.sql(
            SQL("insert into {} values (%s, %s, 'part', 'receive', %s, %s)").format(audit_table.identifier),
            [record_id, YACHT, str(uuid4()), str(uuid4())],
        )
        with pytest.raises(psycopg.errors.SerializationFailure):
            write_audit_event(connection, "receive", **said(record_id=record_id))


def test_a_lost_connection_is_reported_without_a_value(stack: Stack) -> None:
    with psycopg.connect(stack.dsn()) as connection:
        connection.execute("select 1")
        stack.sql("select pg_terminate_backend(%s)", [connection.info.backend_pid])
        with pytest.raises(AuditDeliveryError) as caught:
            write_audit_event(connection, "receive", **said())
    assert SECRET not in str(caught.value)


# --- the same event as audit_event makes --------------------------------------------------------------------------


@sync_kinds
def test_the_row_is_checked_redacted_and_filled_as_any_audit_event(
    kind: Any, stack: Stack, audit_table: AuditTable
) -> None:
    user, values = str(uuid4()), {"password": SECRET, "50% :off": "a:b 'c' \"d\" \\ %s {}"}
    with kind(stack) as begin, audit_context(yacht_id=YACHT, user_id=user):
        transaction = begin()
        write_audit_event(
            transaction.connection,
            "receive",
            entity_type="part",
            entity_id=uuid4(),
            new_values=values,
            outcome="failure",
        )
        transaction.commit()
    row = audit_table.rows()[0]
    assert (str(row["yacht_id"]), str(row["created_by"])) == (YACHT, user)
    expected = values | {"password": "[REDACTED]", "_audit": {"outcome": "failure"}}
    assert row["new_values"] == expected


def test_the_same_idempotency_key_writes_one_row(stack: Stack, audit_table: AuditTable) -> None:
    with psycopg.connect(stack.dsn()) as connection:
        first = write_audit_event(connection, "receive", **said(idempotency_key="delivery 7"))
        second = write_audit_event(connection, "other", **said(idempotency_key="delivery 7"))
    assert first == second
    assert [row["action"] for row in audit_table.rows()] == ["receive"]


def test_wrong_fields_are_named_and_nothing_is_written(stack: Stack, audit_table: AuditTable) -> None:
    with psycopg.connect(stack.dsn()) as connection:
        with pytest.raises(AuditEventError) as caught:
            write_audit_event(connection, "", **said(entity_id="nonsense", outcome=None, color="red"))
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert set(caught.value.problems) == {"action", "entity_id", "outcome", "color"}
    assert (get_audit_stats().rejected, audit_table.count()) == (1, 0)


def test_the_environment_counts_where_no_pipeline_is_configured(
    stack: Stack, audit_table: AuditTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_pipelines()
    monkeypatch.setenv("OTEL_AUDIT_TABLE", audit_table.name)
    monkeypatch.setenv("OTEL_AUDIT_COLUMNS", 'id=record_id,Said 100%: so=action,"=entity_type,yacht_id=yacht_id')
    monkeypatch.setenv("OTEL_AUDIT_UNMAPPED", "drop")
    audit_table.alter('add column "Said 100%: so" text')
    audit_table.alter('add column """" text')
    for column in ("entity_type", "action", "entity_id", "created_by"):
        audit_table.alter(f"alter {column} drop not null")
    engine = sqlalchemy.create_engine(url(stack, "psycopg2"))
    with psycopg.connect(stack.dsn()) as connection, engine.begin() as other:
        for one in (connection, other):
            write_audit_event(one, "receive", entity_type="part", entity_id=uuid4(), yacht_id=YACHT)
    engine.dispose()
    assert [(row["Said 100%: so"], row['"']) for row in audit_table.rows()] == [("receive", "part")] * 2


def test_the_key_of_a_partitioned_table_is_found(stack: Stack, audit_table: AuditTable) -> None:
    audit_table.alter(f"drop constraint {audit_table.name}_pkey, add primary key (id, created_at)")
    with psycopg.connect(stack.dsn()) as connection:
        record_id = write_audit_event(connection, "receive", **said())
    assert audit_table.ids() == [record_id]


def test_the_role_with_the_least_privileges_writes(stack: Stack, audit_table: AuditTable) -> None:
    with psycopg.connect(stack.dsn("audit_writer")) as connection:
        record_id = write_audit_event(connection, "receive", **said())
    assert audit_table.ids() == [record_id]


def test_a_psycopg_pipeline_writes_and_refuses_like_any_transaction(stack: Stack, audit_table: AuditTable) -> None:
    audit_table.alter("add constraint short check (length(action) < 10)")
    with psycopg.connect(stack.dsn()) as connection, connection.pipeline():
        record_id = write_audit_event(connection, "receive", **said())
        with pytest.raises(AuditDeliveryError, match='"short"'):
            write_audit_event(connection, "receive for good", **said())
    assert audit_table.ids() == [record_id]


# --- what is no such connection -----------------------------------------------------------------------------------


def test_autocommit_without_a_transaction_is_refused(stack: Stack, audit_table: AuditTable) -> None:
    engine = sqlalchemy.create_engine(url(stack, "psycopg"), isolation_level="AUTOCOMMIT")
    with psycopg.connect(stack.dsn(), autocommit=True) as connection, engine.connect() as other:
        for one in (connection, other):
            with pytest.raises(AuditEventError, match="autocommit"):
                write_audit_event(one, "receive", **said())
    engine.dispose()
    assert audit_table.count() == 0


def test_a_connection_of_the_other_kind_is_refused_by_name(stack: Stack) -> None:
    async def work() -> None:
        async with by_async_psycopg(stack) as connection:
            with pytest.raises(AuditEventError, match="await write_audit_event_async"):
                write_audit_event(connection, "receive", **said())
        with (
            psycopg.connect(stack.dsn()) as blocking,
            pytest.raises(AuditEventError, match=r"use write_audit_event\("),
        ):
            await write_audit_event_async(blocking, "receive", **said())

    asyncio.run(work())


def test_what_is_no_connection_to_postgresql_is_refused_by_name() -> None:
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(AuditEventError, match="is to sqlite"):
        write_audit_event(connection, "receive", **said())
    engine.dispose()
    with pytest.raises(AuditEventError, match="not str"):
        write_audit_event("postgresql://", "receive", **said())
