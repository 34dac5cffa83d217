"""The SQL that `otel-audit schema` prints, run on the real PostgreSQL, and every forbidden thing tried."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import orjson
import psycopg
import pytest
from psycopg import errors
from psycopg.sql import SQL, Composed, Identifier

from otel_audit_exporter import AuditConfigurationError
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.table.ddl import FULL_COLUMNS, TablePlan
from tests.stack import Stack
from tests.stack.waiting import wait_until
from tests.support.made_tables import NOTIFY, NOW, MadeTable, make_table, new_name

EVERYTHING: dict[str, Any] = {
    "full": True,
    "indexes": True,
    "rls": True,
    "writer_role": "audit_writer",
    "append_only": True,
}
FLAGS: list[dict[str, Any]] = [
    {},
    *({name: value} for name, value in EVERYTHING.items()),
    {"ids": "text"},
    {"received_at": True},
    {"writer_role": "audit_writer", "writer_per_tenant": True},
    EVERYTHING,
    EVERYTHING | {"ids": "text"},
]


def flags(value: Any) -> str | None:
    return ",".join(value) or "none" if isinstance(value, dict) else None


@pytest.mark.parametrize("partitioned", [{}, {"partitioned": True, "retention_months": 3}], ids=flags)
@pytest.mark.parametrize("chosen", FLAGS, ids=flags)
def test_the_script_runs_twice_and_rows_land(stack: Stack, chosen: dict[str, Any], partitioned: dict[str, Any]) -> None:
    table = make_table(stack, **chosen, **partitioned)
    table.insert_directly([table.row()], "postgres")
    table.run()
    table.insert_directly([table.row(created_by=None)], "postgres")
    assert table.count() == 2


@pytest.mark.parametrize("partitioned", [{}, {"partitioned": True, "retention_months": 3}], ids=flags)
def test_options_can_be_added_to_a_table_with_rows(stack: Stack, partitioned: dict[str, Any]) -> None:
    plain = make_table(stack, **partitioned)
    plain.insert_directly([plain.row()], "postgres")
    later = make_table(stack, table=plain.plan.table, **EVERYTHING, **partitioned)
    later.insert_directly([later.row(outcome="failure")])
    assert sorted(row["outcome"] for row in later.rows()) == ["failure", "success"]


def test_the_columns_are_the_librarys_own(stack: Stack) -> None:
    full = make_table(stack, full=True)
    full.insert_directly([full.row(metadata={"a": 1})], "postgres")
    assert list(full.rows()[0]) == list(FULL_COLUMNS)
    assert list(FULL_COLUMNS)[: len(DEFAULT_COLUMNS)] == list(DEFAULT_COLUMNS)


def test_a_script_names_the_settings_that_fit_its_table() -> None:
    plan = TablePlan(table="log", schema="audit", full=True, partitioned=True, ids="text")
    settings = plan.settings()
    assert settings.pop("OTEL_AUDIT_COLUMNS").endswith(",trace_id=trace_id,span_id=span_id")
    assert settings == {
        "OTEL_AUDIT_TABLE": "log",
        "OTEL_AUDIT_SCHEMA": "audit",
        "OTEL_AUDIT_KEY_COLUMNS": "id,created_at",
        "OTEL_AUDIT_IDS": "text",
    }
    for variable, value in plan.settings().items():
        assert f"-- {variable}={value}\n" in plan.sql()
    assert "OTEL_AUDIT" not in TablePlan().sql()


def test_postgrest_serves_the_table_without_a_reload(stack: Stack) -> None:
    table = MadeTable(stack, TablePlan(table=new_name(), writer_role="audit_writer"))
    stack.sql(table.plan.sql())
    wait_until(lambda: table.request("GET", "select=id", "audit_writer").status_code == 200, "the table is served")
    stack.reload_schema_cache()  # the next test's tables are not to meet the one that is under way


@pytest.mark.parametrize("partitioned", [False, True])
def test_names_are_quoted_whatever_they_hold(stack: Stack, partitioned: bool) -> None:
    table = f'it\'s "my" 50% {{table}} \\ {new_name()}'
    schema = f'Schäma "{new_name()}"'
    plan = {**EVERYTHING, "rls": True, "yacht_claim": "the 'claim' %s", "partitioned": partitioned}
    if partitioned:
        plan["retention_months"] = 2
    made = make_table(stack, table=table, schema=schema, **plan)
    made.run()
    made.insert_directly([made.row()])
    assert made.count() == 1
    assert len(made.partitions()) == (5 if partitioned else 0)
    with pytest.raises(errors.InsufficientPrivilege, match="append-only"):
        stack.sql(SQL("delete from {}").format(made.name))
    stack.sql(SQL("drop schema {} cascade").format(Identifier(schema)))


def test_tables_with_long_names_that_begin_alike_share_nothing(stack: Stack) -> None:
    begin = f"{new_name()}_{'x' * 40}"
    tables = [
        make_table(stack, table=f"{begin}{end}", indexes=True, append_only=True, partitioned=True) for end in "ab"
    ]
    for table in tables:
        table.insert_directly([table.row()], "postgres")
        assert table.count() == 1


@pytest.mark.parametrize(
    "plan",
    [
        {"table": ""},
        {"table": "a\nb"},
        {"table": "$do$"},
        {"schema": "x" * 64},
        {"retention_months": 3},
        {"rls": True, "writer_role": "authenticated"},
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_carried_out_is_refused(plan: dict[str, Any]) -> None:
    with pytest.raises(AuditConfigurationError):
        TablePlan(**plan)


# --- the writer ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["plain", "partitioned"])
def locked(request: pytest.FixtureRequest, stack: Stack) -> MadeTable:
    """A table with everything, and one row in it."""
    partitioned = {"partitioned": True, "retention_months": 3} if request.param else {}
    table = make_table(stack, **EVERYTHING, **partitioned)
    table.insert_directly([table.row()])
    return table


def test_the_writer_inserts_and_repeats_directly(locked: MadeTable) -> None:
    rows = [locked.row() for _ in range(50)]
    locked.insert_directly(rows)
    locked.insert_directly(rows)
    assert locked.count() == 51


def test_the_writer_inserts_and_repeats_through_postgrest(locked: MadeTable) -> None:
    locked.stack.reload_schema_cache()
    rows = [locked.row() for _ in range(50)]
    locked.insert_through_postgrest(rows)
    locked.insert_through_postgrest(rows)
    assert locked.count() == 51


FORBIDDEN = [
    "select * from {table}",
    "select action from {table}",
    "select count(action) from {table}",
    "update {table} set action = 'nothing'",
    "delete from {table}",
    "truncate {table}",
    "insert into {table} select * from {table}",
    "insert into {table} (id, created_at) values (null, null) on conflict ({key}) do update set id = null",
    "copy {table} to stdout",
    "alter table {table} add more text",
    "alter table {table} disable row level security",
    "drop table {table}",
    "create index on {table} (action)",
    "create trigger t before insert on {table} execute function suppress_redundant_updates_trigger()",
    "lock {table}",
]
FORBIDDEN_IN_PARTITIONS = [
    "select * from {partition}",
    "insert into {partition} (id, created_at) values (gen_random_uuid(), now())",
    "delete from {partition}",
    "truncate {partition}",
    "drop table {partition}",
    "alter table {table} detach partition {partition}",
    "select {make}()",
    "select {drop}()",
]


def statement(table: MadeTable, text: str) -> Composed:
    name, schema = table.plan.table, table.plan.schema
    return SQL(text).format(
        table=table.name,
        key=SQL(", ").join(map(Identifier, table.plan.key_columns)),
        partition=Identifier(schema, f"{name}_default"),
        latest=Identifier(schema, max(f"{name}_{month}" for month in ["", *table.partitions()] if month != "default")),
        make=Identifier(schema, f"{name}_make_partitions"),
        drop=Identifier(schema, f"{name}_drop_partitions"),
    )


def try_forbidden(table: MadeTable, role: str, statements: list[str]) -> list[str]:
    """Run statements, each in a transaction of its own, and return those that the database let through."""
    done = []
    with psycopg.connect(table.stack.dsn(role), autocommit=True) as connection:
        for text in statements:
            try:
                with connection.transaction():
                    connection.execute(statement(table, text))
                done.append(text)
            except (errors.InsufficientPrivilege, errors.WrongObjectType):
                pass
    return done


def test_the_writer_can_do_nothing_else(locked: MadeTable) -> None:
    forbidden = FORBIDDEN + (FORBIDDEN_IN_PARTITIONS if locked.plan.partitioned else [])
    assert try_forbidden(locked, "audit_writer", forbidden) == []
    assert locked.count() == 1


def test_the_writer_can_do_nothing_else_through_postgrest(locked: MadeTable) -> None:
    locked.stack.reload_schema_cache()
    attempts = [
        locked.request("GET", "", "audit_writer"),
        locked.request("GET", "select=action", "audit_writer"),
        locked.request("PATCH", "id=not.is.null", "audit_writer", {"action": "nothing"}),
        locked.request("DELETE", "id=not.is.null", "audit_writer"),
    ]
    assert [attempt.status_code for attempt in attempts] == [403] * len(attempts), [a.text for a in attempts]
    assert [row["action"] for row in locked.rows()] == ["receive"]


def test_a_role_without_grants_does_not_write(locked: MadeTable) -> None:
    locked.stack.reload_schema_cache()
    for role in ("anon", "authenticated"):
        with pytest.raises(SinkError) as caught:
            locked.insert_through_postgrest([locked.row()], role)
        assert caught.value.code == "42501"
    assert locked.count() == 1


def test_a_writer_role_that_is_not_there_is_made(stack: Stack) -> None:
    role = f'Wri"ter {new_name()}'
    table = make_table(stack, writer_role=role, rls=True)
    table.run()
    stack.reload_schema_cache()
    table.insert_through_postgrest([table.row()], role)
    assert table.count() == 1
    stack.sql(SQL("drop owned by {role}; drop role {role}").format(role=Identifier(role)))


@pytest.mark.parametrize("partitioned", [{}, {"partitioned": True, "retention_months": 3}], ids=flags)
def test_an_owner_runs_the_script_without_more_rights_than_a_schema(stack: Stack, partitioned: dict[str, Any]) -> None:
    name = new_name()
    role, schema = Identifier(name), Identifier(f"of_{name}")
    stack.sql(SQL("create role {} login createrole; create schema {} authorization {}").format(role, schema, role))
    plan = TablePlan(table="log", schema=f"of_{name}", **EVERYTHING, **partitioned)
    with stack.postgres.connect() as connection:
        connection.execute(SQL("set session authorization {}").format(role))
        for _ in range(2):
            connection.execute(plan.sql().removesuffix(NOTIFY).encode())
    table = MadeTable(stack, plan)
    table.insert_directly([table.row()])
    assert table.count() == 1
    stack.sql(SQL("drop schema {} cascade; drop owned by {}; drop role {}").format(schema, role, role))


# --- append-only --------------------------------------------------------------------------------------------------

CHANGES = [
    "update {table} set action = 'nothing'",
    "update {table} set action = 'nothing' where false",
    "delete from {table}",
    "truncate {table}",
    "merge into {table} t using (values (1)) v on true when matched then delete",
    "set local session_replication_role = replica; delete from {table}",
    "set local session_replication_role = replica; truncate {table}",
]
CHANGES_IN_PARTITIONS = [
    "update {partition} set action = 'nothing'",
    "delete from {partition}",
    "truncate {partition}",
    "set local session_replication_role = replica; delete from {partition}",
    "set local session_replication_role = replica; truncate {partition}",
]


def test_nobody_changes_a_row_the_owner_neither(locked: MadeTable) -> None:
    changes = CHANGES + (CHANGES_IN_PARTITIONS if locked.plan.partitioned else [])
    assert try_forbidden(locked, "postgres", changes) == []
    assert [row["action"] for row in locked.rows()] == ["receive"]


def test_a_partition_made_later_is_append_only_too(stack: Stack) -> None:
    table = make_table(stack, append_only=True, partitioned=True)
    stack.sql(statement(table, "select {make}(5, 0)"))
    latest = max(name for name in table.partitions() if name != "default")
    table.insert_directly([table.row(created_at=f"{latest.replace('_', '-')}-15T00:00:00+00:00")], "postgres")
    assert table.partitions()[latest] == 1
    changes = [change.replace("{partition}", "{latest}") for change in CHANGES_IN_PARTITIONS]
    assert try_forbidden(table, "postgres", changes) == []


def test_making_partitions_gives_up_behind_a_long_reader(stack: Stack) -> None:
    """Writers would have to wait behind it."""
    table = make_table(stack, partitioned=True)
    with stack.postgres.connect() as reader, reader.transaction():
        reader.execute(SQL("select from {}").format(table.name))
        with pytest.raises(errors.LockNotAvailable):
            stack.sql(statement(table, "select {make}(5, 0)"))
    stack.sql(statement(table, "select {make}(5, 0)"))
    assert len(table.partitions()) == 7


# --- readers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", ["uuid", "text"])
@pytest.mark.parametrize("partitioned", [False, True])
def test_a_reader_reads_the_rows_of_the_yachts_in_the_token(stack: Stack, ids: Any, partitioned: bool) -> None:
    table = make_table(stack, rls=True, ids=ids, partitioned=partitioned)
    yachts = [str(uuid4()) for _ in range(3)]
    table.insert_directly([table.row(yacht_id=yacht) for yacht in yachts], "postgres")
    stack.reload_schema_cache()

    def read(**claims: Any) -> set[str]:
        response = table.request("GET", "select=yacht_id", "authenticated", **claims)
        assert response.status_code == 200, response.text
        return {row["yacht_id"] for row in response.json()}

    assert read() == set()
    assert read(yacht_id=yachts[0]) == {yachts[0]}
    assert read(yacht_id=yachts[:2]) == set(yachts[:2])
    assert read(app_metadata={"yacht_id": yachts[2]}) == {yachts[2]}
    assert read(user_metadata={"yacht_id": yachts[2]}) == set()
    assert read(yacht_id=["nonsense", "", None, 7, {}]) == set()
    assert read(yacht_id={"yacht_id": yachts[0]}) == set()
    assert table.request("GET", "", "anon").status_code == 401


def test_a_reader_role_that_is_made_reads_through_postgrest(stack: Stack) -> None:
    role = f'Rea"der {new_name()}'
    table = make_table(stack, rls=True, reader_role=role, yacht_claim="boats", ids="text")
    table.run()
    table.insert_directly([table.row(yacht_id=yacht) for yacht in ("7", "8", "Nine")], "postgres")
    stack.reload_schema_cache()
    claims: list[Any] = [[7, "Nine"], "8", 8, ["nine"], "", None]
    answers = [table.request("GET", "select=yacht_id&order=yacht_id", role, boats=claim) for claim in claims]
    assert [[row["yacht_id"] for row in answer.json()] for answer in answers] == [
        ["7", "Nine"],
        ["8"],
        ["8"],
        [],
        [],
        [],
    ]
    stack.sql(SQL("drop owned by {role}; drop role {role}").format(role=Identifier(role)))


def test_a_reader_writes_nothing(stack: Stack) -> None:
    table = make_table(stack, rls=True)
    yacht = str(uuid4())
    row = table.row(yacht_id=yacht)
    table.insert_directly([row], "postgres")
    stack.reload_schema_cache()
    for method, query, body in (
        ("POST", "", orjson.loads(table.row(yacht_id=yacht))),
        ("PATCH", "id=not.is.null", {"action": "x"}),
        ("DELETE", "id=not.is.null", None),
    ):
        assert table.request(method, query, "authenticated", body, yacht_id=yacht).status_code == 403
    assert table.count() == 1


def test_partitions_cannot_be_read_past_policies_even_with_all_grants(stack: Stack) -> None:
    everybody = "alter default privileges in schema public {} all on tables {} anon, authenticated, service_role"
    stack.sql(everybody.format("grant", "to"))
    try:
        table = make_table(stack, rls=True, partitioned=True)
    finally:
        stack.sql(everybody.format("revoke", "from"))
    table.insert_directly([table.row()], "postgres")
    stack.reload_schema_cache()
    partition = MadeTable(stack, TablePlan(table=f"{table.plan.table}_default"))
    for role in ("anon", "authenticated", "service_role"):
        assert partition.request("GET", "", role).status_code in (401, 403)
    assert table.request("GET", "", "anon").status_code == 401
    assert table.request("GET", "", "authenticated").json() == []


# --- partitions ---------------------------------------------------------------------------------------------------


def months(stack: Stack, first: int, last: int) -> list[str]:
    """The names of months, counted from the present one."""
    query = (
        "select to_char(date_trunc('month', now() at time zone 'UTC') + make_interval(months => m), 'YYYY_MM') as month"
        " from generate_series(%s::int, %s::int) m"
    )
    return [row["month"] for row in stack.sql(query, [first, last])]


def test_rows_go_to_their_months_or_to_the_default_partition(stack: Stack) -> None:
    table = make_table(stack, partitioned=True)
    assert sorted(table.partitions()) == [*months(stack, 0, 3), "default"]
    this_month = months(stack, 0, 0)[0]
    first = f"{this_month.replace('_', '-')}-01T00:00:00+00:00"
    table.insert_directly(
        [table.row(created_at=first), table.row(created_at=NOW), table.row(created_at=NOW)], "postgres"
    )
    assert {name: count for name, count in table.partitions().items() if count} == {this_month: 1, "default": 2}


def test_rows_in_the_default_partition_move_when_their_month_is_made(stack: Stack) -> None:
    table = make_table(stack, partitioned=True, append_only=True, rls=True, full=True)
    last_month, long_ago = months(stack, -1, -1)[0], months(stack, -40, -40)[0]
    rows = [table.row(created_at=f"{month.replace('_', '-')}-02T00:00:00+00:00") for month in (last_month, long_ago)]
    table.insert_directly(rows, "postgres")
    before = table.rows()
    assert table.partitions()["default"] == 2
    stack.sql(statement(table, "select {make}(3, 2)"))
    assert table.partitions()["default"] == 1
    assert table.partitions()[last_month] == 1
    assert table.rows() == before
    assert try_forbidden(table, "postgres", CHANGES + CHANGES_IN_PARTITIONS) == []
    table.run()
    assert table.rows() == before


def test_retention_drops_whole_months_and_keeps_the_rest(stack: Stack) -> None:
    table = make_table(stack, partitioned=True, append_only=True, retention_months=2)
    stack.sql(statement(table, "select {make}(3, 5)"))
    stack.sql(statement(table, "set timezone = 'Asia/Tokyo'; set datestyle = 'SQL, DMY'; select {drop}()"))
    stack.sql("reset timezone; reset datestyle")
    assert sorted(table.partitions()) == [*months(stack, -2, 3), "default"]
    stack.sql(statement(table, "select {drop}(1)"))
    assert sorted(table.partitions()) == [*months(stack, -1, 3), "default"]
    with pytest.raises(psycopg.Error, match="1 or more"):
        stack.sql(statement(table, "select {drop}(0)"))


# --- stricter variants ------------------------------------------------------------------------------------------------

STRICT: dict[str, Any] = EVERYTHING | {"received_at": True, "writer_per_tenant": True}


@pytest.mark.parametrize("partitioned", [{}, {"partitioned": True}], ids=flags)
def test_when_a_row_arrived_is_nobodys_to_say(stack: Stack, partitioned: dict[str, Any]) -> None:
    table = make_table(stack, writer_role="audit_writer", received_at=True, append_only=True, **partitioned)
    table.insert_directly([table.row(created_at="2001-01-01T00:00:00Z")])
    statement_text = "insert into {table} (id, yacht_id, entity_type, action, entity_id, received_at) select {ids}"
    ids = SQL("gen_random_uuid(), gen_random_uuid(), 'part', 'receive', gen_random_uuid(), '2001-01-01'")
    text = SQL(statement_text).format(table=table.name, ids=ids)
    with psycopg.connect(stack.dsn("audit_writer")) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(text)
    stack.sql(text)  # the owner's is overwritten
    rows = stack.sql(SQL("select now() - received_at < interval '1 hour' as recent from {}").format(table.name))
    assert [row["recent"] for row in rows] == [True, True]


@pytest.mark.parametrize("partitioned", [{}, {"partitioned": True}], ids=flags)
def test_a_writer_with_a_tenants_token_writes_for_that_tenant_only(stack: Stack, partitioned: dict[str, Any]) -> None:
    table = make_table(stack, **STRICT, **partitioned)
    stack.reload_schema_cache()
    mine, other = str(uuid4()), str(uuid4())
    key = ",".join(table.plan.key_columns)

    def write(yacht: str, **claims: Any) -> int:
        row = orjson.loads(table.row(yacht_id=yacht))
        headers = {
            "apikey": stack.anon_key,
            "Authorization": f"Bearer {stack.token('audit_writer', **claims)}",
            "Prefer": "resolution=ignore-duplicates,return=minimal",
        }
        url = f"{stack.url}/rest/v1/{table.plan.table}?on_conflict={key}"
        codes = {httpx.post(url, headers=headers, json=[row], timeout=20).status_code for _ in range(2)}
        return 201 if codes <= {200, 201} else codes.pop()

    assert [write(mine, yacht_id=mine), write(mine, app_metadata={"yacht_id": [other, mine]})] == [201] * 2
    assert [write(other, yacht_id=mine), write(other), write(other, yacht_id="nonsense")] == [403] * 3
    assert [str(row["yacht_id"]) for row in table.rows()] == [mine, mine]


GUARDED = [
    "alter table {table} alter column action type text using 'nothing'",
    "alter table {table} disable trigger all",
    "alter table {table} disable row level security",
    "alter table {table} drop column action",
    "alter table {table} rename to gone",
    "drop table {table}",
    "drop trigger {trigger} on {table}",
    "drop policy {policy} on {table}",
]


@pytest.mark.parametrize("name", [None, 'Au"dit log'], ids=["plain", "quoted"])
def test_event_triggers_keep_the_owner_from_altering_the_table(stack: Stack, name: str | None) -> None:
    table = make_table(stack, **EVERYTHING, event_triggers=True, **({"table": f"{name} {new_name()}"} if name else {}))
    table.insert_directly([table.row()])
    other = make_table(stack)
    named = {
        "table": table.name,
        "trigger": Identifier(f"{table.plan.table}_no_change"),
        "policy": Identifier(f"{table.plan.table}_readers"),
    }
    try:
        for text in GUARDED:
            with pytest.raises(errors.InsufficientPrivilege, match="guarded"):
                stack.sql(SQL(text).format(**named))
        stack.sql(SQL("alter table {} add more text; drop table {}").format(other.name, other.name))
        table.run()  # which takes the guards away, and puts them back
        with pytest.raises(errors.InsufficientPrivilege, match="guarded"):
            stack.sql(SQL("alter table {} add more text").format(table.name))
        assert [row["action"] for row in table.rows()] == ["receive"]
    finally:
        for guard in ("alter", "rewrite", "drop"):
            stack.sql(SQL("drop event trigger {}").format(Identifier(f"{table.plan.table}_guard_{guard}")))


def test_everything_else_is_made_where_event_triggers_are_not_allowed(stack: Stack) -> None:
    role, schema = new_name(), new_name()
    names = list(map(Identifier, (role, schema, role)))
    stack.sql(SQL("create role {} login createrole; create schema {} authorization {}").format(*names))
    plan = TablePlan(schema=schema, event_triggers=True, append_only=True)
    warned: list[str] = []
    with stack.postgres.connect() as connection:
        connection.execute(SQL("set session authorization {}").format(names[0]))
        connection.add_notice_handler(lambda notice: warned.append(str(notice.message_primary)))
        for _ in range(2):
            connection.execute(plan.sql().removesuffix(NOTIFY).encode())
    assert any("event triggers are not for" in text for text in warned)
    assert stack.sql(SQL("select count(*) as rows from {}").format(Identifier(schema, plan.table))) == [{"rows": 0}]


def test_each_part_of_the_script_says_what_it_does_not_stop() -> None:
    script = TablePlan(**STRICT, event_triggers=True).sql()
    assert script.count("does not stop") >= 6


# --- adding to a table that is there --------------------------------------------------------------------------------

FOLDED: list[tuple[Any, dict[str, Any], Any]] = [
    ({"a": 1, "_audit": {"outcome": "failure"}}, {"outcome": "failure"}, {"a": 1}),
    ({"_audit": {"metadata": {"m": 1}, "actor_type": "system"}}, {"metadata": {"m": 1}, "actor_type": "system"}, None),
    ({"value": [1], "_audit": {"signature": {"s": 1}}}, {"signature": {"s": 1}}, [1]),
    ({"_audit": {"on_behalf_of": "ada", "metadata": {"m": 1}}}, {"metadata": {"on_behalf_of": "ada", "m": 1}}, None),
    ({"_audit": {"source_ip": "10.0.0.1", "user_agent": "x", "request_id": "r"}},
     {"source_ip": "10.0.0.1", "user_agent": "x", "request_id": "r"}, None),
    ({"_audit": {"source_ip": "no address", "trace_id": "t", "span_id": "s"}},
     {"source_ip": None, "trace_id": "t", "span_id": "s"}, {"_audit": {"source_ip": "no address"}}),
    ({"_audit": {"mine": 1}}, {"outcome": "success"}, {"_audit": {"mine": 1}}),
    ({"a": 1}, {"outcome": "success"}, {"a": 1}),
]  # fmt: skip


def test_what_lies_in_audit_moves_into_the_columns_that_are_added(stack: Stack) -> None:
    plain = make_table(stack)
    rows = [plain.row(new_values=new_values) for new_values, _, _ in FOLDED]
    plain.insert_directly(rows, "postgres")
    for _ in range(2):
        make_table(stack, table=plain.plan.table, full=True, add=True)
    found = {str(row["id"]): row for row in plain.rows()}
    for row, (_, columns, new_values) in zip(rows, FOLDED, strict=True):
        stored = found[orjson.loads(row)["id"]]
        assert stored["new_values"] == new_values
        assert {name: stored[name] if name != "source_ip" else _text(stored[name]) for name in columns} == columns


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def test_rows_that_are_append_only_stay_as_they_are(stack: Stack) -> None:
    plain = make_table(stack, append_only=True)
    plain.insert_directly([plain.row(new_values={"_audit": {"outcome": "failure"}})], "postgres")
    later = make_table(stack, table=plain.plan.table, full=True, add=True)
    (row,) = later.rows()
    assert (row["outcome"], row["new_values"]) == ("success", {"_audit": {"outcome": "failure"}})


@pytest.mark.parametrize("partitioned", [{}, {"partitioned": True}], ids=flags)
def test_tenant_and_actor_have_the_names_that_are_asked_for(stack: Stack, partitioned: dict[str, Any]) -> None:
    plan = EVERYTHING | {"tenant_column": "org id", "actor_column": "actor_id", "writer_per_tenant": True}
    table = make_table(stack, **plan, **partitioned)
    table.run()
    assert list(table.plan.columns)[:2] == ["id", "org id"]
    assert "org id=yacht_id" in table.plan.settings()["OTEL_AUDIT_COLUMNS"]
    assert "actor_id=user_id" in table.plan.settings()["OTEL_AUDIT_COLUMNS"]
    stack.sql(SQL("select id, {}, actor_id, source_ip from {}").format(Identifier("org id"), table.name))
    with pytest.raises(AuditConfigurationError, match="names of their own"):
        TablePlan(tenant_column="action")
