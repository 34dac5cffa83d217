"""`otel-audit check` on real tables: what is the matter with each, and settings by which a row lands."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import uuid4

import pytest
from psycopg.sql import SQL, Identifier

from otel_audit_exporter import audit_event, configure_audit
from tests.cli.checking import settings_in
from tests.cli.conftest import Workspace
from tests.stack import AuditTable, Stack
from tests.stack.faults import (
    Answer,
    bad_gateway_page,
    captive_portal,
    not_found,
    project_paused,
    redirect,
    too_many_requests,
    unavailable_text,
)
from tests.stack.messages import Request
from tests.stack.small_servers import serving

Environment = Callable[[str, object], None]
KINDS = ("supabase", "postgres")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, stack: Stack, audit_table: AuditTable, environment: Environment) -> str:
    """The sink, set in the environment as the role with the least privileges."""
    environment("OTEL_AUDIT_EXPORTER", request.param)
    environment("OTEL_AUDIT_TABLE", audit_table.name)
    environment("SUPABASE_URL", stack.url)
    environment("SUPABASE_KEY", stack.anon_key)
    environment("OTEL_AUDIT_SUPABASE_TOKEN", stack.token("audit_writer"))
    environment("OTEL_AUDIT_POSTGRES_DSN", stack.dsn("audit_writer"))
    return str(request.param)


@dataclass(frozen=True)
class Case:
    """A table: how it is made of the default one, what is said of it, and what mends it besides settings."""

    name: str
    change: str = ""
    code: int = 1
    says: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    mended_by: str = ""
    ids: Callable[[], object] = uuid4
    only: str = ""
    todo: tuple[str, ...] = ()


RENAMED = """
    alter table {} rename id to audit_id; alter table {} rename yacht_id to "tenantId";
    alter table {} rename entity_type to resource_type; alter table {} rename action to event;
    alter table {} rename entity_id to resource_id; alter table {} rename created_by to performed_by;
    alter table {} rename created_at to inserted_at; alter table {} rename old_values to before;
    alter table {} rename new_values to after; alter table {} add outcome text not null default 'success';
    alter table {} add ip_address inet; alter table {} add "user-agent" text
"""
OTHER_ID = """
    alter table {} drop constraint {}_pkey; alter table {} drop column id;
    alter table {} add id bigint generated always as identity primary key;
    alter table {} add record_id uuid not null unique;
    grant select (record_id) on {} to audit_writer
"""
CASES = [
    Case("right", code=0, says=("fits the default settings",)),
    Case(
        "renamed",
        RENAMED,
        says=('"id" is missing', '"created_by" is missing', '"audit_id" is NOT NULL'),
        settings={
            "OTEL_AUDIT_COLUMNS": "audit_id=record_id,tenantId=yacht_id,resource_type=entity_type,event=action,"
            "resource_id=entity_id,performed_by=user_id,inserted_at=timestamp,before=old_values,after=new_values,"
            "outcome=outcome,ip_address=source_ip,user-agent=user_agent"
        },
        mended_by="grant select (audit_id) on {} to audit_writer",
    ),
    Case("another id", OTHER_ID, says=('"id"',), settings={}),
    Case("missing column", "alter table {} drop column old_values", says=('"old_values" is missing',)),
    Case(
        "NOT NULL without a source",
        "alter table {} add service text not null; alter table {} add level int not null;"
        " alter table {} alter new_values set not null; alter table {} add updated_at timestamptz not null;"
        " alter table {} add seq bigserial; grant usage on sequence {}_seq_seq to audit_writer",
        says=('"service" is NOT NULL', '"new_values" is NOT NULL', '"updated_at" is NOT NULL'),
        todo=("service", "level", "new_values"),
        mended_by="alter table {} drop service, drop level, alter new_values drop not null",
        only="postgres",
    ),
    Case(
        "NOT NULL without a source",
        "alter table {} add service text not null; alter table {} alter new_values set not null;"
        " alter table {} add updated_at timestamptz not null",
        says=('"service" is NOT NULL', '"new_values" is NOT NULL', '"updated_at" is NOT NULL'),
        todo=("service", "new_values"),
        mended_by="alter table {} drop service, alter new_values drop not null",
        only="supabase",
    ),
    Case(
        "NOT NULL without a source that can be guessed",
        "alter table {} add price numeric not null",
        says=("price",),
        mended_by="alter table {} alter price set default 0",
    ),
    Case(
        "wrong type",
        "alter table {} alter entity_id type bigint using 1; alter table {} alter created_by type text;"
        " alter table {} alter old_values type text",
        says=('"entity_id" of type bigint', "OTEL_AUDIT_IDS=text"),
        settings={"OTEL_AUDIT_IDS": "text"},
        ids=lambda: 42,
    ),
    Case(
        "hopeless type",
        "alter table {} alter created_at drop default, alter created_at type int using 1",
        says=('"created_at" of type integer does not take timestamp, which is a time',),
        mended_by="alter table {} drop column created_at",
    ),
    Case(
        "no grant",
        "revoke insert on {} from audit_writer",
        says=("insert",),
        mended_by="grant insert on {} to audit_writer",
    ),
    Case(
        "no grant on the key",
        "revoke select (id) on {} from audit_writer",
        says=("select on",),
        mended_by="grant select (id) on {} to audit_writer",
    ),
    Case(
        "RLS refusing the insert",
        "drop policy audit_writer_inserts on {}",
        says=("row-level security", "insert"),
        mended_by="create policy audit_writer_inserts on {} for insert to audit_writer with check (true)",
    ),
    Case(
        "RLS refusing the look for ids",
        "drop policy audit_writer_finds_ids on {}",
        says=("row-level security", "select"),
        mended_by="create policy audit_writer_finds_ids on {} for select to audit_writer using (true)",
    ),
    Case(
        "RLS refusing some rows",
        "drop policy audit_writer_inserts on {};"
        " create policy audit_writer_inserts on {} for insert to audit_writer with check (action = 'receive')",
        says=("row-level security",),
        mended_by="alter policy audit_writer_inserts on {} with check (true)",
    ),
    Case("partitioned", "{partition}", code=0, only="postgres"),
    Case(
        "partitioned",
        "{partition}",
        says=("exactly (id)", "OTEL_AUDIT_KEY_COLUMNS=id,created_at"),
        settings={"OTEL_AUDIT_KEY_COLUMNS": "id,created_at"},
        only="supabase",
    ),
    Case(
        "a key of three columns",
        "alter table {} drop constraint {}_pkey; alter table {} add primary key (yacht_id, id, created_at);"
        " grant select (yacht_id, created_at) on {} to audit_writer",
        says=("exactly (id)",),
        settings={"OTEL_AUDIT_KEY_COLUMNS": "id,yacht_id,created_at"},
        only="supabase",
    ),
    Case(
        "a key that no insert can name",
        "alter table {} drop constraint {}_pkey, add primary key (id) deferrable",
        says=("55000",),
        mended_by="alter table {} drop constraint {}_pkey, add primary key (id)",
        only="supabase",
    ),
    Case(
        "no partition for the row",
        "drop table {}; create table {} (like pms_audit_log including defaults, primary key (id, created_at))"
        " partition by range (created_at); grant insert, select (id, created_at) on {} to audit_writer",
        says=("no partition",),
        mended_by="create table {}_rest partition of {} default",
    ),
    Case(
        "a generated column",
        "alter table {} add search text not null generated always as (entity_type || action) stored",
        code=0,
        says=("the database",),
    ),
    Case(
        "an enumeration",
        "create type {}_kind as enum ('receive', 'dispose');"
        " alter table {} alter action type {}_kind using 'receive'::{}_kind",
        code=0,
        says=('"action" parks an event whose action is none of: receive, dispose',),
    ),
    Case(
        "little room",
        "alter table {} alter action type varchar(7), alter entity_type type varchar(4)",
        code=0,
        says=('"action" of type character varying(7) parks an event whose action is longer',),
    ),
    Case(
        "a trigger that drops rows",
        "create or replace function drop_it() returns trigger language plpgsql as $$ begin return null; end $$;"
        " create trigger drops before insert on {} for each row execute function drop_it()",
        says=("drops",),
        mended_by="drop trigger drops on {}",
    ),
    Case("a foreign key", "alter table {} add foreign key (yacht_id) references {} (id)", code=0, says=("note",)),
    Case("a check", "alter table {} add check (action in ('receive'))", code=0, says=("check constraint",)),
    Case(
        "a trigger",
        "create or replace function refuse_it() returns trigger language plpgsql as"
        " $$ begin raise exception 'SECRET'; end $$;"
        " create trigger refuses before insert on {} for each row execute function refuse_it()",
        code=0,
        says=("trigger",),
        mended_by="drop trigger refuses on {}",
    ),
]


def change(stack: Stack, table: AuditTable, text: str) -> None:
    if text == "{partition}":
        text = (
            "drop table {}; create table {} (like pms_audit_log including defaults, primary key (id, created_at))"
            " partition by range (created_at); create table {}_rest partition of {} default;"
            " grant insert, select (id, created_at) on {} to audit_writer"
        )
    if text:
        stack.sql(text.replace("{}", table.name))
        stack.reload_schema_cache()


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        pytest.param(case, kind, id=f"{case.name}-{kind}")
        for case in CASES
        for kind in ("supabase", "postgres")
        if case.only in (None, "", kind)
    ],
    indirect=["kind"],
)
def test_it_names_the_faults_and_prints_settings_that_work(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, environment: Environment, kind: str, case: Case
) -> None:
    """A row lands with the printed settings."""
    change(stack, audit_table, case.change)
    done = workspace.run("check")
    assert done.code == case.code, done
    for words in case.says:
        assert words in done.out
    assert ("FAULT" in done.out) == (case.code == 1)
    assert all(f'# TODO column "{column}"' in done.out for column in case.todo)
    assert audit_table.count() == 0
    printed = settings_in(done)
    assert printed.keys() >= {"OTEL_AUDIT_COLUMNS"}
    assert printed.items() >= case.settings.items()
    change(stack, audit_table, case.mended_by)
    for variable, value in printed.items():
        environment(variable, value)
    if "drop column" in case.mended_by:
        printed = settings_in(workspace.run("check"))
        environment("OTEL_AUDIT_COLUMNS", printed["OTEL_AUDIT_COLUMNS"])
    again = workspace.run("check")
    if case.name != "a foreign key":
        assert lands(case.ids)
        assert audit_table.postgres.sql(SQL("select count(*) as rows from {}").format(Identifier(audit_table.name)))
    assert again.code == 0, again
    assert "SECRET" not in done.out + done.err


def test_a_view_is_written_through(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, environment: Environment, kind: str
) -> None:
    view = f"{audit_table.name}_view"
    change(
        stack,
        audit_table,
        "create view {}_view as select * from {}; grant insert, select (id) on {}_view to audit_writer",
    )
    environment("OTEL_AUDIT_TABLE", view)
    try:
        assert workspace.run("check").code == 0
        assert lands(uuid4)
    finally:
        stack.sql(f"drop view {view}")
    assert audit_table.count() == 1


def lands(new_id: Callable[[], object]) -> bool:
    """Write an event with no values, as an application with the environment's settings does."""
    ids: dict[str, Any] = {"yacht_id": uuid4(), "entity_id": new_id(), "user_id": uuid4()}
    with configure_audit(outbox="memory"):
        receipt = audit_event("receive", entity_type="part", **ids)
        return receipt.result(60).record_id == receipt.record_id


def test_every_column_is_listed_with_what_fills_it(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, kind: str
) -> None:
    audit_table.alter("add note text, add made_at timestamptz not null default now()")
    stack.reload_schema_cache()
    done = workspace.run("check")
    table = done.out.split("\n\n")[1]
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert done.code == 0
    assert lines["created_by"] == ["uuid", "NOT", "NULL", "user_id"]
    assert lines["note"] == ["text", "nothing"]
    assert lines["made_at"][-2:] == ["the", "database"]


# --- not to be reached --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [(), ("--write",)])
def test_a_wrong_key_is_reported(
    stack: Stack, workspace: Workspace, environment: Environment, kind: str, write: tuple[str, ...]
) -> None:
    environment("SUPABASE_KEY", "WR0NG-KEY")
    environment(
        "OTEL_AUDIT_POSTGRES_DSN", stack.dsn("audit_writer").replace(":", ":WR0NG-KEY", 2).replace("WR0NG-KEY//", "//")
    )
    done = workspace.run("check", *write)
    assert done.code == 1
    assert "key" in done.err or "password" in done.err
    assert "WR0NG-KEY" not in done.out + done.err


def test_an_expired_token_is_reported(stack: Stack, workspace: Workspace, environment: Environment, kind: str) -> None:
    if kind == "supabase":
        environment("OTEL_AUDIT_SUPABASE_TOKEN", stack.token("audit_writer", expires_in_seconds=-60))
        done = workspace.run("check")
        assert (done.code, "expired" in done.err) == (1, True)


def test_an_address_where_nobody_answers_is_exit_code_2(
    workspace: Workspace, environment: Environment, kind: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        environment("SUPABASE_URL", f"http://127.0.0.1:{port}")
        environment("OTEL_AUDIT_POSTGRES_DSN", f"postgresql://u:S3CRET@127.0.0.1:{port}/db")
        done = workspace.run("check")
    assert done.code == 2
    assert done.err
    assert "S3CRET" not in done.out + done.err


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<html>Welcome</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass


@pytest.fixture
def website() -> Iterator[str]:
    """A web server that knows nothing of PostgREST."""
    with serving(HTTPServer(("127.0.0.1", 0), _Page)) as port:
        yield f"http://127.0.0.1:{port}"


def test_the_address_of_another_website_is_reported(
    workspace: Workspace, environment: Environment, kind: str, website: str
) -> None:
    if kind == "supabase":
        environment("SUPABASE_URL", website)
        done = workspace.run("check")
        assert (done.code, "SUPABASE_URL" in done.err) == (1, True)


def test_a_missing_table_is_reported_with_those_that_exist(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, environment: Environment, kind: str
) -> None:
    environment("OTEL_AUDIT_TABLE", "no_such_table")
    done = workspace.run("check")
    assert done.code == 1
    assert '"no_such_table"' in done.err or "no_such_table" in done.err
    assert "audit_" in done.err


def test_a_schema_that_is_not_exposed_is_reported(workspace: Workspace, environment: Environment, kind: str) -> None:
    environment("OTEL_AUDIT_SCHEMA", "no_such_schema")
    assert workspace.run("check").code == 1


def test_settings_that_are_missing_are_named(workspace: Workspace, environment: Environment) -> None:
    environment("OTEL_AUDIT_EXPORTER", "supabase")
    done = workspace.run("check")
    assert done.code == 2
    assert "SUPABASE_URL" in done.err
    environment("OTEL_AUDIT_EXPORTER", "console")
    assert "exporter console (OTEL_AUDIT_EXPORTER): has no table" in workspace.run("check").err


def test_a_dsn_in_the_place_of_the_exporter_is_not_repeated(workspace: Workspace, environment: Environment) -> None:
    environment("OTEL_AUDIT_EXPORTER", "postgresql://u:s3cret@h/d")
    done = workspace.run("check")
    assert done.code == 2
    assert "s3cret" not in done.err + done.out


def on_the_description(request: Request) -> bool:
    return request.method == "GET"


@pytest.mark.parametrize("kind", ["supabase"], indirect=True)
def test_an_insert_is_tried_even_if_postgrest_describes_no_tables(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, environment: Environment, kind: str
) -> None:
    stack.gateway.inject(not_found(), times=None, when=on_the_description)
    assert workspace.run("check").code == 0
    change(stack, audit_table, "drop policy audit_writer_inserts on {}; alter table {} drop column old_values")
    done = workspace.run("check")
    assert (done.code, '"old_values"' in done.out) == (1, True)
    assert "cannot be told" in done.out
    environment("OTEL_AUDIT_COLUMNS", "id=record_id,yacht_id=yacht_id,action=action")
    environment("OTEL_AUDIT_UNMAPPED", "drop")
    assert "row-level security" in workspace.run("check").out
    environment("OTEL_AUDIT_TABLE", "no_such_table")
    assert workspace.run("check").code == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (unavailable_text(), 2),
        (bad_gateway_page(), 2),
        (too_many_requests(), 2),
        (captive_portal(), 1),
        (project_paused(), 1),
        (redirect(302, "http://127.0.0.1:1/"), 1),
    ],
    ids=["503", "502", "429", "portal", "paused", "redirect"],
)
@pytest.mark.parametrize("kind", ["supabase"], indirect=True)
def test_the_answer_of_a_gateway_is_reported_as_such(
    stack: Stack, workspace: Workspace, kind: str, answer: Answer, code: int
) -> None:
    stack.gateway.inject(answer, times=None)
    done = workspace.run("check")
    assert (done.code, bool(done.err)) == (code, True)


def test_a_role_without_any_right_to_the_table_is_reported(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, environment: Environment, kind: str
) -> None:
    stack.sql(f"revoke all on {audit_table.name} from audit_writer")
    stack.sql("revoke usage on schema public from audit_writer" if kind == "postgres" else "select 1")
    try:
        done = workspace.run("check")
    finally:
        stack.sql("grant usage on schema public to audit_writer")
    assert done.code == 1
    assert "grant" in done.out + done.err or "lacks insert" in done.out


# --- writing ------------------------------------------------------------------------------------------------------


def test_with_write_one_marked_event_is_written_and_timed(
    audit_table: AuditTable, workspace: Workspace, kind: str
) -> None:
    yacht, user, entity = (str(uuid4()) for _ in range(3))
    done = workspace.run("check", "--write", "--yacht", yacht, "--user", user, "--entity", "part", entity)
    assert done.code == 0, done
    row = audit_table.rows()[0]
    assert (row["action"], str(row["yacht_id"]), str(row["entity_id"])) == ("otel_audit_check", yacht, entity)
    assert f"Wrote event {row['id']}" in done.out
    assert " ms" in done.out


def test_with_write_nothing_is_written_where_it_would_fail(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, kind: str
) -> None:
    change(stack, audit_table, "alter table {} drop column old_values")
    done = workspace.run("check", "--write")
    assert (done.code, audit_table.count()) == (1, 0)
    assert "nothing was written" in done.err


# --- SQLite -------------------------------------------------------------------------------------------------------


def test_a_missing_sqlite_file_fits_and_a_foreign_one_gets_settings(
    workspace: Workspace, environment: Environment
) -> None:
    assert workspace.run("check").code == 0
    with closing(sqlite3.connect(workspace.database)) as connection:
        connection.execute(
            "CREATE TABLE pms_audit_log"
            " (event_id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, event TEXT, note TEXT NOT NULL)"
        )
    done = workspace.run("check")
    assert done.code == 1
    assert '"yacht_id" is missing' in done.out
    printed = settings_in(done)
    assert printed["OTEL_AUDIT_COLUMNS"] == "event_id=record_id,tenant_id=yacht_id,event=action"
    assert '# TODO column "note"' in done.out
    assert "# TODO columns: no column takes" in done.out
    with closing(sqlite3.connect(workspace.database)) as connection:
        connection.executescript("alter table pms_audit_log drop column note")
    for variable, value in printed.items():
        environment(variable, value)
    assert "no column takes" in workspace.run("check", "--write").err  # nor is there one to keep the other fields in
    environment("OTEL_AUDIT_UNMAPPED", "drop")
    assert workspace.run("check").code == 0
    written = workspace.run("check", "--write")
    assert (written.code, "LOST" in written.out) == (1, True)
    workspace.database.write_bytes(b"no database at all" * 100)
    assert workspace.run("check").code == 1


NINE = "id text primary key, yacht_id, entity_type, action, entity_id, created_by, created_at, old_values"
UNFILLED_GONE = 'alter table pms_audit_log drop column lvl; alter table pms_audit_log drop column "x=y"'
REFUSING = "create trigger t before insert on pms_audit_log begin select raise({}); end"


@pytest.mark.parametrize(
    ("columns", "more", "code", "says", "mended_by"),
    [
        (f"{NINE}, new_values, s text not null generated always as (action) stored", "", 0, "the database", ""),
        (f'{NINE}, new_values, lvl int not null, "x=y" not null', "", 1, '"lvl" is NOT NULL', UNFILLED_GONE),
        (NINE.replace("action", '"a = b"') + ", new_values", "", 1, '"action" is missing', ""),
        (f"{NINE}, new_values, check (action <> 'otel_audit_check')", "", 0, "see whether your own events", ""),
        (f"{NINE}, new_values", REFUSING.format("abort, 'SECRET'"), 0, "see whether your own", "drop trigger t"),
        (f"{NINE}, new_values", REFUSING.format("ignore"), 1, "drops the row", "drop trigger t"),
    ],
    ids=["generated", "not null", "renamed", "check", "refusing trigger", "dropping trigger"],
)
def test_a_sqlite_table_is_tried_and_left_as_it_was(
    workspace: Workspace, environment: Environment, columns: str, more: str, code: int, says: str, mended_by: str
) -> None:
    with closing(sqlite3.connect(workspace.database)) as connection:
        connection.executescript(f"create table pms_audit_log ({columns}); {more}")
        done = workspace.run("check")
        assert done.code == code, done
        assert says in done.out
        assert "SECRET" not in done.out + done.err
        assert connection.execute("select count(*) from pms_audit_log").fetchone() == (0,)
        connection.executescript(mended_by)
        for variable, value in settings_in(done).items():
            environment(
                variable, value.replace("old_values=", "a = b=action,old_values=") if "a = b" in columns else value
            )
        assert workspace.run("check").code == 0
        assert lands(uuid4)
        assert connection.execute("select count(*) from pms_audit_log").fetchone() == (1,)
