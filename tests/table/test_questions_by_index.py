"""What events are asked for by is found by indexes, and text in values by its own column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest
from psycopg.sql import SQL, Literal

from otel_audit_exporter.config.settings import load_settings
from otel_audit_exporter.table.ddl import FULL_COLUMNS, TablePlan
from otel_audit_exporter.table.readers import EventQuery, open_reader
from otel_audit_exporter.table.readers.base import Order
from otel_audit_exporter.table.readers.columns import Column, ColumnReader
from otel_audit_exporter.table.readers.conditions import Beyond, conditions_of
from otel_audit_exporter.table.readers.postgres import PostgresDialect
from otel_audit_exporter.table.readers.postgrest import Parameters, filters
from otel_audit_exporter.table.readers.sql import select_rows
from tests.stack import Stack
from tests.stack.waiting import wait_until
from tests.support.made_tables import NOTIFY, NOW, MadeTable, make_table, new_name
from tests.support.row_limit import row_limit

ASKED = {
    "all": EventQuery(),
    "tenant": EventQuery(yacht_id=str(uuid4())),
    "entity": EventQuery(entity_type="part", entity_id=str(uuid4())),
    "user": EventQuery(user_id=str(uuid4())),
    "action": EventQuery(action="receive"),
    "failure": EventQuery(outcome="failure"),
    "success": EventQuery(outcome="success"),
    "request": EventQuery(request_id="r"),
    "trace": EventQuery(trace_id="0" * 32),
    "time": EventQuery(since=datetime(2026, 1, 1, tzinfo=UTC), until=datetime(2026, 2, 1, tzinfo=UTC)),
    "text": EventQuery(text="rec"),
    "id": EventQuery(text="0192d3a4"),
    "scope": EventQuery(tenants=frozenset({str(uuid4()), str(uuid4())})),
}


def plans(table: MadeTable) -> Iterator[tuple[str, str]]:
    """How the server would look for each question, and for the page after."""
    columns = ColumnReader(table.plan.columns)
    order = Order(Column("created_at"), Column("id"), newest_first=True)
    beyond = Beyond(order.at, order.key, (NOW, str(uuid4())), newest_first=True)
    with table.stack.postgres.connect() as connection:
        connection.execute("set enable_seqscan = off")
        for name, query in ASKED.items():
            conditions = conditions_of(query, columns, ids="uuid", searchable=False)
            assert conditions is not None
            for more in ([], [beyond]):
                asked = select_rows(PostgresDialect(), "*", table.name.as_string(), [*conditions, *more], order, 50)
                found = connection.execute(f"explain {asked.text}".encode(), asked.values).fetchall()
                yield name, "\n".join(str(line["QUERY PLAN"]) for line in found)


@pytest.mark.parametrize("full", [False, True], ids=["nine", "full"])
def test_questions_are_answered_from_indexes(stack: Stack, full: bool) -> None:
    for name, plan in plans(make_table(stack, indexes=True, full=full)):
        assert "Seq Scan" not in plan, f"{name}: {plan}"
        assert "Index" in plan


@pytest.mark.parametrize("full", [False, True], ids=["nine", "full"])
def test_nothing_is_looked_through_to_count_or_to_read_a_page(stack: Stack, full: bool) -> None:
    table = make_table(stack, indexes=True, full=full)
    rows = (
        "insert into {} (id, yacht_id, entity_type, action, entity_id, created_by, created_at)"
        " select gen_random_uuid(), gen_random_uuid(), 'part', 'receive', gen_random_uuid(), gen_random_uuid(),"
        " now() - n * interval '1 s' from generate_series(1, 20000) n"
    )
    stack.sql(SQL(rows).format(table.name))
    stack.sql(SQL("analyze {}").format(table.name))
    before = scans(table)
    columns = {"columns": dict(FULL_COLUMNS)} if full else {}
    settings = load_settings({"exporter": "postgres", "table": table.plan.table, "dsn": stack.dsn(), **columns}, {})
    with closing(open_reader(settings)) as reader:
        counts = {name: str(reader.count(query)) for name, query in ASKED.items()}
        pages = {name: len(list(reader.events(query, limit=50))) for name, query in ASKED.items()}
    assert (counts["all"], counts["success"], counts["action"], counts["failure"]) == ("10,000+",) * 3 + ("0",)
    assert (pages["success"], pages["failure"]) == (50, 0)
    wait_until(lambda: not asking(table), "the reader's connection, which counts at its end how it looked, is gone")
    after = scans(table)
    assert after["idx_scan"] > before["idx_scan"]
    assert after["seq_scan"] == before["seq_scan"]


def test_as_many_rows_are_fetched_as_are_counted(stack: Stack) -> None:
    """To put the rows of a text in the order of time, a server would fetch all that have it."""
    table, user = make_table(stack, indexes=True), uuid4()
    rows = (
        "insert into {} (id, yacht_id, entity_type, action, entity_id, created_by, created_at)"
        " select gen_random_uuid(), gen_random_uuid(), 'part', 'receive', gen_random_uuid(),"
        " case when n % 3 = 0 then {} else gen_random_uuid() end,"
        " now() - n * interval '1 s' from generate_series(1, 60000) n"
    )
    stack.sql(SQL(rows).format(table.name, Literal(user)))
    stack.sql(SQL("analyze {}").format(table.name))
    before = scans(table)
    settings = load_settings({"exporter": "postgres", "table": table.plan.table, "dsn": stack.dsn()}, {})
    with closing(open_reader(settings)) as reader:
        assert str(reader.count(EventQuery(text=str(user)[:8]))) == "10,000+"
    wait_until(lambda: not asking(table), "the reader's connection, which counts at its end how it looked, is gone")
    after = scans(table)
    assert after["seq_scan"] == before["seq_scan"]
    assert after["idx_tup_fetch"] - before["idx_tup_fetch"] < 11_000


@pytest.mark.parametrize("exporter", ["postgres", "supabase"])
def test_an_event_with_a_text_in_two_columns_counts_once(stack: Stack, exporter: str) -> None:
    table = make_table(stack, indexes=True)
    stack.sql(SQL("grant all on {} to service_role").format(table.name))
    stack.reload_schema_cache()
    rows = (
        "insert into {} (id, yacht_id, entity_type, action, entity_id, created_by, created_at)"
        " select gen_random_uuid(), gen_random_uuid(), {}, {}, gen_random_uuid(), gen_random_uuid(),"
        " now() - n * interval '1 s' from generate_series(1, {}) n"
    )
    for entity_type, action, count in (("part", "part_moved", 30), ("part", "receive", 20), ("crew", "part_lost", 10)):
        stack.sql(SQL(rows).format(table.name, Literal(entity_type), Literal(action), Literal(count)))
    address = {"dsn": stack.dsn()} if exporter == "postgres" else {"url": stack.url, "key": stack.service_key}
    settings = load_settings({"exporter": exporter, "table": table.plan.table, **address}, {})
    with closing(open_reader(settings)) as reader:
        assert str(reader.count(EventQuery(text="part"))) == "60"
        assert str(reader.count(EventQuery(text="part"), 49)) == "49+"
        assert str(reader.count(EventQuery(text="part"), 59)) == "59+"
        assert str(reader.count(EventQuery(text="crew"))) == "10"


def asking(table: MadeTable) -> bool:
    """Tell whether another connection's last question was about a table."""
    query = "select 1 from pg_stat_activity where pid <> pg_backend_pid() and position(%s in query) > 0"
    return bool(table.stack.sql(query, [table.plan.table]))


def scans(table: MadeTable) -> dict[str, int]:
    """How often the server looked through a table, and into one of its indexes."""
    table.stack.sql("select pg_stat_force_next_flush()")  # or what made the table is counted a second later
    query = "select seq_scan, idx_scan, idx_tup_fetch from pg_stat_user_tables where relname = %s"
    return dict(table.stack.sql(query, [table.plan.table])[0])


@pytest.mark.parametrize("full", [False, True], ids=["nine", "full"])
def test_postgrest_answers_questions_from_indexes(stack: Stack, full: bool) -> None:
    table = make_table(stack, indexes=True, full=full)
    stack.sql(SQL("grant all on {} to service_role").format(table.name))
    setting = "alter role authenticator {} pgrst.db_plan_enabled{}; notify pgrst, 'reload config'"
    stack.sql(setting.format("set", " = 'true'"))
    stack.sql("alter role service_role set enable_seqscan = off")
    stack.reload_schema_cache()
    try:
        order = Order(Column("created_at"), Column("id"), newest_first=True)
        beyond = Beyond(order.at, order.key, (NOW, str(uuid4())), newest_first=True)
        for name, query in ASKED.items():
            conditions = conditions_of(query, ColumnReader(table.plan.columns), ids="uuid", searchable=False)
            assert conditions is not None
            parameters = [("order", "created_at.desc,id.desc"), ("limit", "50"), *filters([*conditions, beyond])]
            plan = asked_for_plan(stack, table, parameters)
            assert "Seq Scan" not in plan, f"{name}: {plan}"
            assert "Index" in plan
    finally:
        stack.sql(setting.format("reset", ""))
        stack.sql("alter role service_role reset enable_seqscan")
        stack.reload_schema_cache()


def asked_for_plan(stack: Stack, table: MadeTable, parameters: Parameters) -> str:
    headers = {"apikey": stack.service_key, "Authorization": f"Bearer {stack.service_key}"}
    accept = {"Accept": "application/vnd.pgrst.plan+text"}
    url = f"{stack.url}/rest/v1/{table.plan.table}"
    answer = httpx.get(url, params=httpx.QueryParams([*parameters]), headers=headers | accept, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_the_column_for_searching_holds_the_values(stack: Stack) -> None:
    table = MadeTable(stack, TablePlan(table=new_name(), search=True))
    # The server of the tests has no pg_trgm, which only the index needs.
    script = table.plan.sql().removesuffix(NOTIFY)
    assert "create extension if not exists pg_trgm" in script
    lines = [line for line in script.splitlines() if "pg_trgm" not in line and "gin_trgm_ops" not in line]
    stack.sql("\n".join(lines))
    table.insert_directly([table.row(old_values=[1], new_values={"Name": "GRÖSSE"})], "postgres")
    (row,) = table.rows()
    assert row["audit_search"] == '[1] {"Name": "GRÖSSE"}'
    stack.sql(SQL("grant all on {} to service_role").format(table.name))
    stack.reload_schema_cache()
    served = {"postgres": {"dsn": stack.dsn()}, "supabase": {"url": stack.url, "key": stack.service_key}}
    for exporter, where in served.items():
        settings = load_settings({"exporter": exporter, "table": table.plan.table, **where}, {})
        with closing(open_reader(settings)) as reader:
            (found,) = reader.events(EventQuery(text="RÖss"))
            assert found.other == {}
            assert list(reader.events(EventQuery(text="R_ss"))) == []


def test_postgrest_counts_a_text_by_the_value_most_events_have(stack: Stack) -> None:
    """To put all rows that begin alike in the order of time, a server would fetch every one of them."""
    table, tenant = make_table(stack, indexes=True), uuid4()
    stack.sql(SQL("grant all on {} to service_role").format(table.name))
    rows = (
        "insert into {} (id, yacht_id, entity_type, action, entity_id, created_by, created_at)"
        " select gen_random_uuid(), {}, case when n % 3 = 0 then 'part_order' else 'part' end, 'receive',"
        " gen_random_uuid(), gen_random_uuid(), now() - n * interval '1 s' from generate_series(1, 16000) n"
    )
    stack.sql(SQL(rows).format(table.name, Literal(tenant)))
    stack.reload_schema_cache()
    address = {"url": stack.url, "key": stack.service_key}
    settings = load_settings({"exporter": "supabase", "table": table.plan.table, **address}, {})
    asked = EventQuery(tenants=frozenset({str(tenant), str(uuid4())}), text="part")
    with closing(open_reader(settings)) as reader:
        assert str(reader.count(asked)) == "10,000+"
    last = stack.gateway.requests[-1].query
    assert (last['"yacht_id"'], last['"entity_type"'], last["offset"]) == (f"eq.{tenant}", "eq.part", "10000")


@pytest.mark.parametrize(("left_out", "most_rows"), [(3, 1000), (150, 1000), (150, 50)])
def test_through_postgrest_events_that_are_left_out_are_not_counted(
    stack: Stack, left_out: int, most_rows: int
) -> None:
    """A few of them are told apart, many are not, also where the server gives fewer rows than asked for."""
    table = make_table(stack, indexes=True)
    stack.sql(SQL("grant all on {} to service_role").format(table.name))
    rows = (
        "insert into {} (id, yacht_id, entity_type, action, entity_id, created_by, created_at)"
        " select gen_random_uuid(), gen_random_uuid(), 'part', {}, gen_random_uuid(), gen_random_uuid(),"
        " now() - n * interval '1 s' from generate_series(1, {}) n"
    )
    for action, count in (("receive", 60), ("audit.viewed", left_out)):
        stack.sql(SQL(rows).format(table.name, Literal(action), Literal(count)))
    address = {"url": stack.url, "key": stack.service_key}
    settings = load_settings({"exporter": "supabase", "table": table.plan.table, **address}, {})
    with row_limit(stack, most_rows), closing(open_reader(settings)) as reader:
        for text in (None, "part"):
            query = EventQuery(without_actions=frozenset({"audit.viewed"}), text=text)
            assert [str(reader.count(query, most)) for most in (59, 60, 61)] == ["59+", "60", "60"]
