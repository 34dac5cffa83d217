"""One bad row of every kind among 500: 499 stored, one parked with its reason, found in few requests.

And where it is the table that refuses every row, none is parked, and all are stored once it is mended.
"""

import math
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from psycopg.sql import SQL, Identifier

from otel_audit_exporter import DeadLetter
from otel_audit_exporter.delivery.bisect_insert import REFUSALS_IN_A_ROW
from tests.faults.conftest import Running, Start
from tests.stack import AuditTable, Stack
from tests.stack.faults import payload_too_large
from tests.stack.waiting import wait_until

_ROWS = 500
_REQUESTS = 2 * math.log2(_ROWS) + 4
_A_MINUTE = 60_000
EXPORTERS = ("supabase", "postgres")


@dataclass(frozen=True)
class DataFault:
    """What the table is made of, and how a bad row differs from good ones."""

    code: str
    bad: dict[str, Any]
    alter: str = ""
    good: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=lambda: {"ids": "text"})


def _nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


DATA_FAULTS = {
    "no uuid": DataFault("22P02", {"entity_id": "no-uuid"}),
    "no number": DataFault(
        "22P02", {"entity_id": "many"}, "alter column entity_id type integer using 1", {"entity_id": 7}
    ),
    "a number out of range": DataFault(
        "22003", {"entity_id": 2**40}, "alter column entity_id type integer using 1", {"entity_id": 7}
    ),
    "no date": DataFault(
        "22007", {"user_id": "soon"}, "alter column created_by type date using now()", {"user_id": "2024-02-29"}
    ),
    "a date that is none": DataFault(
        "22008", {"user_id": "2023-02-31"}, "alter column created_by type date using now()", {"user_id": "2024-02-29"}
    ),
    "too long": DataFault("22001", {"action": "x" * 21}, "alter column action type varchar(20)"),
    "null": DataFault(
        "23502", {"old_values": None}, "alter column old_values set not null", {"old_values": {"was": 1}}
    ),
    "check": DataFault("23514", {"action": "bad"}, "add constraint c check (action <> 'bad')"),
    "nested too deeply": DataFault("54001", {"new_values": _nested(200_000)}),
}


@pytest.mark.parametrize("fault", DATA_FAULTS.values(), ids=DATA_FAULTS)
def test_one_bad_row_in_500_is_parked_and_the_rest_stored(
    stack: Stack, start: Start, audit_table: AuditTable, fault: DataFault
) -> None:
    """The dead letter has the reason."""
    if fault.alter:
        audit_table.alter(fault.alter)
        stack.reload_schema_cache()
    running = start(schedule_delay_millis=_A_MINUTE, **fault.options)
    emit_with_one_bad(running, fault)
    assert_one_parked(running, fault.code)
    assert len(stack.gateway.requests) <= _REQUESTS


def test_a_row_that_a_trigger_refuses_is_parked(stack: Stack, start: Start, audit_table: AuditTable) -> None:
    audit_table.run_before_insert("if new.action = 'bad' then raise exception 'not this one'; end if; return new;")
    running = start(schedule_delay_millis=_A_MINUTE)
    emit_with_one_bad(running, DataFault("P0001", {"action": "bad"}))
    assert_one_parked(running, "P0001")
    assert len(stack.gateway.requests) <= _REQUESTS


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_row_that_a_trigger_drops_without_a_word_is_parked(
    stack: Stack, start: Start, audit_table: AuditTable, exporter: str
) -> None:
    audit_table.run_before_insert("if new.action = 'bad' then return null; end if; return new;")
    running = start(schedule_delay_millis=_A_MINUTE, **to(stack, exporter))
    emit_with_one_bad(running, DataFault("", {"action": "bad"}))
    letter = assert_one_parked(running, None)
    assert "trigger" in letter.error


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_rows_dropped_by_a_trigger_wait_until_it_is_gone(
    stack: Stack, start: Start, audit_table: AuditTable, exporter: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The trigger drops every row. One log line says what to do."""
    running = start(**to(stack, exporter))
    running.emit(10)
    assert running.pipeline.force_flush()
    audit_table.run_before_insert("return null;")
    running.emit(100)
    wait_until(lambda: running.pipeline.stats().held == 100, "every row is held")
    running.pipeline.force_flush(1)
    stats = running.pipeline.stats()
    assert (stats.succeeded, stats.failed, stats.pending) == (10, 0, 100)
    assert "trigger" in str(stats.last_error)
    lines = [record.getMessage() for record in caplog.records]
    told = [line for line in lines if "refuses every row" in line and not line.startswith("audit: health")]
    assert len(told) == 1
    assert "BEFORE INSERT trigger" in told[0]
    audit_table.run_nothing_before_insert()
    running.wait_until_delivered()
    running.assert_each_good_one_stored_once()
    assert len(running.pipeline.dead_letters()) == 0


def test_a_row_that_breaks_another_unique_constraint_is_parked(
    stack: Stack, start: Start, audit_table: AuditTable
) -> None:
    audit_table.alter("add unique (entity_id)")
    running = start(schedule_delay_millis=_A_MINUTE)
    taken = str(uuid4())
    running.emit(1, entity_id=taken)
    assert running.pipeline.force_flush()
    stack.gateway.clear()
    emit_with_one_bad(running, DataFault("23505", {"entity_id": taken}))
    assert_one_parked(running, "23505")
    assert len(stack.gateway.requests) <= _REQUESTS


class TestForeignKeys:
    @pytest.fixture(autouse=True)
    def parents(self, stack: Stack, audit_table: AuditTable) -> str:
        parents = f"{audit_table.name}_parents"
        stack.sql(SQL("create table {} (id uuid primary key)").format(Identifier(parents)))
        audit_table.alter(f"add foreign key (entity_id) references {parents} (id)")
        return parents

    def test_a_row_waits_for_the_one_that_it_refers_to(self, stack: Stack, start: Start, parents: str) -> None:
        running = start()
        entity_id = str(uuid4())
        running.emit_one(bad=False, entity_id=entity_id)
        wait_until(lambda: running.pipeline.stats().held == 1, "the row is held")
        assert running.table.count() == 0
        insert_parent(stack, parents, entity_id)
        running.wait_until_delivered()
        assert set(running.table.ids()) == running.good

    def test_a_row_whose_parent_never_comes_is_parked_after_the_grace(
        self, stack: Stack, start: Start, parents: str
    ) -> None:
        running = start(foreign_key_grace_seconds=0.5)
        there = str(uuid4())
        insert_parent(stack, parents, there)
        running.emit_one(bad=True, entity_id=str(uuid4()))
        running.emit(20, entity_id=there)
        running.wait_until_delivered()
        assert set(running.table.ids()) == running.good
        assert [letter.code for letter in running.pipeline.dead_letters()] == ["23503"]


_MUST = ("add column must text not null default ''", "alter column must drop default")
EVERY_ROW = {
    "a column that must not be null": (0, _MUST, "drop column must"),
    "the same after rows were stored": (10, _MUST, "drop column must"),
    "a check that always fails": (0, ("add constraint c check (false) not valid",), "drop constraint c"),
    "the same check after rows were stored": (10, ("add constraint c check (false) not valid",), "drop constraint c"),
    # Few of them after rows were stored would be parked: such a code is nearly always the value's own.
    "a type that no value fits": (
        0,
        ("alter column created_by type integer using 1",),
        "alter column created_by type uuid using gen_random_uuid()",
    ),
}


@pytest.mark.parametrize(("stored_before", "broken", "mended"), EVERY_ROW.values(), ids=EVERY_ROW)
def test_a_table_that_refuses_every_row_gets_all_after_repair(
    stack: Stack, start: Start, audit_table: AuditTable, stored_before: int, broken: tuple[str, ...], mended: str
) -> None:
    """No row is parked meanwhile."""
    running = start()
    running.emit(stored_before)
    assert running.pipeline.force_flush()
    for change in broken:
        audit_table.alter(change)
    stack.reload_schema_cache()
    running.emit(100)
    wait_until(lambda: running.pipeline.stats().held == 100, "every row is held")
    running.pipeline.force_flush(1)
    assert running.pipeline.stats().failed == 0
    audit_table.alter(mended)
    stack.reload_schema_cache()
    running.wait_until_delivered()
    assert set(audit_table.ids()) == running.good
    assert len(running.pipeline.dead_letters()) == 0


@pytest.mark.parametrize("count", [1, REFUSALS_IN_A_ROW, REFUSALS_IN_A_ROW + 1])
def test_rows_that_wait_alone_land_after_a_repair(start: Start, audit_table: AuditTable, count: int) -> None:
    """No other event comes that could prove that the table works."""
    running = start()
    audit_table.alter("add constraint c check (false) not valid")
    running.emit(count)
    wait_until(lambda: running.pipeline.stats().held == count, "every row is held")
    audit_table.alter("drop constraint c")
    running.wait_until_delivered()
    assert set(audit_table.ids()) == running.good


def test_a_flush_offers_what_was_refused_again_at_once(start: Start, audit_table: AuditTable) -> None:
    running = start()
    audit_table.alter("add constraint c check (false) not valid")
    running.emit(1)
    channel = running.pipeline.exporters[0].channel
    wait_until(lambda: channel.refusals.most_attempts >= 3, "it has waited several times")
    audit_table.alter("drop constraint c")
    assert running.pipeline.force_flush()
    assert set(audit_table.ids()) == running.good


def test_many_bad_rows_are_parked_once_a_few_good_ones_pass(start: Start, audit_table: AuditTable) -> None:
    audit_table.alter("add constraint c check (action <> 'bad')")
    running = start()
    for _ in range(3 * REFUSALS_IN_A_ROW):
        running.emit_one(bad=True, action="bad")
    wait_until(lambda: running.pipeline.stats().held == 3 * REFUSALS_IN_A_ROW, "every row is held")
    running.emit(5)
    wait_until(lambda: settled_with_one_more(running), "every event is settled", 60)
    assert set(audit_table.ids()) == running.good
    assert {letter.record_id for letter in running.pipeline.dead_letters()} == running.said.keys() - running.good


@pytest.mark.timeout(900)
@pytest.mark.parametrize("bad", [100, 2100])
def test_bad_rows_before_all_others_do_not_keep_them_waiting(
    stack: Stack, start: Start, audit_table: AuditTable, bad: int
) -> None:
    """More than fit into one batch, too: the newest row tells that it is not the table."""
    audit_table.alter("add constraint c check (action <> 'bad')")
    running = start()
    with stack.gateway.refusing():
        for _ in range(bad):
            running.emit_one(bad=True, action="bad")
        running.emit(20)
    wait_until(lambda: audit_table.count() == 20, "the good ones are stored", 500)
    assert set(audit_table.ids()) == running.good
    wait_until(lambda: settled_with_one_more(running), "every event is settled", 300)
    assert set(audit_table.ids()) == running.good
    assert len(running.pipeline.dead_letters()) == bad


def settled_with_one_more(running: Running) -> bool:
    """Emit one good event: where an attempt's time was up, it proves those at fault that were not looked at in it."""
    running.emit(1)
    return running.pipeline.force_flush(5000)


def test_a_code_for_bad_values_parks_nothing_if_every_row_fails(
    stack: Stack, start: Start, audit_table: AuditTable
) -> None:
    """The code nearly always means a bad value. Here a column has another type."""
    running = start(schedule_delay_millis=_A_MINUTE)
    running.emit(10)
    assert running.pipeline.force_flush()
    audit_table.alter("alter column entity_type type integer using 1")
    running.emit(100)
    assert not running.pipeline.force_flush(1000)
    wait_until(lambda: running.pipeline.stats().held == 100, "every row is held")
    assert running.pipeline.stats().failed == 0
    audit_table.alter("alter column entity_type type text")
    stack.reload_schema_cache()
    running.wait_until_delivered()
    assert set(audit_table.ids()) == running.good


def test_a_gateway_that_takes_no_body_parks_nothing(stack: Stack, start: Start) -> None:
    running = start()
    injection = stack.gateway.inject(payload_too_large(), times=None)
    running.emit(100)
    wait_until(lambda: running.pipeline.stats().held == 100, "every row is held")
    assert running.pipeline.stats().failed == 0
    injection.remove()
    running.wait_until_delivered()
    running.assert_each_good_one_stored_once()


def emit_with_one_bad(running: Running, fault: DataFault) -> None:
    running.emit(_ROWS // 3, **fault.good)
    running.emit_one(bad=True, **{**fault.good, **fault.bad})
    running.emit(_ROWS - _ROWS // 3 - 1, **fault.good)


def assert_one_parked(running: Running, code: str | None) -> DeadLetter:
    assert running.pipeline.force_flush(30_000)
    assert set(running.table.ids()) == running.good
    (letter,) = running.pipeline.dead_letters()
    (bad,) = running.said.keys() - running.good
    assert (letter.record_id, letter.code) == (bad, code)
    assert letter.error
    assert letter.row is not None
    assert letter.row.get("id", bad) == bad  # one that is nested too deeply is shown as its text
    stats = running.pipeline.stats()
    assert (stats.failed, stats.pending) == (1, 0)
    return letter


def to(stack: Stack, exporter: str) -> dict[str, Any]:
    """Give the options of a pipeline to the stack's table by this exporter."""
    if exporter == "supabase":
        return {}
    return {"exporter": exporter, "dsn": stack.dsn("audit_writer"), "url": None, "key": None}


def insert_parent(stack: Stack, parents: str, entity_id: str) -> None:
    stack.sql(SQL("insert into {} values (%s)").format(Identifier(parents)), [entity_id])
