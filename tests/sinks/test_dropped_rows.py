"""A table that says yes and stores nothing: a row that a trigger drops never counts as stored, a known one does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from psycopg.sql import SQL

from otel_audit_exporter.sinks.base import Sink
from otel_audit_exporter.sinks.sqlite import SQLiteSink
from otel_audit_exporter.sinks.supabase.sink import SupabaseSink
from otel_audit_exporter.sinks.verdict import Fault
from tests.sinks.conftest import MakeSink
from tests.sinks.rows import COLUMNS, id_of, new_row, new_rows, refusal, soon
from tests.stack import AuditTable, Stack
from tests.stack.faults import Close, Place, Rewrite, invalid_api_key, unavailable_json
from tests.stack.faults import Fault as Injected
from tests.stack.messages import Reply, Request

RECORD, TRANSIENT = Fault.RECORD, Fault.TRANSIENT
DROP_BAD = "if new.action = 'bad' then return null; end if; return new;"


# Behind both sinks of PostgreSQL


def test_among_many_rows_only_those_dropped_by_a_trigger_are_refused(
    sink: Sink, stack: Stack, audit_table: AuditTable
) -> None:
    """The others are known to be stored."""
    audit_table.run_before_insert(DROP_BAD)
    rows = [new_row(action="bad" if at in (0, 7, 399) else "create") for at in range(400)]
    error = refusal(sink, *rows)
    assert (error.verdict.fault, error.verdict.park_at_once) == (RECORD, False)
    assert "trigger" in error.message
    assert "trigger" in error.verdict.remedy
    assert set(range(400)).difference(error.stored) == {0, 7, 399}
    assert set(audit_table.ids()) == {id_of(rows[at]) for at in error.stored}


@pytest.mark.parametrize("count", [1, 2, 300])
def test_all_rows_are_refused_while_a_trigger_drops_every_row(
    sink: Sink, stack: Stack, audit_table: AuditTable, count: int
) -> None:
    audit_table.run_before_insert("return null;")
    rows = new_rows(count)
    error = refusal(sink, *rows)
    assert (error.verdict.fault, list(error.stored)) == (RECORD, [])
    audit_table.run_nothing_before_insert()
    sink.insert(rows, soon())
    assert audit_table.count() == count


@pytest.mark.parametrize("count", [1, 1000])
def test_rows_already_there_count_as_stored_despite_a_later_trigger(
    sink: Sink, stack: Stack, audit_table: AuditTable, count: int
) -> None:
    """The trigger would drop them now."""
    rows = new_rows(count)
    sink.insert(rows, soon())
    sink.insert(rows, soon())
    audit_table.run_before_insert("return null;")
    sink.insert(rows, soon())
    assert audit_table.count() == count


def test_an_id_that_comes_twice_in_a_batch_is_stored(sink: Sink, audit_table: AuditTable) -> None:
    row = new_row()
    sink.insert([row, new_row(), row], soon())
    assert audit_table.count() == 2


def test_rows_that_a_trigger_puts_into_a_child_table_are_stored(
    sink: Sink, stack: Stack, audit_table: AuditTable
) -> None:
    child = f"{audit_table.name}_child"
    stack.sql(f"create table {child} (primary key (id)) inherits ({audit_table.name})")
    stack.sql(f"grant insert on {child} to audit_writer")
    audit_table.run_before_insert(f"insert into {child} values (new.*) on conflict do nothing; return null;")
    rows = new_rows(3)
    sink.insert(rows[:2], soon())
    sink.insert(rows, soon())
    sink.insert(rows[:1], soon())
    assert set(audit_table.ids()) == set(map(id_of, rows))
    stack.sql(f"drop table {child}")


@pytest.fixture
def partitioned(stack: Stack) -> Iterator[AuditTable]:
    table = AuditTable(stack.postgres, f"parts_{uuid4().hex}")
    stack.sql(
        SQL("create table {} (like public.pms_audit_log, primary key (id, created_at))").format(table.identifier)
        + SQL(" partition by range (created_at)")
    )
    stack.sql(f"create table {table.name}_default partition of {table.name} default")
    stack.postgres.protect_table(table.identifier)
    stack.sql(f"grant select (created_at) on {table.name} to audit_writer")
    stack.reload_schema_cache()
    yield table
    table.drop()


def test_a_table_partitioned_by_time_is_asked_by_its_whole_key(
    make_sink: MakeSink, stack: Stack, partitioned: AuditTable
) -> None:
    sink = make_sink(table=partitioned.name, key_columns=("id", "created_at"))
    rows = [*new_rows(2), new_row(action="bad")]
    partitioned.run_before_insert(DROP_BAD)
    sink.insert(rows[:2], soon())
    sink.insert(rows[:2], soon())
    error = refusal(sink, *rows)
    assert (error.verdict.fault, list(error.stored)) == (RECORD, [0, 1])
    assert set(partitioned.ids()) == set(map(id_of, rows[:2]))


@pytest.fixture
def view(stack: Stack, audit_table: AuditTable) -> Iterator[str]:
    """A view that lets rows in which it does not show."""
    name = f"{audit_table.name}_view"
    stack.sql(f"create view {name} as select * from {audit_table.name} where action <> 'hidden'")
    stack.sql(f"grant insert, select (id) on {name} to audit_writer")
    stack.reload_schema_cache()
    yield name
    stack.sql(f"drop view {name}")


def test_a_row_that_is_there_and_cannot_be_seen_is_stored(
    make_sink: MakeSink, stack: Stack, audit_table: AuditTable, view: str
) -> None:
    sink = make_sink(table=view)
    hidden = new_row(action="hidden")
    sink.insert([hidden], soon())
    sink.insert([hidden], soon())
    assert audit_table.count() == 1
    audit_table.run_before_insert(DROP_BAD)
    assert refusal(sink, new_row(action="bad")).verdict.fault is RECORD


def test_names_and_ids_with_special_characters_are_looked_up_unchanged(make_sink: MakeSink, stack: Stack) -> None:
    table = AuditTable(stack.postgres, f'odd "name", {uuid4().hex}')
    stack.sql(SQL('create table {} ("the (id)" text primary key, "a,b" text)').format(table.identifier))
    stack.sql(SQL("grant all on {} to service_role, audit_writer").format(table.identifier))
    stack.reload_schema_cache()
    sink = make_sink(table=table.name, columns=("the (id)", "a,b"), id_column="the (id)", key_columns=("the (id)",))
    odd = ['a"b', "a,b", "a\\b", "(a)", "a b&c=d#e%20", "ü\u2028", "null"]
    rows = [orjson.dumps({"the (id)": one, "a,b": "x"}) for one in odd]
    sink.insert(rows, soon())
    sink.insert(rows, soon())
    table.run_before_insert("return null;")
    assert refusal(sink, *rows, orjson.dumps({"the (id)": "new", "a,b": "x"})).stored == list(range(7))
    table.drop()


# What PostgREST is asked


def is_look(request: Request) -> bool:
    return request.method == "GET"


def without_count(reply: Reply) -> Reply:
    return Reply(reply.status, tuple(one for one in reply.headers if one[0].lower() != "content-range"), reply.body)


def test_known_rows_are_asked_for_in_requests_that_every_server_takes(
    supabase_sink: SupabaseSink, stack: Stack
) -> None:
    rows = new_rows(1000)
    supabase_sink.insert(rows, soon())
    stack.gateway.clear()
    supabase_sink.insert(rows, soon())
    looks = [request for request in stack.gateway.requests if is_look(request)]
    assert 2 <= len(looks) <= 8
    assert all(len(look.target) < 7500 for look in looks)


def test_an_answer_without_a_count_of_rows_is_believed(supabase_sink: SupabaseSink, stack: Stack) -> None:
    row = new_row()
    supabase_sink.insert([row], soon())
    stack.gateway.clear()
    stack.gateway.inject(Rewrite(without_count), times=None)
    supabase_sink.insert([row], soon())
    assert [request.method for request in stack.gateway.requests] == ["POST"]


@pytest.mark.parametrize(
    "fault", [invalid_api_key(), Rewrite(without_count)], ids=["refused", "perhaps not all of them"]
)
def test_where_the_table_cannot_be_asked_its_answer_is_believed(
    supabase_sink: SupabaseSink, stack: Stack, audit_table: AuditTable, fault: Injected
) -> None:
    rows = new_rows(3)
    supabase_sink.insert(rows, soon())
    stack.gateway.inject(fault, times=None, when=is_look)
    supabase_sink.insert(rows, soon())
    assert audit_table.count() == 3


@pytest.mark.parametrize("fault", [unavailable_json(), Close(Place.REPLY_BODY)], ids=["away", "cut"])
def test_rows_found_before_the_connection_failed_count_as_stored(
    supabase_sink: SupabaseSink, stack: Stack, fault: Injected
) -> None:
    rows = new_rows(1000)
    supabase_sink.insert(rows, soon())
    stack.gateway.clear()
    stack.gateway.inject(fault, times=None, when=lambda request: is_look(request) and len(stack.gateway.requests) > 3)
    error = refusal(supabase_sink, *rows)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, True)
    assert 200 < len(error.stored) < 1000
    stack.gateway.clear()
    supabase_sink.insert(rows, soon())


# SQLite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.db"


@pytest.fixture
def sqlite_sink(path: Path) -> Iterator[SQLiteSink]:
    with closing(SQLiteSink(path, columns=COLUMNS)) as sink:
        sink.insert([], soon())
        yield sink


def run(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


IGNORE = "create trigger t before insert on pms_audit_log {} begin select raise(ignore); end"


def test_a_row_ignored_by_an_sqlite_trigger_is_refused_alone(sqlite_sink: SQLiteSink, path: Path) -> None:
    """The others are stored."""
    run(path, IGNORE.format("when new.action = 'bad'"))
    rows = [new_row(), new_row(action="bad"), new_row()]
    error = refusal(sqlite_sink, *rows)
    assert (error.verdict.fault, list(error.stored)) == (RECORD, [0, 2])
    assert "trigger" in error.message
    assert set(run(path, "select id from pms_audit_log")) == {(id_of(rows[at]),) for at in (0, 2)}


def test_sqlite_ignoring_every_row_refuses_all_but_the_existing_ones(sqlite_sink: SQLiteSink, path: Path) -> None:
    rows = new_rows(2)
    sqlite_sink.insert(rows[:1], soon())
    sqlite_sink.insert(rows[:1] * 2, soon())
    run(path, IGNORE.format(""))
    sqlite_sink.insert(rows[:1], soon())
    assert list(refusal(sqlite_sink, *rows).stored) == [0]
    assert list(refusal(sqlite_sink, rows[1]).stored) == []
    run(path, "drop trigger t")
    sqlite_sink.insert(rows, soon())
    assert len(run(path, "select id from pms_audit_log")) == 2
