"""One application, unchanged, in five environments."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.stack import AuditTable, Stack
from tests.support.otlp_receiver import Received, Receiver
from tests.support.rows import sqlite_rows
from tests.support.servers import to_table
from tests.ways_in.programs import PART, SHOP, USER, YACHT, run

COLUMNS = (
    "id=record_id,yacht_id=yacht_id,entity_type=entity_type,action=action,entity_id=entity_id,created_by=user_id,"
    "created_at=timestamp,old_values=old_values,new_values=new_values,trace_id=trace_id,span_id=span_id"
)


def shop(folder: Path, **environ: str) -> dict[str, Any]:
    """Run the application; it has to have delivered what it said."""
    told: dict[str, Any] = json.loads(run(folder, SHOP, **environ).out.splitlines()[-1])
    assert told["flushed"] is True
    assert told["figures"] == [20, 20, 0, 0, 0]
    assert told["sinks"] == [environ["OTEL_AUDIT_EXPORTER"]]
    return told


def check_rows(told: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    by_id = {str(row["id"]): row for row in rows}
    assert len(by_id) == len(told["said"]) == 20
    for number, record_id, trace_id, span_id in told["said"]:
        row = {name: value if name.endswith("values") else str(value) for name, value in by_id[record_id].items()}
        assert row.pop("created_at")
        assert row == {
            "id": record_id,
            "yacht_id": YACHT,
            "entity_type": "part",
            "action": "order_part",
            "entity_id": PART,
            "created_by": USER,
            "old_values": {"number": number},
            "new_values": {"number": number, "price": "1.10", "port": "Mahón"},
            "trace_id": trace_id,
            "span_id": span_id,
        }


def check_records(told: Mapping[str, Any], records: Iterable[Received]) -> None:
    records = list(records)
    by_id = {record.record_id: record for record in records}
    assert len(by_id) == len(records) == len(told["said"]) == 20
    for number, record_id, trace_id, span_id in told["said"]:
        record = by_id[record_id]
        assert record.document("audit.change.old_values") == {"number": number}
        assert record.document("audit.change.new_values") == {"number": number, "price": "1.10", "port": "Mahón"}
        assert {name: record.attributes[name] for name in record.attributes if ".change." not in name} == {
            "audit.record.id": record_id,
            "audit.tenant.id": YACHT,
            "audit.target.type": "part",
            "audit.action": "order_part",
            "audit.target.id": PART,
            "audit.actor.id": USER,
            "audit.actor.type": "user",
            "audit.outcome": "success",
        }
        assert (record.trace_id, record.span_id) == (trace_id, span_id)
        assert record.event_name == ("shop.ordered" if number % 2 else "part.order_part")
        assert record.resource["service.name"] == "shop"
        assert record.resource["telemetry.sdk.language"] == "python"
        assert record.scope == "otel_audit_exporter"
        assert record.time_unix_nano > 0


@pytest.fixture
def traced_table(stack: Stack, audit_table: AuditTable) -> AuditTable:
    audit_table.alter("add column trace_id text, add column span_id text")
    stack.reload_schema_cache()
    return audit_table


def test_sqlite_has_the_applications_events(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    told = shop(tmp_path, OTEL_AUDIT_EXPORTER="sqlite", OTEL_AUDIT_SQLITE_PATH=str(path), OTEL_AUDIT_COLUMNS=COLUMNS)
    check_rows(told, sqlite_rows(path))


def test_supabase_has_the_applications_events(tmp_path: Path, stack: Stack, traced_table: AuditTable) -> None:
    told = shop(tmp_path, **to_table(stack, traced_table), OTEL_AUDIT_COLUMNS=COLUMNS)
    check_rows(told, traced_table.rows())


def test_postgresql_has_the_applications_events(tmp_path: Path, stack: Stack, traced_table: AuditTable) -> None:
    told = shop(
        tmp_path,
        OTEL_AUDIT_EXPORTER="postgres",
        OTEL_AUDIT_POSTGRES_DSN=stack.dsn(),
        OTEL_AUDIT_TABLE=traced_table.name,
        OTEL_AUDIT_COLUMNS=COLUMNS,
    )
    check_rows(told, traced_table.rows())
    assert stack.gateway.requests == []


def test_an_otlp_receiver_has_the_applications_events(tmp_path: Path, receiver: Receiver) -> None:
    told = shop(tmp_path, OTEL_AUDIT_EXPORTER="otlp", OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=receiver.endpoint)
    check_records(told, receiver.records)


def test_an_otlp_receiver_is_found_by_the_general_endpoint_too(tmp_path: Path, receiver: Receiver) -> None:
    general = receiver.endpoint.removesuffix("/v1/logs")
    told = shop(tmp_path, OTEL_AUDIT_EXPORTER="otlp", OTEL_EXPORTER_OTLP_ENDPOINT=general)
    check_records(told, receiver.records)


@pytest.mark.parametrize("status", [503, 500])
def test_an_otlp_receiver_that_refuses_at_first_gets_everything_later(
    status: int, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.answer_next(status, status)
    told = shop(tmp_path, OTEL_AUDIT_EXPORTER="otlp", OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=receiver.endpoint)
    assert receiver.refusals == 2
    check_records(told, receiver.records)


def test_memory_counts_the_applications_events_and_leaves_no_file(tmp_path: Path) -> None:
    shop(tmp_path, OTEL_AUDIT_EXPORTER="memory")
    assert list(tmp_path.rglob("*.db")) == []
