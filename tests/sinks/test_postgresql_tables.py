"""What a real table takes and refuses, through PostgREST and over a direct connection alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson
import pytest
from psycopg.sql import SQL

from otel_audit_exporter.sinks.base import Sink
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from tests.sinks.conftest import MakeSink
from tests.sinks.rows import COLUMNS, CREATED_AT, VALUE, id_of, new_row, new_rows, refusal, soon
from tests.stack import AuditTable, Stack
from tests.support.running import in_threads


def test_every_row_is_stored_unchanged(sink: Sink, audit_table: AuditTable) -> None:
    document = {"b": [1, 2.5, None, True, "ü\u2028"], "a": {"deep": {"er": 1}}, "big": "LONG"}
    row = new_row(new_values=document, old_values="text").replace(b'"LONG"', str(2**70).encode())
    sink.insert([row, *new_rows(99)], soon())
    stored = {str(kept["id"]): kept for kept in audit_table.rows()}
    kept = stored[id_of(row)]
    assert len(stored) == 100
    assert kept["new_values"] == document | {"big": 2**70}
    assert kept["old_values"] == "text"
    assert kept["created_at"].isoformat() == CREATED_AT
    assert kept["entity_type"] == VALUE


def test_a_known_id_is_ignored_and_the_first_write_wins(sink: Sink, audit_table: AuditTable) -> None:
    row = new_row()
    sink.insert([row, row], soon())
    sink.insert([new_row(id=id_of(row), action="other"), new_row()], soon())
    assert [kept["action"] for kept in audit_table.rows()] == ["create", "create"]


def test_no_rows_are_no_request(sink: Sink) -> None:
    sink.insert([], 0.0)


def test_one_bad_row_stores_none(sink: Sink, audit_table: AuditTable) -> None:
    error = refusal(sink, *new_rows(50), new_row(yacht_id="nonsense"), *new_rows(49))
    assert error.verdict == Verdict(Fault.RECORD, error.verdict.remedy, park_at_once=True)
    assert audit_table.count() == 0


def test_threads_insert_at_once(sink: Sink, audit_table: AuditTable) -> None:
    def write() -> None:
        for _ in range(10):
            sink.insert(new_rows(25), soon())

    in_threads([write] * 4)
    assert audit_table.count() == 1000


def test_a_sink_that_was_closed_connects_again(sink: Sink, audit_table: AuditTable) -> None:
    sink.insert([new_row()], soon())
    sink.close()
    sink.close()
    sink.insert([new_row()], soon())
    assert audit_table.count() == 2


RECORD, CONFIGURATION, TRANSIENT = Fault.RECORD, Fault.CONFIGURATION, Fault.TRANSIENT


@dataclass(frozen=True)
class Case:
    """One fault of section 3: what is done to the table, and what has to come of it.

    ``{}`` in ``change`` stands for the table. ``code`` is what both sinks say, unless ``codes`` has another.
    """

    name: str
    fault: Fault
    code: str | None
    change: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = COLUMNS
    status: int = 400
    remedy: str = ""
    codes: Mapping[str, str | None] = field(default_factory=dict)
    park_at_once: bool = False
    foreign_key: bool = False
    halve: bool = False


def raising(code: str) -> str:
    """Have a trigger refuse every row, with a value in its words."""
    return (
        "create or replace function audit_refuses() returns trigger language plpgsql as"
        f" $$ begin raise exception '{VALUE}' using errcode = '{code}'; end $$;"
        " create trigger refuses before insert on {} for each row execute function audit_refuses()"
    )


QTY = (*COLUMNS, "qty")

CASES = [
    Case("bad uuid", RECORD, "22P02", row={"yacht_id": VALUE}, park_at_once=True, remedy="text"),
    Case(
        "bad number",
        RECORD,
        "22P02",
        "alter table {} add qty int",
        {"qty": VALUE},
        QTY,
        park_at_once=True,
    ),
    Case(
        "number out of range",
        RECORD,
        "22003",
        "alter table {} add qty int",
        {"qty": 3_000_000_000},
        QTY,
        park_at_once=True,
    ),
    Case("no timestamp", RECORD, "22007", row={"created_at": VALUE}, park_at_once=True),
    Case("timestamp out of range", RECORD, "22008", row={"created_at": "2026-13-45"}, park_at_once=True),
    Case("too long", RECORD, "22001", "alter table {} alter action type varchar(3)", park_at_once=True),
    Case("NUL in jsonb", RECORD, "22P05", row={"new_values": "a\0b"}, park_at_once=True),
    Case("NUL in text", RECORD, "22P05", row={"action": "a\0b"}, park_at_once=True),
    Case("NOT NULL", RECORD, "23502", row={"action": None}, remedy='"action"'),
    Case("CHECK", RECORD, "23514", "alter table {} add constraint short check (length(action) < 3)", remedy='"short"'),
    Case(
        "foreign key",
        RECORD,
        "23503",
        "alter table {} add constraint parent foreign key (entity_id) references {} (id)",
        status=409,
        remedy='"parent"',
        foreign_key=True,
    ),
    Case(
        "deferred foreign key",
        RECORD,
        "23503",
        "alter table {} add constraint parent foreign key (entity_id) references {} (id) deferrable initially deferred",
        status=409,
        remedy='"parent"',
        foreign_key=True,
    ),
    Case(
        "unique elsewhere",
        RECORD,
        "23505",
        "alter table {} add constraint once unique (created_at)",
        status=409,
        remedy='"once"',
    ),
    Case("trigger", RECORD, "P0001", raising("P0001")),
    Case("trigger with a code of its own", RECORD, "AU001", raising("AU001")),
    Case(
        "unknown column",
        CONFIGURATION,
        "42703",
        columns=QTY,
        row={"qty": 1},
        remedy='"qty"',
        codes={"supabase": "PGRST204"},
    ),
    Case(
        "no unique index",
        CONFIGURATION,
        "42P10",
        "alter table {} drop constraint {}_pkey",
        remedy="primary key",
    ),
    Case(
        "generated column",
        CONFIGURATION,
        "428C9",
        "alter table {} add qty int generated always as (1) stored",
        {"qty": 1},
        QTY,
        remedy='"qty"',
    ),
    Case("no grant", CONFIGURATION, "42501", "revoke insert on {} from audit_writer", status=403, remedy="insert"),
    Case(
        "no select on the key",
        CONFIGURATION,
        "42501",
        "revoke select (id) on {} from audit_writer",
        status=403,
        remedy="select on the key",
    ),
    Case(
        "no policy for insert",
        CONFIGURATION,
        "42501",
        "drop policy audit_writer_inserts on {}",
        status=403,
        remedy="polic",
    ),
    Case(
        "no policy for select",
        CONFIGURATION,
        "42501",
        "drop policy audit_writer_finds_ids on {}",
        status=403,
        remedy="select",
    ),
    Case("read-only", TRANSIENT, "25006", raising("25006"), status=405, remedy="read-only"),
    Case("deadlock", TRANSIENT, "40P01", raising("40P01"), status=500),
    Case("lock timeout", TRANSIENT, "55P03", raising("55P03"), status=500),
    Case("statement timeout", TRANSIENT, "57014", raising("57014"), status=500, halve=True),
    Case("disk full", TRANSIENT, "53100", raising("53100"), status=503, remedy="disk"),
    Case("too many connections", TRANSIENT, "53300", raising("53300"), status=503, remedy="pooler"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_refused_row_is_the_right_ones_fault(
    make_sink: MakeSink, stack: Stack, audit_table: AuditTable, case: Case
) -> None:
    spoil(stack, audit_table, case.change)
    error = refusal(make_sink(columns=case.columns), new_row(**case.row), new_row(**case.row))
    assert error.code == case.codes.get(make_sink.kind, case.code)
    assert error.status == (case.status if make_sink.kind == "supabase" else None)
    verdict = error.verdict
    expected = Verdict(case.fault, verdict.remedy, case.halve, case.park_at_once, case.foreign_key)
    assert verdict == expected
    assert case.remedy in verdict.remedy
    assert audit_table.count() == 0


def spoil(stack: Stack, table: AuditTable, change: str) -> None:
    if change:
        stack.sql(SQL(change.replace("{}", table.name)))  # type: ignore[arg-type]  # a test's own text
        stack.reload_schema_cache()


def test_what_is_nested_too_deeply_is_the_records_fault(sink: Sink, audit_table: AuditTable) -> None:
    row = new_row(new_values="DEEP").replace(b'"DEEP"', b"[" * 50_000 + b"]" * 50_000)
    error = refusal(sink, row)
    assert (error.code, error.verdict.fault, error.verdict.park_at_once) == ("54001", RECORD, True)
    assert audit_table.count() == 0


def test_a_missing_table_is_the_configurations_fault_until_it_is_there(make_sink: MakeSink, stack: Stack) -> None:
    table = AuditTable(stack.postgres, f"late_{uuid4().hex}")
    sink = make_sink(table=table.name)
    error = refusal(sink)
    assert error.verdict.fault is CONFIGURATION
    assert error.code == (None if make_sink.kind == "supabase" else "42P01")
    table.create()
    stack.reload_schema_cache()
    sink.insert([new_row()], soon())
    assert table.count() == 1
    table.drop()


def test_a_missing_schema_is_the_configurations_fault(make_sink: MakeSink) -> None:
    error = refusal(make_sink(schema="nowhere"))
    assert error.verdict.fault is CONFIGURATION
    if make_sink.kind == "supabase":
        assert (error.status, error.code) == (406, "PGRST106")
        assert "public, audit" in error.verdict.remedy


def test_a_table_in_another_schema_is_written_to(make_sink: MakeSink, stack: Stack) -> None:
    table = stack.create_table(schema="audit")
    make_sink(table=table.name, schema="audit").insert([new_row()], soon())
    assert table.count() == 1
    table.drop()


@pytest.fixture
def partitioned(stack: Stack) -> Any:
    table = AuditTable(stack.postgres, f"parts_{uuid4().hex}")
    stack.sql(
        SQL("create table {} (like public.pms_audit_log, primary key (id, created_at))").format(table.identifier)
        + SQL(" partition by range (created_at)")
    )
    stack.postgres.protect_table(table.identifier)
    spoil(stack, table, "grant select (created_at) on {} to audit_writer")
    yield table
    table.drop()


def test_a_row_without_a_partition_is_a_configuration_fault(
    make_sink: MakeSink, stack: Stack, partitioned: AuditTable
) -> None:
    """It is stored once there is a partition for it."""
    keys: dict[str, Any] = {"key_columns": ("id", "created_at")} if make_sink.kind == "supabase" else {}
    sink = make_sink(table=partitioned.name, **keys)
    error = refusal(sink)
    assert (error.code, error.verdict.fault) == ("23514", CONFIGURATION)
    assert partitioned.name in error.verdict.remedy
    spoil(stack, partitioned, "create table {}_default partition of {} default")
    row = new_row()
    sink.insert([row], soon())
    sink.insert([row, new_row()], soon())
    assert partitioned.count() == 2


def test_the_role_with_the_least_privileges_can_do_nothing_else(
    stack: Stack, sink: Sink, audit_table: AuditTable
) -> None:
    sink.insert([new_row()], soon())
    with stack.postgres.connect("audit_writer") as connection:
        for statement in ("select * from {}", "update {} set action = ''", "delete from {}", "truncate {}"):
            with pytest.raises(Exception, match="permission denied"):
                connection.execute(SQL(statement).format(audit_table.identifier))
    assert audit_table.count() == 1


def test_columns_and_tables_may_have_any_name(make_sink: MakeSink, stack: Stack) -> None:
    table = AuditTable(stack.postgres, f'odd "name", {uuid4().hex}')
    stack.sql(SQL('create table {} ("the id" text primary key, "a,b" text)').format(table.identifier))
    stack.sql(SQL("grant all on {} to service_role, audit_writer").format(table.identifier))
    stack.reload_schema_cache()
    options: dict[str, Any] = {"key_columns": ("the id",)} if make_sink.kind == "supabase" else {"id_column": "the id"}
    sink = make_sink(table=table.name, columns=("the id", "a,b"), **options)
    sink.insert([orjson.dumps({"the id": "1", "a,b": "x"})] * 2, soon())
    assert table.count() == 1
    table.drop()


def test_a_lock_on_the_table_is_waited_for_until_the_deadline(
    sink: Sink, stack: Stack, audit_table: AuditTable
) -> None:
    sink.insert([new_row()], soon())
    with stack.postgres.connect() as blocker:
        blocker.execute("begin")
        blocker.execute(SQL("lock table {}").format(audit_table.identifier))
        start = time.monotonic()
        error = refusal(sink, seconds=1.0)
        assert time.monotonic() - start < 8
        blocker.execute("rollback")
    assert error.verdict.fault is TRANSIENT
    sink.insert([new_row()], soon())


def test_a_backend_that_is_killed_in_the_middle_is_transient(
    make_sink: MakeSink, stack: Stack, audit_table: AuditTable
) -> None:
    sink = make_sink()
    row = new_row()
    with stack.postgres.connect() as blocker:
        blocker.execute("begin")
        blocker.execute(SQL("lock table {}").format(audit_table.identifier))
        role = "authenticator" if make_sink.kind == "supabase" else "audit_writer"
        killer = threading.Thread(target=kill_waiting, args=(stack, role))
        killer.start()
        error = refusal(sink, row)
        killer.join()
        blocker.execute("rollback")
    assert error.verdict.fault is TRANSIENT
    assert error.verdict.perhaps_stored
    stack.heal()
    sink.insert([row], soon())
    sink.insert([row], soon())
    assert audit_table.ids() == [id_of(row)]


def kill_waiting(stack: Stack, role: str) -> None:
    query = "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s and wait_event_type = 'Lock'"
    while not stack.sql(query, [role]):
        time.sleep(0.02)


def test_a_database_that_is_away_is_transient_and_comes_back(
    make_sink: MakeSink, stack: Stack, audit_table: AuditTable
) -> None:
    sink = make_sink()
    sink.insert([new_row()], soon())
    stack.postgres.stop()
    error = refusal(sink)
    assert error.verdict.fault is TRANSIENT
    stack.heal()
    sink.insert([new_row()], soon())
    assert audit_table.count() == 2


def test_connections_that_the_server_closed_while_idle_are_no_fault(
    make_sink: MakeSink, stack: Stack, audit_table: AuditTable
) -> None:
    sink = make_sink()
    sink.insert([new_row()], soon())
    if make_sink.kind == "supabase":
        stack.gateway.drop_connections()
    else:
        stack.postgres.terminate_backends("audit_writer")
    sink.insert([new_row()], soon())
    assert audit_table.count() == 2
