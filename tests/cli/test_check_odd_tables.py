"""`otel-audit check` on tables that are odd: what it prints is right, or it says what is open and exits 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.cli.checking import make, settings_in, todo_in
from tests.cli.conftest import Workspace
from tests.stack import Stack

Environment = Callable[[str, object], None]
COLUMNS = (
    "id uuid primary key, tenant_id uuid, action text not null, entity_type text, entity_id uuid, user_id uuid,"
    " changes jsonb, created_at timestamptz not null"
)
MAPPED = (
    "id=record_id,tenant_id=yacht_id,entity_type=entity_type,action=action,entity_id=entity_id,user_id=user_id,"
    "created_at=timestamp,changes=new_values"
)


@dataclass(frozen=True)
class Odd:
    """A table, the columns that stay open, and the settings that are printed."""

    name: str
    sql: str
    columns: str = MAPPED
    todo: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    lands: bool = True


ODD = [
    Odd("a view", f"create table {{}}_base({COLUMNS}); create view {{}} as select * from {{}}_base"),
    Odd(
        "a view that nothing can be written to",
        f"create table {{}}_base({COLUMNS}); create view {{}} as select distinct * from {{}}_base",
        says=("not in a state to be written to",),
        lands=False,
    ),
    Odd(
        "partitions",
        f"create table {{}}({COLUMNS.replace(' primary key', '')}, primary key (id, created_at))"
        " partition by range (created_at); create table {}_rest partition of {} default",
    ),
    Odd(
        "names in mixed case",
        'create table {}("Id" uuid primary key, "TenantId" uuid, "EntityType" text, "Action" text not null,'
        ' "EntityId" uuid, "UserId" uuid, "OldValues" jsonb, "NewValues" jsonb, "CreatedAt" timestamptz not null)',
        columns="Id=record_id,TenantId=yacht_id,EntityType=entity_type,Action=action,EntityId=entity_id,"
        "UserId=user_id,CreatedAt=timestamp,OldValues=old_values,NewValues=new_values",
    ),
    Odd(
        "names with spaces and commas",
        'create table {}("record id" uuid primary key, "what, was done" text not null, "new values" jsonb,'
        ' "created at" timestamptz)',
        columns="record id=record_id,created at=timestamp,new values=new_values",
        todo=("what, was done",),
        says=('{"what, was done":"metadata.what, was done"}',),
        lands=False,
    ),
    Odd(
        "domains",
        "create domain {}_id as uuid not null; create domain {}_short as varchar(40);"
        " create table {}(id {}_id primary key, tenant_id {}_id, action text not null, entity_type {}_short,"
        " entity_id {}_id, user_id uuid, changes jsonb, created_at timestamptz not null)",
    ),
    Odd(
        "arrays of an enumeration",
        f"create type {{}}_tag as enum ('a', 'b'); create table {{}}({COLUMNS}, tags {{}}_tag[] not null,"
        " scopes {}_tag[] not null default '{a}')",
        todo=("tags",),
        lands=False,
    ),
    Odd(
        "generated columns",
        "create table {}(id uuid primary key, tenant_id uuid, action text not null, entity_id uuid, user_id uuid,"
        " changes jsonb, created_at timestamptz not null, entity_type text generated always as (action) stored,"
        " search tsvector generated always as (to_tsvector('simple', action)) stored)",
        columns=MAPPED.replace("entity_type=entity_type,", ""),
        says=('column "entity_type" is generated',),
    ),
    Odd(
        "no column that is known",
        "create table {}(foo text, bar int)",
        columns="audit_id=record_id",
        says=(
            "add column audit_id uuid unique",
            "# TODO columns: no column takes yacht_id",
            "without a column for timestamp",
        ),
        lands=False,
    ),
    Odd(
        "a success that the database says of each row",
        f"create table {{}}({COLUMNS}, success boolean not null default true)",
        says=('"success" is filled by the database, whatever the outcome', "success=metadata.success"),
    ),
    Odd(
        "a time that is not the event's",
        f"create table {{}}({COLUMNS}, expires_at timestamptz not null, recorded_at timestamptz not null)",
        columns=MAPPED.replace("created_at=timestamp", "created_at=timestamp,recorded_at=timestamp"),
        todo=("expires_at",),
        lands=False,
    ),
    Odd(
        "a time in numbers",
        f"create table {{}}({COLUMNS.replace('timestamptz', 'bigint')})",
        columns=MAPPED.replace("created_at=timestamp,", ""),
        todo=("created_at",),
        lands=False,
    ),
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_an_odd_table_gets_settings_that_land_or_what_is_open(
    stack: Stack, workspace: Workspace, environment: Environment, table: str, odd: Odd
) -> None:
    try:
        make(stack, table, odd.sql)
        first = workspace.run("check")
        assert first.code == 1
        printed = settings_in(first)
        assert printed["OTEL_AUDIT_COLUMNS"] == odd.columns
        assert todo_in(first) == set(odd.todo)
        for words in odd.says:
            assert words in first.out, first.out
        for variable, value in printed.items():
            environment(variable, value)
        if odd.lands:
            written = workspace.run("check", "--write")
            assert (written.code, "LOST" in written.out) == (0, False), written
        else:
            assert workspace.run("check").code != 0
    finally:
        stack.sql(f"drop view if exists {table} cascade" if "create view" in odd.sql else f"drop table {table} cascade")
        stack.sql(f"drop table if exists {table}_base")


def test_domains_over_domains_are_looked_through_in_the_catalogue(
    stack: Stack, workspace: Workspace, environment: Environment, table: str
) -> None:
    make(
        stack,
        table,
        "create domain {}_uid as uuid; create domain {}_id as {}_uid not null;"
        " create domain {}_word as text check (value in ('create', 'update')); create domain {}_kind as {}_word;"
        " create table {}(id {}_id primary key, tenant_id {}_id, action {}_kind not null, entity_type text,"
        " entity_id {}_uid, user_id {}_uid, changes jsonb, created_at timestamptz not null)",
    )
    first = workspace.run("check")
    if first.out.startswith("supabase"):
        assert (first.code, "domains over domains" in first.out) == (1, True)
        return
    assert 'column "action" has a check constraint, and parks an event whose action is none of: create' in first.out
    assert settings_in(first)["OTEL_AUDIT_COLUMNS"] == MAPPED
    environment("OTEL_AUDIT_COLUMNS", MAPPED)
    assert workspace.run("check", "--write").code == 0


def test_a_table_in_another_schema_is_found_by_its_name(
    stack: Stack, workspace: Workspace, environment: Environment, table: str
) -> None:
    stack.sql(f"create table audit.{table}({COLUMNS}); grant all on audit.{table} to service_role")
    stack.reload_schema_cache()
    try:
        away = workspace.run("check")
        assert away.code == 1
        assert "does not exist" in away.err
        environment("OTEL_AUDIT_SCHEMA", "audit")
        environment("OTEL_AUDIT_COLUMNS", settings_in(workspace.run("check"))["OTEL_AUDIT_COLUMNS"])
        assert workspace.run("check", "--write").code == 0
    finally:
        stack.sql(f"drop table audit.{table}")


def test_each_field_is_looked_for_in_its_own_column(
    stack: Stack, workspace: Workspace, environment: Environment, table: str
) -> None:
    make(stack, table, "create table {}(id uuid primary key, action text, changes jsonb, created_at timestamptz)")
    environment("OTEL_AUDIT_COLUMNS", "id=record_id,action=action,changes=new_values,created_at=timestamp")
    environment("OTEL_AUDIT_UNMAPPED", "drop")
    done = workspace.run("check", "--write")
    told = dict(line.split(maxsplit=1) for line in done.out.splitlines() if line.startswith("  "))
    assert done.code == 1
    assert {name for name, place in told.items() if place == "LOST"} == {
        *("yacht_id", "entity_id", "user_id", "entity_type", "old_values", "outcome", "on_behalf_of", "metadata")
    }


def test_what_no_column_takes_is_told_with_where_it_is_kept(
    stack: Stack, workspace: Workspace, environment: Environment, table: str
) -> None:
    make(stack, table, f"create table {{}}({COLUMNS})")
    environment("OTEL_AUDIT_COLUMNS", MAPPED)
    kept = 'no column takes old_values: what is said of it is kept under _audit in column "changes"'
    assert kept in workspace.run("check").out
    environment("OTEL_AUDIT_UNMAPPED", "drop")
    assert "no column takes old_values: what is said of it is not stored" in workspace.run("check").out
