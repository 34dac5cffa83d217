"""`otel-audit check` on the shapes of audit tables that people have: it fits, or it says what is left to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import pytest

from tests.cli.checking import holds, make, settings_in, todo_in
from tests.cli.conftest import Workspace
from tests.stack import Stack

Environment = Callable[[str, object], None]
FIELDS = {
    *("record_id", "yacht_id", "entity_type", "action", "entity_id", "user_id", "timestamp"),
    *("old_values", "new_values", "outcome", "on_behalf_of", "metadata"),
}


@dataclass(frozen=True)
class Shape:
    """A table, the columns that nothing can fill, and what an owner does about them."""

    name: str
    sql: str
    todo: tuple[str, ...] = ()
    mended_by: str = ""
    new_key: bool = False
    defaults: str = "{}"
    untold: tuple[str, ...] = ()  # by PostgREST, so that its user has to say a default
    action: str = "approve"
    ids: tuple[str, ...] = ("0192d3a4-0000-7000-8000-000000000001", "0192d3a4-0000-7000-8000-000000000002")


SHAPES = [
    Shape(
        "s1",
        "create type {}_act as enum('CREATE','UPDATE','DELETE','LOGIN'); create table {}(id bigserial primary key,"
        " user_id bigint, action_type {}_act not null, metadata jsonb, ip_address inet, user_agent text,"
        " created_at timestamptz default now())",
        new_key=True,
        action="CREATE",
        ids=("7", "8"),
    ),
    Shape(
        "s2",
        "create table {}(id uuid primary key default gen_random_uuid(), actor_id uuid, action text not null,"
        " target_type text, target_id text, details jsonb, success boolean not null,"
        " created_at timestamptz not null default now())",
        todo=("success",),
        mended_by="alter table {} alter success drop not null",
    ),
    Shape(
        "s3",
        "create table {}(id uuid primary key default gen_random_uuid(), user_id uuid, acao text not null, tabela text,"
        " registro_id uuid, dados_antigos jsonb, dados_novos jsonb, created_at timestamptz not null default now())",
        todo=("acao",),
        mended_by="alter table {} rename acao to action; alter table {} rename dados_novos to new_values",
    ),
    Shape(
        "s4",
        "create table {}(id uuid primary key, entity_type text not null, entity_id text not null, action text not null,"
        " actor_user_id text not null, occurred_at timestamp not null, before text, after text)",
    ),
    Shape(
        "s5",
        "create table {}(id uuid primary key default gen_random_uuid(), yacht_id uuid not null, user_id uuid not null,"
        " event_type text not null check(event_type in('create','update','status_change')), entity_type text not null,"
        " entity_id uuid not null, action text not null, user_role text, change_summary text, previous_state jsonb,"
        " new_state jsonb, metadata jsonb default '{}', proof_hash text not null,"
        " created_at timestamptz not null default now())",
        todo=("event_type", "proof_hash"),
        mended_by="alter table {} alter event_type drop not null; alter table {} alter proof_hash drop not null",
        defaults='{"metadata": {}}',
    ),
    Shape(
        "s6",
        "create type {}_act as enum('CREATE','UPDATE','DELETE','LOGIN');"
        " create table {}(id uuid primary key default gen_random_uuid(), tenant_id uuid not null,"
        " department_id uuid not null, action {}_act not null, entity text not null, entity_id uuid not null,"
        " user_id uuid, user_role text not null, severity text not null default 'info', changes jsonb,"
        " created_at timestamptz not null default now())",
        todo=("department_id", "user_role"),
        action="CREATE",
        mended_by="alter table {} drop department_id; alter table {} alter user_role set default 'none'",
    ),
    Shape(
        "s7",
        "create table {}(event_id uuid primary key default gen_random_uuid(), user_id uuid, tenant_id text,"
        " event_type text not null, event_data jsonb default '{}', ip inet, user_agent text,"
        " created_at timestamptz not null default now())",
        defaults='{"event_data": {}}',
    ),
    Shape(
        "s8",
        "create table {}(id uuid primary key default gen_random_uuid(), workspace_id uuid not null,"
        " action text not null, resource_type text, resource_id text, tags text[] not null default '{}', details jsonb,"
        " created_at timestamptz not null default now())",
    ),
    Shape(
        "s9",
        "create table {}(id bigint generated always as identity primary key, owner_id uuid not null, actor_id uuid,"
        " action text not null, object_type text not null, object_id text, actor_type text not null,"
        " previous_value jsonb, new_value jsonb, created_at timestamptz not null default now())",
        new_key=True,
    ),
    Shape(
        "a computed default",
        "create table {}(id uuid primary key, merchant_id uuid not null, action text not null, entity text,"
        " entity_id uuid, actor_uuid uuid, metadata jsonb not null default jsonb_build_object('v', 1),"
        " new_data jsonb, action_time timestamptz not null)",
        untold=("metadata",),
    ),
    Shape(
        "constants of many types",
        "create table {}(id uuid primary key, tenant_id uuid, action text not null, entity_type text, entity_id text,"
        " user_id uuid, request_id text default 'it''s none', metadata jsonb not null default '{\"a\": [1]}'::jsonb,"
        " new_values jsonb not null default '[]', level int not null default 3, tags text[] default array['x'],"
        " created_at timestamptz)",
        defaults='{"request_id": "it\'s none", "metadata": {"a": [1]}, "new_values": []}',
        untold=("metadata", "new_values"),
    ),
    Shape(
        "details that must be there",
        "create table {}(id uuid primary key, org_id uuid, action text not null, entity_type text, entity_id uuid,"
        " user_id uuid, details jsonb not null, created_at timestamptz)",
        todo=("details",),
        mended_by="alter table {} alter details drop not null",
    ),
    Shape(
        "before and after in json",
        "create table {}(uuid uuid primary key, account_id uuid, verb text not null, object_type text, object_id uuid,"
        " by_user_id uuid, before_json json, after_json json, meta_json json, ip inet, browser text, ts timestamptz)",
    ),
    Shape(
        "who is a number",
        "create table {}(id bigint generated by default as identity primary key, uid uuid unique, tenant_id int,"
        " action varchar(40) not null, table_name text, row_id bigint, created_by int, diff jsonb, at timestamptz)",
        ids=("7", "8"),
    ),
    Shape(
        "who is of no use",
        "create table {}(id uuid primary key, tenant_id uuid, action text not null, entity_type text, entity_id uuid,"
        " user_id boolean, changes jsonb, created_at timestamptz)",
        todo=("user_id",),
        mended_by="alter table {} alter user_id type text",
    ),
    Shape(
        "a generated column and a serial",
        "create table {}(id uuid primary key, seq bigserial, tenant_id uuid, action text not null, entity_type text,"
        " entity_id uuid, user_id uuid, detail jsonb, created_at timestamptz not null,"
        " day date generated always as ((created_at at time zone 'UTC')::date) stored)",
    ),
    Shape(
        "an array and an enumeration that must be filled",
        "create type {}_level as enum('low','high'); create table {}(id uuid primary key, tenant_id uuid,"
        " action text not null, entity_type text, entity_id uuid, user_id uuid, roles text[] not null,"
        " level {}_level not null, payload jsonb, created_at timestamptz)",
        todo=("roles", "level"),
        mended_by="alter table {} alter roles set default '{x}', alter level set default 'low'",
    ),
    Shape(
        "numbers that must be filled",
        "create table {}(id uuid primary key, tenant_id uuid, action text not null, entity_type text, entity_id uuid,"
        " user_id uuid, price numeric not null, paid boolean not null, payload jsonb, created_at timestamptz)",
        todo=("price", "paid"),
        mended_by="alter table {} alter price set default 0, alter paid drop not null",
    ),
    Shape(
        "an integer key in a table of one document",
        "create table {}(id serial primary key, event text not null, data jsonb, created timestamptz)",
        new_key=True,
    ),
]
assert len(SHAPES) >= 19


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_what_is_printed_lands_every_field_or_says_what_is_open(
    stack: Stack, workspace: Workspace, environment: Environment, table: str, shape: Shape
) -> None:
    make(stack, table, shape.sql)
    first = workspace.run("check")
    assert first.code == 1  # the default settings fit none of them
    direct = first.out.startswith("postgres")
    printed = settings_in(first)
    defaults = json.loads(printed.get("OTEL_AUDIT_COLUMN_DEFAULTS", "{}"))
    if direct:
        assert (todo_in(first), defaults) == (set(shape.todo), json.loads(shape.defaults))
    else:
        assert todo_in(first) >= set(shape.todo) - {"roles", "price"}
        assert defaults.items() <= json.loads(shape.defaults).items()
    added = re.findall(r"^alter table .*", first.out, re.MULTILINE)
    assert bool(added) == shape.new_key
    for line in (*added, shape.mended_by):
        if line:
            make(stack, table, line)
    if shape.mended_by:
        printed = settings_in(workspace.run("check"))
    for variable, value in printed.items():
        environment(variable, value)
    if shape.untold and not direct:
        assert todo_in(workspace.run("check")) == set(shape.untold)
        environment("OTEL_AUDIT_COLUMN_DEFAULTS", json.dumps(defaults | {name: {} for name in shape.untold}))
    again = workspace.run("check")
    assert (again.code, todo_in(again)) == (0, set()), again
    ids = ("--yacht", "7", "--user", "8", "--entity", "part", "9") if "who is a number" in shape.name else ()
    written = workspace.run("check", "--write", *ids)
    assert written.code == 0, written
    told = dict(line.split(maxsplit=1) for line in written.out.splitlines() if line.startswith("  ") and "  " in line)
    assert told.keys() >= FIELDS
    (row,) = stack.sql(f"select row_to_json(t) as row from {table} t")
    assert all(holds(row["row"], place) for field, place in told.items() if field in FIELDS)
    is_read_back(workspace, shape)


def is_read_back(workspace: Workspace, shape: Shape) -> None:
    """Emit an event that says everything, by the settings in force, and compare what is read with what was said."""
    at = "2026-03-04T05:06:07.123456+00:00"
    said = {
        "record_id": str(uuid4()),
        "action": shape.action,
        "entity_type": "part",
        "entity_id": shape.ids[0],
        "yacht_id": shape.ids[1],
        "user_id": shape.ids[1],
        "timestamp": at,
        "old_values": {"stock": 2},
        "new_values": {"stock": 14, "why": "counted"},
        "outcome": "failure",
        "actor_type": "service",
        "on_behalf_of": "somebody",
        "metadata": {"severity": "low"},
        "signature": {"by": "key-1"},
    }
    emitted = workspace.run("emit", workspace.write_lines(said))
    assert emitted.code == 0, emitted
    (read,) = [
        line for line in workspace.run("events", "--format", "json").lines if line["record_id"] == said["record_id"]
    ]
    moment = datetime.fromisoformat(read["timestamp"])
    assert moment == datetime.fromisoformat(at)
    numbers = {name: str(read[name]) for name in ("entity_id", "yacht_id", "user_id")}
    assert {name: (read | numbers)[name] for name in said} == said | {"timestamp": read["timestamp"]}


def test_a_field_left_out_by_the_settings_means_exit_code_1(
    stack: Stack, workspace: Workspace, environment: Environment, table: str
) -> None:
    """The report marks it as LOST."""
    make(stack, table, "create table {}(id uuid primary key, action text not null, new_values jsonb)")
    environment("OTEL_AUDIT_COLUMNS", "id=record_id,action=action,new_values=new_values")
    environment("OTEL_AUDIT_UNMAPPED", "drop")
    done = workspace.run("check", "--write")
    assert done.code == 1
    assert re.search(r"user_id +LOST", done.out)
    assert re.search(r"action +action", done.out)
    assert "user_id" in done.err


def test_a_foreign_key_is_named_with_what_to_do(stack: Stack, workspace: Workspace, table: str) -> None:
    make(
        stack,
        table,
        "create table {}_users(id uuid primary key); create table {}(id uuid primary key, yacht_id uuid not null,"
        " entity_type text not null, action text not null, entity_id uuid not null, created_by uuid references"
        " {}_users(id), created_at timestamptz not null, old_values jsonb, new_values jsonb)",
    )
    try:
        done = workspace.run("check")
    finally:
        stack.sql(f"drop table {table}; drop table {table}_users")
    assert done.code == 0, done
    assert f'"created_by" references {table}_users' in done.out
    assert "OTEL_AUDIT_FOREIGN_KEY_GRACE" in done.out
