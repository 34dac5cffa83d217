"""Columns of an application's own table, through PostgREST: what lands where, and what is read back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from opentelemetry.sdk.trace import TracerProvider
from psycopg.sql import SQL, Identifier

from otel_audit_exporter import (
    AuditConfigurationError,
    SQLiteAuditExporter,
    audit_context,
    audit_event,
    configure_audit,
    flush_audit,
    get_audit_pipeline,
)
from otel_audit_exporter.integrations.asgi import AuditMiddleware
from tests.stack import Stack

# The table of the documentation's example.
EXAMPLE = {
    "id": "record_id",
    "tenant": "yacht_id",
    "kind": "entity_type",
    "action": "action",
    "target": "entity_id",
    "user_id": "user_id",
    "at": "timestamp",
    "before": "old_values",
    "after": "new_values",
    "outcome": "outcome",
}
EXAMPLE_SQL = (
    "id uuid primary key, tenant uuid not null, kind text not null, action text not null, target uuid not null,"
    " user_id uuid, at timestamptz not null, before jsonb, after jsonb not null, outcome text not null"
)
AGENT = "curl/8"
IDS: dict[str, Any] = {"entity_id": str(uuid4()), "tenant_id": str(uuid4()), "actor_id": str(uuid4())}

MakeTable = Callable[[str], str]


@pytest.fixture
def make_table(stack: Stack) -> Iterator[MakeTable]:
    """Return what makes a table of these columns, and returns its name."""
    made: list[str] = []

    def make(columns: str) -> str:
        name = f"own_{uuid4().hex[:12]}"
        made.append(name)
        table = Identifier("public", name)
        stack.sql(SQL("create table {} ({})").format(table, SQL(columns)))
        stack.sql(SQL("grant insert, select on {} to service_role").format(table))
        stack.reload_schema_cache()
        return name

    yield make
    for name in made:
        stack.sql(SQL("drop table {}").format(Identifier("public", name)))


def configure(stack: Stack, table: str, columns: dict[str, str], **options: Any) -> None:
    configure_audit("supabase", url=stack.url, key=stack.service_key, table=table, columns=columns, **options)


def rows(stack: Stack, table: str) -> list[dict[str, Any]]:
    assert flush_audit(30_000)
    return stack.sql(SQL("select * from {}").format(Identifier("public", table)))


def in_request(work: Callable[[], Any], peer: str = "203.0.113.77") -> None:
    """Do the work in a request that the middleware serves, and in a span."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with TracerProvider().get_tracer("test").start_as_current_span("request"):
            work()

    headers = [(b"x-request-id", b"r-1"), (b"user-agent", AGENT.encode())]
    scope = {"type": "http", "client": (peer, 1), "headers": headers}
    asyncio.run(AuditMiddleware(app)(scope, None, None))  # type: ignore[arg-type]  # it neither receives nor sends


def fields_of(row: dict[str, Any]) -> dict[str, Any]:
    plain = {name: str(value) if isinstance(value, UUID) else value for name, value in row.items()}
    return get_audit_pipeline().exporters[0].mapping.fields_of(plain)


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        ("drop", set()),
        ("ids", {"request_id", "trace_id", "span_id"}),
        ("all", {"request_id", "trace_id", "span_id", "source_ip", "user_agent"}),
    ],
)
def test_the_setting_of_surroundings_decides_what_the_examples_row_keeps(
    stack: Stack, make_table: MakeTable, setting: str, kept: set[str]
) -> None:
    table = make_table(EXAMPLE_SQL)
    configure(stack, table, EXAMPLE, column_defaults={"after": {}}, surroundings=setting)
    in_request(lambda: audit_event("update_part", entity_type="part", new_values={"qty": 1}, **IDS))
    (row,) = rows(stack, table)
    folded = row["after"].get("_audit", {})
    assert row["after"] == {"qty": 1} | ({"_audit": folded} if kept else {})
    assert folded.keys() == kept
    read = fields_of(row)
    assert read["new_values"] == {"qty": 1}
    assert {name for name in ("source_ip", "request_id", "user_agent", "trace_id", "span_id") if read[name]} == kept
    assert (str(row["tenant"]), str(row["user_id"])) == (IDS["tenant_id"], IDS["actor_id"])


def test_one_warning_names_lost_fields_and_how_to_keep_them(
    stack: Stack, make_table: MakeTable, caplog: pytest.LogCaptureFixture
) -> None:
    table = make_table(EXAMPLE_SQL)
    configure(stack, table, EXAMPLE, column_defaults={"after": {}})
    for _ in range(3):
        in_request(lambda: audit_event("update_part", entity_type="part", **IDS))
    assert [row["after"] for row in rows(stack, table)] == [{}, {}, {}]
    (line,) = [one for one in caplog.records if "user_agent" in one.getMessage()]
    assert line.levelno == logging.WARNING
    for words in ("source_ip, request_id, user_agent, trace_id, span_id", "OTEL_AUDIT_COLUMNS", "SURROUNDINGS"):
        assert words in line.getMessage()


def test_what_the_callers_own_context_gives_is_kept_by_default(stack: Stack, make_table: MakeTable) -> None:
    table = make_table(EXAMPLE_SQL)
    configure(stack, table, EXAMPLE, column_defaults={"after": {}})

    def work() -> None:
        with audit_context(user_agent="bridge console", metadata={"screen": "stock"}):
            audit_event("update_part", entity_type="part", **IDS)

    in_request(work)
    (row,) = rows(stack, table)
    assert row["after"] == {"_audit": {"user_agent": "bridge console", "metadata": {"screen": "stock"}}}


@pytest.mark.parametrize(
    ("ip", "peer", "recorded"),
    [
        ("full", "203.0.113.77", "203.0.113.77"),
        ("truncated", "203.0.113.77", "203.0.113.0"),
        ("truncated", "2001:db8:1:2::7", "2001:db8:1::"),
        ("off", "203.0.113.77", None),
        ("full", "testclient", None),
    ],
)
def test_an_inet_column_gets_the_address_part_that_is_set(
    stack: Stack, make_table: MakeTable, ip: str, peer: str, recorded: str | None
) -> None:
    table = make_table(EXAMPLE_SQL + ", ip inet")
    configure(stack, table, EXAMPLE | {"ip": "source_ip"}, column_defaults={"after": {}}, ip=ip)
    in_request(lambda: audit_event("update_part", entity_type="part", **IDS), peer)
    (row,) = rows(stack, table)
    assert row["ip"] is None if recorded is None else str(row["ip"]) == recorded


def test_paths_fill_columns_that_are_added_to_the_nine(stack: Stack) -> None:
    table = stack.create_table()
    try:
        table.alter("add column severity text, add column total numeric, add column dotted jsonb")
        stack.reload_schema_cache()
        added = {"+severity": "metadata.severity", "+total": "new_values.total", "+dotted": 'metadata."b.c"'}
        configure(stack, table.name, added)
        metadata = {"severity": "high", "b.c": [1]}
        audit_event("pay", entity_type="invoice", new_values={"total": 12.5}, metadata=metadata, **IDS)
        assert flush_audit(30_000)
        (row,) = table.rows()
        assert (row["severity"], float(row["total"]), row["dotted"]) == ("high", 12.5, [1])
        assert row["new_values"] == {"total": 12.5, "_audit": {"metadata": metadata}}
    finally:
        table.drop()


def test_a_path_whose_value_does_not_fit_is_parked(stack: Stack, make_table: MakeTable) -> None:
    table = make_table(EXAMPLE_SQL + ", level int")
    configure(stack, table, EXAMPLE | {"level": "metadata.level"}, column_defaults={"after": {}})
    for level in (1, "very high", 3):
        audit_event("update_part", entity_type="part", metadata={"level": level}, **IDS)
    assert sorted(row["level"] for row in rows(stack, table)) == [1, 3]
    assert len(list(get_audit_pipeline().dead_letters())) == 1


def test_one_column_of_details_keeps_all_that_a_caller_gave(stack: Stack, make_table: MakeTable) -> None:
    table = make_table("id uuid primary key, action text not null, details jsonb")
    configure(stack, table, {"id": "id", "action": "action", "details": "metadata"})
    given: dict[str, Any] = {
        "entity_type": "part",
        "old_values": {"qty": 1},
        "new_values": {"qty": 2},
        "outcome": "failure",
        "on_behalf_of": "someone",
        "metadata": {"m": 1},
    }
    audit_event("update_part", **given, **IDS)
    (row,) = rows(stack, table)
    read = fields_of(row)
    assert {name: read[name] for name in given} == given
    ids = (read["entity_id"], read["yacht_id"], read["user_id"])
    assert ids == (IDS["entity_id"], IDS["tenant_id"], IDS["actor_id"])


def test_an_exporter_built_by_the_sdk_holds_events_with_wrong_columns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_AUDIT_COLUMNS", "id=record_id,action=action")
    exporter = SQLiteAuditExporter()
    assert "no column takes yacht_id" in caplog.text
    receipt = audit_event("update_part", entity_type="part", **IDS)
    assert receipt.state == "pending"
    exporter.shutdown()


def test_an_exporter_made_with_wrong_columns_is_refused() -> None:
    with pytest.raises(AuditConfigurationError, match="no column takes yacht_id"):
        SQLiteAuditExporter(columns={"id": "record_id", "action": "action"})
