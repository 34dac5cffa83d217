"""Rows in a list."""

from __future__ import annotations

from otel_audit_exporter.sinks.memory import MemorySink
from tests.sinks.rows import id_of, new_row, soon


def test_rows_are_kept_in_order_and_decoded() -> None:
    sink = MemorySink()
    first, second = new_row(), new_row()
    sink.insert([first, second], soon())
    assert [row["id"] for row in sink.rows] == [id_of(first), id_of(second)]
    assert sink.rows[0]["action"] == "create"


def test_a_known_id_is_ignored_and_the_first_write_wins() -> None:
    sink = MemorySink()
    row = new_row()
    sink.insert([row, row], soon())
    sink.insert([new_row(id=id_of(row), action="other")], soon())
    assert [kept["action"] for kept in sink.rows] == ["create"]


def test_the_key_may_be_several_columns() -> None:
    sink = MemorySink(key_columns=("id", "action"))
    row = new_row()
    sink.insert([row, new_row(id=id_of(row), action="other")], soon())
    assert len(sink.rows) == 2


def test_clear_forgets_rows_and_ids() -> None:
    sink = MemorySink()
    row = new_row()
    sink.insert([row], soon())
    sink.clear()
    sink.insert([row], soon())
    assert len(sink.rows) == 1


def test_a_forked_child_starts_empty() -> None:
    sink = MemorySink()
    sink.insert([new_row()], soon())
    sink.renew_after_fork()
    assert sink.rows == []


def test_the_rows_survive_close() -> None:
    sink = MemorySink()
    sink.insert([new_row()], soon())
    sink.close()
    assert len(sink.rows) == 1
