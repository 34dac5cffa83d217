"""The embedded table, in real files."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from otel_audit_exporter.sinks.sqlite import SQLiteSink
from otel_audit_exporter.sinks.verdict import Fault
from tests.sinks.rows import COLUMNS, VALUE, id_of, new_row, new_rows, refusal, soon
from tests.support.running import in_threads, run_in_child


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


Opened = Callable[..., SQLiteSink]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Make sinks that are closed at the end."""
    with ExitStack() as stack:
        yield lambda path, **options: stack.enter_context(closing(SQLiteSink(path, **options)))


@pytest.fixture
def sink(opened: Opened, path: Path) -> SQLiteSink:
    return opened(path, columns=COLUMNS)


def read(path: Path, query: str = "SELECT * FROM pms_audit_log ORDER BY rowid") -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def test_file_and_table_are_made_and_the_row_stored_unchanged(sink: SQLiteSink, path: Path) -> None:
    row = new_row(new_values={"lines": [1, 2.5, None, "ü"]})
    sink.insert([row], soon())
    expected = orjson.loads(row)
    [stored] = read(path)
    assert json.loads(stored.pop("new_values")) == expected.pop("new_values")
    assert stored == expected


def test_a_known_id_is_ignored_and_the_first_write_wins(sink: SQLiteSink, path: Path) -> None:
    row = new_row()
    sink.insert([row, row], soon())
    sink.insert([new_row(id=id_of(row), action="other"), new_row()], soon())
    assert [stored["action"] for stored in read(path)] == ["create", "create"]
    assert len(read(path)) == 2


@pytest.mark.parametrize("value", [{"a": [1]}, [1, 2], "text", "", 7, 1.5, True, "null", None])
def test_a_json_column_holds_json_whatever_the_value(sink: SQLiteSink, path: Path, value: object) -> None:
    sink.insert([new_row(old_values=value)], soon())
    [stored] = read(path)
    if value is None:
        assert stored["old_values"] is None
    else:
        assert json.loads(stored["old_values"]) == value


def test_a_long_integer_keeps_every_digit(sink: SQLiteSink, path: Path) -> None:
    row = new_row(new_values="LONG", entity_id="ID").replace(b'"LONG"', str(2**70).encode())
    sink.insert([row.replace(b'"ID"', str(2**80).encode())], soon())
    [stored] = read(path)
    assert json.loads(stored["new_values"]) == 2**70
    assert stored["entity_id"] == str(2**80)


@pytest.mark.parametrize(
    "value",
    [
        "[" * 10_000 + "]" * 10_000,
        '{"a":' * 3_000 + '["[1.10]"]' + "}" * 3_000,
        "1" + "0" * 5000,
        "[1.10,1e400,-0,0.12345678901234567890123]",
        f'{{"a":{2**70},"b":{{"c":1,"c":2}}}}',
    ],
    ids=["deep", "deep objects", "huge", "exact numbers", "repeated keys"],
)
def test_json_of_any_depth_and_any_number_is_kept_exactly(sink: SQLiteSink, path: Path, value: str) -> None:
    rows = [new_row(new_values="JSON", old_values="[1]").replace(b'"JSON"', value.encode()), new_row()]
    sink.insert(rows, soon())
    stored, _ = read(path)
    assert stored["new_values"] == value
    assert stored["old_values"] == '"[1]"'


def test_other_columns_hold_text_and_an_object_in_them_is_json(sink: SQLiteSink, path: Path) -> None:
    sink.insert([new_row(entity_id=42, action={"a": 1})], soon())
    [stored] = read(path)
    assert (stored["entity_id"], stored["action"]) == ("42", '{"a":1}')


@pytest.mark.parametrize("column", ["id", "yacht_id", "entity_type", "action", "entity_id", "created_at"])
def test_a_missing_value_is_the_records_fault_and_stores_nothing(sink: SQLiteSink, path: Path, column: str) -> None:
    error = refusal(sink, new_row(), new_row(**{column: None}), new_row())
    assert error.verdict.fault is Fault.RECORD
    assert error.code == "SQLITE_CONSTRAINT_NOTNULL"
    assert column in error.message
    assert read(path) == []


def test_a_service_without_a_user_can_be_recorded(sink: SQLiteSink, path: Path) -> None:
    sink.insert([new_row(created_by=None)], soon())
    assert read(path)[0]["created_by"] is None


def make(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


_TABLE = "CREATE TABLE pms_audit_log (" + ", ".join(COLUMNS).replace("id,", "id TEXT PRIMARY KEY,", 1)


@pytest.mark.parametrize(
    ("table", "fault", "code"),
    [
        (_TABLE + ", CHECK (length(action) < 3))", Fault.RECORD, "SQLITE_CONSTRAINT_CHECK"),
        (_TABLE + ", UNIQUE (created_at))", Fault.RECORD, "SQLITE_CONSTRAINT_UNIQUE"),
        ("CREATE TABLE pms_audit_log (id TEXT PRIMARY KEY)", Fault.CONFIGURATION, "SQLITE_ERROR"),
        ("CREATE TABLE pms_audit_log (id, action)", Fault.CONFIGURATION, "SQLITE_ERROR"),
    ],
)
def test_a_table_of_ones_own_may_refuse(sink: SQLiteSink, path: Path, table: str, fault: Fault, code: str) -> None:
    make(path, table)
    error = refusal(sink, new_row(), new_row())
    assert (error.verdict.fault, error.code) == (fault, code)
    assert error.verdict.remedy


def test_a_trigger_may_refuse_and_its_words_are_not_repeated(sink: SQLiteSink, path: Path) -> None:
    sink.insert([new_row()], soon())
    raising = f"BEGIN SELECT RAISE(ABORT, '{VALUE}'); END"
    make(path, f"CREATE TRIGGER t BEFORE INSERT ON pms_audit_log {raising}")
    assert refusal(sink).verdict.fault is Fault.RECORD


def test_a_missing_column_is_the_configurations_fault_until_it_is_added(path: Path, opened: Opened) -> None:
    opened(path, columns=COLUMNS).insert([new_row()], soon())
    sink = opened(path, columns=[*COLUMNS, "outcome"])
    error = refusal(sink, new_row(outcome="success"))
    assert error.verdict.fault is Fault.CONFIGURATION
    assert "outcome" in error.message
    make(path, "ALTER TABLE pms_audit_log ADD COLUMN outcome")
    sink.insert([new_row(outcome="success")], soon())
    assert len(read(path)) == 2


def test_a_missing_directory_is_the_configurations_fault(tmp_path: Path, opened: Opened) -> None:
    sink = opened(tmp_path / "missing" / "audit.db", columns=COLUMNS)
    error = refusal(sink)
    assert (error.verdict.fault, error.code) == (Fault.CONFIGURATION, "SQLITE_CANTOPEN")
    (tmp_path / "missing").mkdir()
    sink.insert([new_row()], soon())


def test_a_file_that_is_something_else_is_the_configurations_fault(path: Path, opened: Opened) -> None:
    path.write_bytes(b"not a database, " * 100)
    error = refusal(opened(path, columns=COLUMNS))
    assert (error.verdict.fault, error.code) == (Fault.CONFIGURATION, "SQLITE_NOTADB")


def test_a_read_only_database_is_the_configurations_fault(sink: SQLiteSink) -> None:
    sink.insert([new_row()], soon())
    assert sink._connection is not None
    sink._connection.execute("PRAGMA query_only = ON")
    error = refusal(sink)
    assert (error.verdict.fault, error.code) == (Fault.CONFIGURATION, "SQLITE_READONLY")


def test_a_full_disk_is_transient_and_stores_nothing(sink: SQLiteSink, path: Path) -> None:
    sink.insert([new_row()], soon())
    assert sink._connection is not None
    sink._connection.execute("PRAGMA max_page_count = 4")
    error = refusal(sink, *new_rows(500))
    assert (error.verdict.fault, error.code) == (Fault.TRANSIENT, "SQLITE_FULL")
    sink.insert([new_row()], soon())  # the refused connection, and its limit, are gone
    assert len(read(path)) == 2


def test_a_locked_file_is_waited_for_until_the_deadline(sink: SQLiteSink, path: Path) -> None:
    sink.insert([new_row()], soon())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        error = refusal(sink, seconds=0.3)
        assert 0.25 < time.monotonic() - start < 5
    assert (error.verdict.fault, error.code) == (Fault.TRANSIENT, "SQLITE_BUSY")
    sink.insert([new_row()], soon())


def test_a_row_that_is_no_row_is_the_records_fault(sink: SQLiteSink) -> None:
    for row in (b"nonsense", b"[1]", b'{"id": 1}', b'{"id":' + b"[" * 100_000):
        assert refusal(sink, row).verdict.fault is Fault.RECORD


def test_a_file_that_was_moved_away_is_not_written_to(sink: SQLiteSink, path: Path) -> None:
    sink.insert([new_row()], soon())
    path.rename(path.with_suffix(".1"))
    sink.insert([new_row()], soon())
    assert len(read(path)) == 1
    assert len(read(path.with_suffix(".1"))) == 1


def test_a_dropped_table_is_made_again(sink: SQLiteSink, path: Path) -> None:
    sink.insert([new_row()], soon())
    make(path, "DROP TABLE pms_audit_log")
    assert refusal(sink).verdict.fault is Fault.CONFIGURATION
    sink.insert([new_row()], soon())
    assert len(read(path)) == 1


def test_threads_and_sinks_write_the_same_file_at_once(path: Path, opened: Opened) -> None:
    sinks = [opened(path, columns=COLUMNS) for _ in range(2)]

    def write(sink: SQLiteSink) -> None:
        for _ in range(10):
            sink.insert(new_rows(20), soon())

    in_threads([partial(write, sink) for sink in sinks * 2])
    assert len(read(path)) == 800


def test_a_fork_under_load_spoils_nobodys_rows(sink: SQLiteSink, path: Path) -> None:
    sink.insert([new_row()], soon())
    stop = threading.Event()
    written = [1]

    def write() -> None:
        while not stop.is_set():
            sink.insert(new_rows(5), soon())
            written[0] += 5

    def write_in_child() -> None:
        sink.renew_after_fork()
        sink.insert(new_rows(3), soon())

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(10):
        assert run_in_child(write_in_child)
    stop.set()
    writer.join()
    sink.insert([new_row()], soon())
    assert len(read(path)) == written[0] + 31
    assert read(path, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]


def test_names_are_quoted(path: Path, opened: Opened) -> None:
    columns = ['i"d', "select", "old values"]
    sink = opened(path, table='t"; drop', columns=columns, key_columns=columns[:1], not_null=())
    sink.insert([orjson.dumps(dict.fromkeys(columns, "x"))] * 2, soon())
    assert read(path, 'SELECT * FROM "t""; drop"') == [dict.fromkeys(columns, "x")]


def test_a_closed_sink_opens_again(sink: SQLiteSink, path: Path) -> None:
    sink.insert([new_row()], soon())
    sink.close()
    sink.close()
    sink.insert([new_row()], soon())
    assert len(read(path)) == 2
    assert sink.target == f"{path} pms_audit_log"
