"""`otel-audit purge`: what is old goes from every kind of table, is recorded as gone, and the rest stays."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from otel_audit_exporter.event.fields import DEFAULT_COLUMNS
from otel_audit_exporter.table.ddl import TablePlan
from otel_audit_exporter.table.purges import purge as purging
from tests.cli.conftest import Done, Workspace
from tests.cli.reading import write
from tests.stack import AuditTable, Stack
from tests.stack.faults import unavailable_text
from tests.stack.messages import Request
from tests.support.made_tables import NOTIFY
from tests.support.trail_events import USERS

Environment = Callable[[str, object], None]
NOW = datetime.now(UTC)
BY = ("--by", USERS[0])
DAY = timedelta(days=1)


def days_ago(*days: float) -> list[str]:
    """Write an event for each of these ages, and return their ids."""
    return write(*({"timestamp": NOW - age * DAY} for age in days))


def stored(workspace: Workspace, *question: str) -> list[dict[str, Any]]:
    return workspace.run("events", "--format", "json", *question).lines


def there(workspace: Workspace) -> list[str]:
    """The ids of the events that are left, those of a purge left out."""
    return [line["record_id"] for line in stored(workspace) if line["entity_type"] == "part"]


def records(workspace: Workspace) -> list[dict[str, Any]]:
    return [line for line in stored(workspace) if line["entity_type"] == "audit_trail"]


def purge(workspace: Workspace, *more: str, age: str = "90d") -> Done:
    return workspace.run("purge", "--older-than", age, "--yes", *BY, *more)


def test_what_is_old_goes_and_the_rest_stays(workspace: Workspace, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "BATCH", 3)
    *_, last, _ = written = days_ago(400, 300, 300, 200, 200, 200, 200, 100, 91, 89, 0)
    done = purge(workspace)
    assert (done.code, there(workspace)) == (0, written[-2:]), done
    assert "9 events deleted" in done.err
    assert there(workspace)[0] == last


def test_a_purge_is_recorded_before_and_after(workspace: Workspace, kind: str) -> None:
    days_ago(100, 99, 1)
    assert purge(workspace).code == 0
    begun, ended = records(workspace)
    assert (begun["action"], ended["action"]) == ("audit.purge_started", "audit.purged")
    assert (begun["user_id"], ended["user_id"], ended["outcome"]) == (USERS[0], USERS[0], "success")
    limits = begun["new_values"]
    assert abs(datetime.fromisoformat(limits["before"]) - (NOW - 90 * DAY)) < DAY
    assert limits["found"] == 2
    assert "@" in limits["by"]
    assert ended["new_values"] == limits | {"count": 2}
    assert begun["entity_id"] == ended["entity_id"]


def test_a_dry_run_counts_and_leaves_everything(workspace: Workspace, kind: str) -> None:
    written = days_ago(800, 500, 1)
    done = workspace.run("purge", "--older-than", "1y", "--dry-run")
    assert done.code == 0
    assert done.out.startswith("2 events from before ")
    assert [line["record_id"] for line in stored(workspace)] == written


def test_where_nothing_is_old_nothing_is_recorded(workspace: Workspace, kind: str) -> None:
    written = days_ago(80)
    done = purge(workspace)
    assert (done.code, done.out[:9]) == (0, "0 events ")
    assert [line["record_id"] for line in stored(workspace)] == written


def test_it_asks_first(workspace: Workspace, kind: str) -> None:
    written = days_ago(100)
    done = workspace.run("purge", "--older-than", "90d", *BY, stdin="n\n")
    assert (done.code, "Delete 1 event from before" in done.err) == (1, True)
    assert [line["record_id"] for line in stored(workspace)] == written
    assert workspace.run("purge", "--older-than", "90d", *BY, stdin="y\n").code == 0
    assert there(workspace) == []


@pytest.mark.parametrize("age", ["90", "6m", "12h", "0d", "-1d", "1.5y", "", "a while", "99999y", "2026-01-01"])
def test_an_age_that_is_none_is_refused(workspace: Workspace, age: str) -> None:
    done = workspace.run("purge", "--older-than", age, "--yes")
    assert done.code == 2
    assert "90d, 12w, 18mo or 2y" in done.err or "no calendar" in done.err


# --- what is in the way ---------------------------------------------------------------------------------------------


def refuse(stack: Stack, table: AuditTable, workspace: Workspace, kind: str, when: str = "true") -> None:
    """Have a trigger refuse to delete rows; ``when``: those of which this is true."""
    if kind == "sqlite":
        with closing(sqlite3.connect(workspace.database)) as connection:
            connection.executescript(
                f"create trigger stays before delete on {table.name} when {when} begin"
                " select raise(abort, 'SECRET'); end"
            )
        return
    stack.sql(
        f"create or replace function stays() returns trigger language plpgsql as $$ begin raise 'SECRET'; end $$;"
        f" create trigger stays before delete on {table.name} for each row when ({when}) execute function stays()"
    )


def test_a_trigger_that_refuses_is_named_with_what_to_do(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, kind: str
) -> None:
    written = days_ago(100)
    refuse(stack, audit_table, workspace, kind, "old.action = 'receive'")
    done = purge(workspace)
    assert (done.code, there(workspace)) == (1, written)
    assert "a trigger of the table refuses to delete" in done.err
    assert "drop_partitions" in done.err
    assert "SECRET" not in done.out + done.err
    if kind != "sqlite":  # there the one row is tried before
        assert [line["new_values"].get("count") for line in records(workspace)] == [None, 0]


@pytest.mark.parametrize("kind", ["postgres", "supabase"], indirect=True)
def test_a_table_made_append_only_loses_nothing(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, kind: str
) -> None:
    written = days_ago(100)
    stack.sql(TablePlan(table=audit_table.name, append_only=True).sql().removesuffix(NOTIFY))
    done = purge(workspace)
    assert (done.code, [line["record_id"] for line in stored(workspace)]) == (1, written)
    assert "the table is append-only" in done.err
    assert "--retention-months" in done.err


@pytest.mark.parametrize("kind", ["postgres", "supabase"], indirect=True)
def test_a_role_without_the_right_is_told_which(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, environment: Environment, kind: str
) -> None:
    written = days_ago(100)
    stack.sql(f"grant select on {audit_table.name} to audit_writer")
    environment("OTEL_AUDIT_SUPABASE_TOKEN", stack.token("audit_writer"))
    environment("OTEL_AUDIT_POSTGRES_DSN", stack.dsn("audit_writer"))
    done = purge(workspace)
    assert (done.code, [line["record_id"] for line in stored(workspace)]) == (1, written)
    assert "grant this one delete on the table" in done.err


@pytest.mark.parametrize("kind", ["postgres", "supabase"], indirect=True)
def test_rows_that_a_policy_keeps_in_silence_are_told(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, environment: Environment, kind: str
) -> None:
    written = days_ago(100, 99, 98)
    stack.sql(
        f"grant select, delete on {audit_table.name} to audit_writer;"
        f" create policy some_go on {audit_table.name} for delete to audit_writer using (id <> '{written[1]}')"
    )
    environment("OTEL_AUDIT_SUPABASE_TOKEN", stack.token("audit_writer"))
    environment("OTEL_AUDIT_POSTGRES_DSN", stack.dsn("audit_writer"))
    done = purge(workspace)
    assert (done.code, there(workspace)) == (1, [written[1]])
    assert "1 of these rows are still there" in done.err
    ended = records(workspace)[-1]
    assert (ended["new_values"]["count"], ended["outcome"]) == (2, "failure")


def test_batches_before_a_refused_one_stay_done(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "BATCH", 2)
    written = write(
        *({"timestamp": NOW - age * DAY, "action": "keep" if age == 95 else "go"} for age in (99, 98, 97, 96, 95, 94))
    )
    refuse(stack, audit_table, workspace, kind, "old.action = 'keep'")
    done = purge(workspace)
    assert (done.code, there(workspace)) == (1, written[4:])
    assert "4 events deleted of 6, and no more" in done.err
    assert [(line["new_values"].get("count"), line["outcome"]) for line in records(workspace)] == [
        (None, "success"),
        (4, "failure"),
    ]


@pytest.mark.parametrize("kind", ["postgres", "supabase"], indirect=True)
def test_what_cannot_be_recorded_is_not_deleted(workspace: Workspace, kind: str) -> None:
    written = days_ago(100)
    done = workspace.run("purge", "--older-than", "90d", "--yes", "--timeout", 2)  # created_by is NOT NULL there
    assert (done.code, [line["record_id"] for line in stored(workspace)]) == (1, written)
    assert "nothing was deleted" in done.err
    assert "--by" in done.err


@pytest.mark.parametrize("kind", ["supabase"], indirect=True)
def test_an_outage_midway_is_reported_with_the_number_of_deleted_events(
    stack: Stack, workspace: Workspace, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "BATCH", 2)
    written = days_ago(99, 98, 97, 96, 95)
    deletes: list[Request] = []

    def third(request: Request) -> bool:  # the first one deletes nothing
        deletes.extend([request] * (request.method == "DELETE"))
        return request.method == "DELETE" and len(deletes) == 3

    stack.gateway.inject(unavailable_text(), when=third)
    done = purge(workspace)
    assert (done.code, there(workspace)) == (2, written[2:])
    assert "2 events deleted of 5, and no more" in done.err
    assert records(workspace)[-1]["outcome"] == "failure"
    assert purge(workspace).code == 0
    assert there(workspace) == []


# --- odd tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["postgres", "supabase"], indirect=True)
@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("alter table {} alter created_at type timestamp using created_at at time zone 'UTC'", 1),
        (
            "alter table {} drop constraint {}_pkey, alter id drop not null, add unique (id); update {} set id = null",
            1,
        ),
        ("alter table {} alter created_at drop not null; update {} set created_at = null", 2),
        ("update {} set created_at = '-infinity' where created_at < now() - interval '95 days'", 1),
    ],
    ids=["no time zone", "no ids", "no times", "before all times"],
)
def test_a_table_of_another_shape_is_purged_too(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, kind: str, change: str, left: int
) -> None:
    days_ago(100, 10)
    stack.sql(change.replace("{}", audit_table.name))
    stack.reload_schema_cache()
    assert purge(workspace).code == 0
    assert counted(stack, audit_table) == (left, 2 if left == 1 else 0)


@pytest.mark.parametrize("kind", ["postgres", "supabase"], indirect=True)
def test_a_partitioned_table_with_an_odd_time_column_is_purged(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, environment: Environment, kind: str
) -> None:
    days_ago(100, 10)
    moved = (
        "alter table {} rename to {}_old; create table {} (like {}_old including defaults, unique (id, created_at))"
        " partition by range (created_at); create table {}_old_ones partition of {} for values from (minvalue) to"
        " (now() - interval '50 days'); create table {}_rest partition of {} default; insert into {} select * from"
        ' {}_old; drop table {}_old; alter table {} rename created_at to "at (then)"; grant all on {} to service_role'
    )
    stack.sql(moved.replace("{}", audit_table.name))
    stack.reload_schema_cache()
    columns = {column: column for column in DEFAULT_COLUMNS if column != "created_at"} | {"at (then)": "timestamp"}
    environment("OTEL_AUDIT_COLUMNS", orjson.dumps(columns).decode())
    environment("OTEL_AUDIT_KEY_COLUMNS", "id,at (then)")
    assert purge(workspace).code == 0
    assert counted(stack, audit_table) == (1, 2)


def counted(stack: Stack, table: AuditTable) -> tuple[int, int]:
    """How many events there are, and how many records of a purge."""
    (row,) = stack.sql(
        f"select count(*) filter (where entity_type = 'part') as events, count(*) as every from {table.name}"
    )
    return row["events"], row["every"] - row["events"]


@pytest.mark.parametrize("kind", ["postgres", "supabase"], indirect=True)
def test_a_column_of_texts_has_no_ages(stack: Stack, audit_table: AuditTable, workspace: Workspace, kind: str) -> None:
    days_ago(100)
    audit_table.alter("alter created_at drop default, alter created_at type text")
    stack.reload_schema_cache()
    done = purge(workspace)
    assert (done.code, audit_table.count()) == (2, 1)
    assert '"created_at" is no column of times' in done.err


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_what_another_program_wrote_into_the_file_goes_by_its_time(
    workspace: Workspace, audit_table: AuditTable, kind: str
) -> None:
    days_ago(100)
    boundary = NOW - 90 * DAY
    times = {
        f"{boundary - 2 * DAY / 24:%Y-%m-%d %H:%M:%S}": False,
        f"{boundary + 2 * DAY / 24:%Y-%m-%d %H:%M:%S}": True,
        f"{boundary:%Y-%m-%d}T00:00:00-23:59": True,
        1_000_000_000: True,
        "yesterday": True,
        "": True,
    }
    with closing(sqlite3.connect(workspace.database)) as connection:
        for number, at in enumerate(times):
            values = (f"{number}", "y", "part", "a", "e", at)
            connection.execute(
                f"insert into {audit_table.name} (id, yacht_id, entity_type, action, entity_id, created_at)"
                " values (?, ?, ?, ?, ?, ?)",
                values,
            )
        connection.commit()
        assert purge(workspace).code == 0
        left = connection.execute(
            f"select created_at from {audit_table.name} where entity_type = 'part' order by id"
        ).fetchall()
    assert [at for (at,) in left] == [str(at) for at, stays in times.items() if stays]


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_table_without_row_numbers_is_purged(workspace: Workspace, audit_table: AuditTable, kind: str) -> None:
    with closing(sqlite3.connect(workspace.database)) as connection:
        connection.execute(
            f"create table {audit_table.name} (id text primary key, yacht_id, entity_type, action, entity_id,"
            " created_by, created_at, old_values, new_values) without rowid"
        )
    written = days_ago(200, 100, 1)
    assert purge(workspace).code == 0
    assert there(workspace) == written[2:]


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_what_is_gone_cannot_be_found_in_the_file(workspace: Workspace, kind: str) -> None:
    write({"timestamp": NOW - 100 * DAY, "new_values": {"note": "very personal"}})
    assert b"very personal" in workspace.database.read_bytes()
    assert purge(workspace).code == 0
    assert b"very personal" not in workspace.database.read_bytes()
