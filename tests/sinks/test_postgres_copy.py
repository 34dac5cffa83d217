"""Large batches over a direct connection: copied where that is the same as to insert them, and inserted else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import orjson
import pytest
from psycopg.sql import SQL

from otel_audit_exporter.event.joined import SEPARATOR, Joined
from otel_audit_exporter.event.serialization import row_template
from otel_audit_exporter.sinks.postgres.copy import Copy, copy_for
from otel_audit_exporter.sinks.postgres.sink import COPY_ROWS, PostgresSink
from otel_audit_exporter.sinks.postgres.statements import Insert, TableShape
from otel_audit_exporter.sinks.verdict import Fault
from tests.sinks.rows import COLUMNS, CREATED_AT, id_of, refusal, soon
from tests.sinks.tcp_proxy import TcpProxy
from tests.stack import AuditTable, Stack
from tests.support.running import in_threads

TYPES = dict.fromkeys(COLUMNS, "uuid") | {
    "entity_type": "text",
    "action": "text",
    "created_at": "timestamp with time zone",
    "old_values": "jsonb",
    "new_values": "jsonb",
}
TELL_HOW = "new.action := case when current_query() like '%COPY%' then 'copied' else 'inserted' end; return new;"


def line_row(**changes: Any) -> bytes:
    """Make a row in the form that events are kept in, with one value to a line."""
    row = {
        "id": str(uuid4()),
        "yacht_id": str(uuid4()),
        "entity_type": "receiving",
        "action": "create",
        "entity_id": str(uuid4()),
        "created_by": str(uuid4()),
        "created_at": CREATED_AT,
        "old_values": None,
        "new_values": {"note": "ok"},
    } | changes
    return row_template(COLUMNS) % tuple(orjson.dumps(row[column]) for column in COLUMNS)


def many(*special: bytes, count: int = COPY_ROWS) -> list[bytes]:
    """Make a batch that is large enough to be copied, with the special ones in its middle."""
    rows = [line_row() for _ in range(count - len(special))]
    return [*rows[:100], *special, *rows[100:]]


def in_one_piece(rows: list[bytes]) -> Joined:
    return Joined(SEPARATOR.join(rows), len(rows))


@pytest.fixture
def sink(stack: Stack, audit_table: AuditTable) -> Iterator[PostgresSink]:
    """A sink whose role no row-level security applies to, and that has a connection."""
    audit_table.run_before_insert(TELL_HOW)
    with closing(PostgresSink(stack.dsn(), table=audit_table.name, columns=COLUMNS)) as sink:
        sink.insert([line_row()], soon())
        audit_table.postgres.sql(SQL("delete from {}").format(audit_table.identifier))
        yield sink


def how(table: AuditTable) -> set[str]:
    """Tell how the rows came, which a trigger has written into each."""
    return {row["action"] for row in table.rows()}


def test_many_rows_are_copied_and_stored_unchanged(sink: PostgresSink, audit_table: AuditTable) -> None:
    documents: list[Any] = [
        {"text": 'back\\slash, "quotes", tab\t, newline\n, \\N, \\., null, ü\u2028, {}'},
        [1.5, None, True, [], {"null": "null"}],
        "null",
        "a string",
        0,
        None,
    ]
    special = [line_row(old_values=one, new_values={"deep": [one]}) for one in documents]
    audit_table.alter("alter column created_by drop not null")
    special.append(line_row(created_by=None, entity_type="ü"))
    rows = many(*special)
    sink.insert(in_one_piece(rows), soon())
    assert how(audit_table) == {"copied"}
    stored = {str(row["id"]): row for row in audit_table.rows()}
    assert len(stored) == COPY_ROWS
    for row in rows:
        said, kept = orjson.loads(row), stored[id_of(row)]
        for name in ("old_values", "new_values", "entity_type"):
            assert kept[name] == said[name]
        assert [str(kept[name]) for name in ("yacht_id", "created_by")] == [
            str(said[name]) for name in ("yacht_id", "created_by")
        ]
        assert kept["created_at"].isoformat() == CREATED_AT


def test_a_few_rows_are_inserted(sink: PostgresSink, audit_table: AuditTable) -> None:
    sink.insert(many(count=COPY_ROWS - 1), soon())
    assert (how(audit_table), audit_table.count()) == ({"inserted"}, COPY_ROWS - 1)


@pytest.mark.parametrize(
    "odd",
    [{"entity_type": 'a "quoted" text'}, {"entity_type": "tab\t"}, {"entity_type": "null"}, {"entity_type": "\\N"}],
)
def test_a_text_that_copy_would_write_otherwise_has_the_batch_inserted(
    sink: PostgresSink, audit_table: AuditTable, odd: dict[str, str]
) -> None:
    row = line_row(**odd)
    sink.insert(many(row), soon())
    stored = {str(kept["id"]): kept["entity_type"] for kept in audit_table.rows()}
    assert (how(audit_table), len(stored)) == ({"inserted"}, COPY_ROWS)
    assert stored[id_of(row)] == odd["entity_type"]


def test_rows_in_another_form_are_inserted(sink: PostgresSink, audit_table: AuditTable) -> None:
    sink.insert([orjson.dumps(orjson.loads(row)) for row in many()], soon())
    assert (how(audit_table), audit_table.count()) == ({"inserted"}, COPY_ROWS)


def test_known_ids_are_ignored_and_the_first_write_wins(sink: PostgresSink, audit_table: AuditTable) -> None:
    known = line_row()
    sink.insert([known], soon())
    sink.insert(many(line_row(id=id_of(known), entity_type="later")), soon())
    assert audit_table.count() == COPY_ROWS
    assert {row["entity_type"] for row in audit_table.rows()} == {"receiving"}
    sink.insert(many(), soon())
    assert "copied" in how(audit_table), "a batch with a known id says nothing against copying the next one"


def test_one_bad_row_stores_none_and_is_the_records_fault(sink: PostgresSink, audit_table: AuditTable) -> None:
    error = refusal(sink, *many(line_row(yacht_id="no uuid")))
    assert (error.verdict.fault, error.code) == (Fault.RECORD, "22P02")
    assert audit_table.count() == 0


def test_only_the_rows_dropped_by_a_trigger_are_refused(sink: PostgresSink, audit_table: AuditTable) -> None:
    """The others are known to be stored."""
    audit_table.run_before_insert("if new.entity_type = 'bad' then return null; end if; " + TELL_HOW)
    rows = many(line_row(entity_type="bad"))
    error = refusal(sink, *rows)
    assert set(range(COPY_ROWS)).difference(error.stored) == {100}
    assert (how(audit_table), audit_table.count()) == ({"copied"}, COPY_ROWS - 1)


def test_without_the_unique_index_nothing_is_copied_and_it_is_reported(
    sink: PostgresSink, audit_table: AuditTable
) -> None:
    audit_table.alter(f"drop constraint {audit_table.name}_pkey")
    error = refusal(sink, *many())
    assert (error.verdict.fault, error.code) == (Fault.CONFIGURATION, "42P10")
    assert audit_table.count() == 0
    audit_table.alter("add primary key (id)")
    sink.insert([line_row()], soon())
    sink.insert(many(), soon())
    assert how(audit_table) == {"copied", "inserted"}


def test_a_column_whose_type_changes_is_noticed(sink: PostgresSink, audit_table: AuditTable) -> None:
    audit_table.alter("alter column created_by type text, alter column new_values type json")
    rows = many(line_row(new_values={"b": 1, "a": [1.50]}))
    sink.insert(rows, soon())
    assert sorted(audit_table.ids()) == sorted(map(id_of, rows))


def test_where_row_level_security_applies_rows_are_inserted(stack: Stack, audit_table: AuditTable) -> None:
    audit_table.run_before_insert(TELL_HOW)
    with closing(PostgresSink(stack.dsn("audit_writer"), table=audit_table.name, columns=COLUMNS)) as sink:
        sink.insert([line_row()], soon())
        sink.insert(many(), soon())
    assert (how(audit_table), audit_table.count()) == ({"inserted"}, COPY_ROWS + 1)


def test_rows_are_inserted_once_row_level_security_applies(stack: Stack, audit_table: AuditTable) -> None:
    """It did not apply at first, and rows were copied."""
    audit_table.run_before_insert(TELL_HOW)
    audit_table.alter("disable row level security")
    with closing(PostgresSink(stack.dsn("audit_writer"), table=audit_table.name, columns=COLUMNS)) as sink:
        sink.insert([line_row()], soon())
        sink.insert(many(), soon())
        assert how(audit_table) == {"copied", "inserted"}
        audit_table.postgres.sql(SQL("delete from {}").format(audit_table.identifier))
        audit_table.alter("enable row level security")
        sink.insert(many(), soon())
    assert (how(audit_table), audit_table.count()) == ({"inserted"}, COPY_ROWS)


def test_nothing_is_copied_into_a_table_that_gets_rules(sink: PostgresSink, audit_table: AuditTable) -> None:
    rule = SQL("create rule nothing as on insert to {} where new.entity_type = 'never' do also select 1")
    audit_table.postgres.sql(rule.format(audit_table.identifier))
    assert refusal(sink, *many()).code == "0A000"  # which is what PostgreSQL says to ON CONFLICT on such a table
    assert audit_table.count() == 0


def test_threads_with_the_same_rows_store_them_once(sink: PostgresSink, audit_table: AuditTable) -> None:
    rows = many(count=1000)
    sink.insert([line_row()], soon())
    in_threads([lambda: sink.insert(in_one_piece(rows), soon())] * 4)
    assert audit_table.count() == 1001


# A connection that breaks or hangs


@pytest.fixture
def proxied(stack: Stack, proxy: TcpProxy, audit_table: AuditTable) -> Iterator[PostgresSink]:
    dsn = proxy.through(stack.dsn())
    with closing(PostgresSink(dsn, table=audit_table.name, columns=COLUMNS)) as sink:
        sink.insert([line_row()], soon())
        yield sink


def test_a_kept_connection_that_has_gone_is_nobodys_trouble(
    proxied: PostgresSink, proxy: TcpProxy, audit_table: AuditTable
) -> None:
    proxy.cut()
    proxied.insert(many(), soon())
    assert audit_table.count() == COPY_ROWS + 1


def test_a_connection_is_made_for_copying_where_none_is_kept(
    stack: Stack, sink: PostgresSink, audit_table: AuditTable
) -> None:
    sink.close()
    sink.insert(many(), soon())
    assert how(audit_table) == {"copied"}


def test_where_none_can_be_made_nothing_is_stored_for_sure(proxied: PostgresSink, proxy: TcpProxy) -> None:
    proxied.close()
    proxy.stop()
    error = refusal(proxied, *many())
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (Fault.TRANSIENT, False)


def test_an_answer_that_is_lost_after_the_commit_doubles_nothing(
    proxied: PostgresSink, proxy: TcpProxy, audit_table: AuditTable
) -> None:
    rows = many()
    proxy.replies = "cut"
    error = refusal(proxied, *rows)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (Fault.TRANSIENT, True)
    proxy.replies = "pass"
    proxied.insert(rows, soon())
    assert audit_table.count() == COPY_ROWS + 1


def test_a_server_that_does_not_answer_ends_with_the_deadline(
    proxied: PostgresSink, proxy: TcpProxy, audit_table: AuditTable
) -> None:
    rows = many()
    proxy.replies = "hold"
    error = refusal(proxied, *rows, seconds=3.0)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (Fault.TRANSIENT, True)
    proxy.replies = "pass"
    proxy.cut()
    proxied.insert(rows, soon())
    assert audit_table.count() == COPY_ROWS + 1


def test_a_locked_table_ends_the_attempt_in_time_and_is_reported(
    stack: Stack, sink: PostgresSink, audit_table: AuditTable
) -> None:
    rows = many()
    with stack.postgres.connect() as holder, holder.transaction():
        holder.execute(SQL("lock table {}").format(audit_table.identifier))
        error = refusal(sink, *rows, seconds=1.0)
        assert error.verdict.fault is Fault.TRANSIENT
    sink.insert(rows, soon())
    assert audit_table.count() == COPY_ROWS


# What is sent


def fit(**types: str) -> Copy | None:
    insert = Insert("public", "t", COLUMNS, "id", None, frozenset({"old_values", "new_values"}))
    return copy_for(insert, TableShape(TYPES | types, [["id"]], [1]))


def test_only_types_that_read_the_same_text_either_way_are_copied() -> None:
    assert fit() is not None
    assert fit(entity_type="character varying") is not None
    for name, kind in (("entity_type", "character varying(20)"), ("entity_id", "bigint"), ("new_values", "json")):
        assert fit(**{name: kind}) is None


def test_a_key_that_no_index_stands_for_is_not_copied() -> None:
    for shape in (TableShape(TYPES, [["id"]]), TableShape(TYPES, [["id", "created_at"]], [1])):
        insert = Insert("public", "t", COLUMNS, "id", ("id",), frozenset())
        assert copy_for(insert, shape) is None


def test_a_line_of_copy_has_each_value_as_copy_reads_it() -> None:
    copy = fit()
    assert copy is not None
    row = line_row(created_by=None, new_values={"a": 'b"\\\t'})
    said = orjson.loads(row)
    assert (
        copy.data([row])
        == "\t".join(
            [
                *(said[name] for name in COLUMNS[:5]),
                "null",
                CREATED_AT,
                "null",
                r'{"a":"b\\"\\\\\\t"}' + "\n",
            ]
        ).encode()
    )
    for odd in ({"action": "null"}, {"action": "a\\"}, {"action": 5}, {"action": ["a"]}):
        assert copy.data([line_row(), line_row(**odd), line_row()]) is None
