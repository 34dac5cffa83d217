"""A row whose id is there with other content: logged once, counted, and without a value; an equal one is nothing."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest

from otel_audit_exporter import write_audit_event
from otel_audit_exporter.sinks.known_rows import KnownRows
from otel_audit_exporter.sinks.sqlite import SQLiteSink
from otel_audit_exporter.sinks.supabase.sink import SupabaseSink
from tests.sinks.conftest import MakeSink
from tests.sinks.rows import COLUMNS, VALUE, id_of, new_row, new_rows, soon
from tests.stack import AuditTable, Stack

READER = {"supabase": "service_role", "postgres": "postgres"}  # roles that may read the table


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def other_content(row: bytes, **changes: Any) -> bytes:
    return orjson.dumps(orjson.loads(row) | changes)


def test_another_event_under_a_known_id_is_logged_and_counted(
    make_sink: MakeSink, audit_table: AuditTable, caplog: pytest.LogCaptureFixture
) -> None:
    sink: Any = make_sink(READER[make_sink.kind])
    row = new_row()
    sink.insert([row], soon())
    later = {"created_at": "2026-03-05T05:06:07.123456+00:00"}
    sink.insert([other_content(row, action="delete_everything", new_values={"note": "OTHER"}, **later)], soon())
    [line] = warnings_in(caplog)
    assert "(in action, new_values)" in line
    assert "idempotency key" in line
    assert all(value not in line for value in (VALUE, "OTHER", "delete_everything", id_of(row)))
    assert sink.known_rows.differing == 1
    assert audit_table.rows()[0]["action"] == "create"


def test_the_same_cause_is_logged_once_and_counted_each_time(
    make_sink: MakeSink, caplog: pytest.LogCaptureFixture
) -> None:
    sink: Any = make_sink(READER[make_sink.kind])
    rows = new_rows(3)
    sink.insert(rows, soon())
    sink.insert([other_content(row, action="other") for row in rows], soon())
    assert len(warnings_in(caplog)) == 1
    assert sink.known_rows.differing == 3


def test_a_row_that_is_sent_again_is_equal_whatever_it_holds(
    make_sink: MakeSink, caplog: pytest.LogCaptureFixture
) -> None:
    sink: Any = make_sink(READER[make_sink.kind])
    values: list[Any] = [None, {}, [], "text", 1.0, 1e300, {"b": 1, "a": [None, True, "\u00e4"]}, "{}", -0.5, 2**60]
    rows = [new_row(new_values=value) for value in values]
    sink.insert(rows, soon())
    sink.insert([*rows, new_row()], soon())
    assert warnings_in(caplog) == []
    assert sink.known_rows.differing == 0


def test_a_role_that_may_read_ids_only_delivers_all_the_same(
    make_sink: MakeSink, audit_table: AuditTable, caplog: pytest.LogCaptureFixture
) -> None:
    sink: Any = make_sink()
    row = new_row()
    for _ in range(2):
        sink.insert([row, new_row()], soon())
    sink.insert([other_content(row, action="other")], soon())
    assert audit_table.count() == 3
    assert warnings_in(caplog) == []


def test_rows_that_are_all_new_cost_no_further_request(stack: Stack, supabase_sink: SupabaseSink) -> None:
    for _ in range(2):
        supabase_sink.insert(new_rows(5), soon())
    assert [request.method for request in stack.gateway.requests] == ["POST"] * 2


def test_the_embedded_table_compares_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(SQLiteSink(tmp_path / "audit.db", columns=COLUMNS)) as sink:
        row = new_row(entity_id=7, new_values={"a": 1.5})
        for _ in range(2):
            sink.insert([row], soon())
        assert warnings_in(caplog) == []
        sink.insert([other_content(row, action="other")], soon())
        assert sink.known_rows.differing == 1
    assert "(in action)" in warnings_in(caplog)[0]


def test_columns_are_compared_by_their_own_names(stack: Stack, audit_table: AuditTable) -> None:
    row = new_row()
    sink = SupabaseSink(
        stack.url, stack.service_key, table=audit_table.name, columns=COLUMNS, compared_columns=["entity_type"]
    )
    with closing(sink):
        sink.insert([row], soon())
        sink.insert([other_content(row, action="other")], soon())
        assert sink.known_rows.differing == 0
        sink.insert([other_content(row, entity_type="other")], soon())
        assert sink.known_rows.differing == 1


@pytest.mark.parametrize(
    ("sent", "there"),
    [
        ({"a": [1]}, '{"a": [1]}'),
        (5, "5"),
        ("6B7C430D-4653-4E46-91E3-BE423EC14440", "6b7c430d-4653-4e46-91e3-be423ec14440"),
        ("1.50", 1.5),
        ("abc", "abc   "),
        ("2026-03-04T05:06:07+00:00", "2026-03-04T06:06:07+01:00"),
    ],
)
def test_one_value_in_two_spellings_is_the_same(sent: Any, there: Any) -> None:
    known = KnownRows(["c"], ["c"])
    known.compare("table", {"c": sent}, {"c": there})
    assert known.differing == 0


@pytest.mark.parametrize(("sent", "there"), [(None, ""), ("a", "b"), ({"a": 1}, {"a": 2}), ({"a": 1}, "x"), (1, None)])
def test_another_value_differs(sent: Any, there: Any) -> None:
    known = KnownRows(["c"], ["c"])
    known.compare("table", {"c": sent}, {"c": there})
    assert known.differing == 1


def test_the_embedded_file_is_its_owners_alone(tmp_path: Path) -> None:
    old_mask = os.umask(0o022)
    try:
        with closing(SQLiteSink(tmp_path / "audit.db", columns=COLUMNS)) as sink:
            sink.insert([new_row()], soon())
    finally:
        os.umask(old_mask)
    assert (tmp_path / "audit.db").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    path.touch()
    path.chmod(0o640)
    with closing(SQLiteSink(path, columns=COLUMNS)) as sink:
        sink.insert([new_row()], soon())
    assert path.stat().st_mode & 0o777 == 0o640


def test_an_event_in_a_transaction_is_compared_too(
    stack: Stack, audit_table: AuditTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_AUDIT_TABLE", audit_table.name)
    fields: Any = dict.fromkeys(("entity_id", "yacht_id", "user_id"), id_of(new_row()))
    with psycopg.connect(stack.dsn()) as connection:
        for action in ("view", "view", "delete"):
            write_audit_event(connection, action, entity_type="part", idempotency_key="one", **fields)
    assert [row["action"] for row in audit_table.rows()] == ["view"]
    [line] = warnings_in(caplog)
    assert "(in action)" in line
