"""Ten thousand events of fifty shapes, by every road: each row is what was said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from psycopg.sql import SQL

from otel_audit_exporter import (
    AuditPipeline,
    SQLiteAuditExporter,
    SupabaseAuditExporter,
    audit_event,
    configure_audit,
)
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.redaction import Redactor
from tests.stack import AuditTable, Stack
from tests.support.events import SHAPES, SaidEvent, check_all, now, ten_thousand
from tests.support.rows import sqlite_rows


@pytest.fixture
def events() -> list[SaidEvent]:
    return ten_thousand()


def emit_all(events: list[SaidEvent]) -> None:
    for event in events:
        event.before = now()
        receipt = audit_event(**event.arguments)
        event.after = now()
        event.record_id = receipt.record_id


def check_counters(pipeline: AuditPipeline, count: int) -> None:
    stats = pipeline.stats()
    assert (stats.submitted, stats.succeeded, stats.failed, stats.pending) == (count, count, 0, 0)
    assert stats.success_rate == 100.0


def plain_rows(table: AuditTable) -> list[dict[str, Any]]:
    return [
        row | {name: str(row[name]) for name in ("id", "yacht_id", "entity_id", "created_by")} for row in table.rows()
    ]


def check_types(stack: Stack, table: AuditTable, events: list[SaidEvent]) -> None:
    query = SQL(
        "select id::text, jsonb_typeof(old_values) as old_values, jsonb_typeof(new_values) as new_values from {}"
    ).format(table.identifier)
    types = {row.pop("id"): row for row in stack.sql(query)}
    assert [event.number for event in events if types[event.record_id] != event.types] == []


def test_there_are_fifty_shapes() -> None:
    assert len(SHAPES) == 50


def test_they_land_in_postgresql_through_postgrest(
    stack: Stack, audit_table: AuditTable, events: list[SaidEvent]
) -> None:
    stack.gateway.keep_requests(False)
    pipeline = configure_audit("supabase", url=stack.url, key=stack.service_key, table=audit_table.name)
    emit_all(events)
    assert pipeline.force_flush(60_000)
    check_all(events, plain_rows(audit_table))
    check_types(stack, audit_table, events)
    check_counters(pipeline, len(events))
    assert pipeline.shutdown()


def test_they_land_in_the_embedded_default(tmp_path: Path, events: list[SaidEvent]) -> None:
    pipeline = configure_audit()
    emit_all(events)
    assert pipeline.shutdown(60_000)
    check_all(events, sqlite_rows(tmp_path / "pms_audit_log.db"))
    check_counters(pipeline, len(events))


def emit_records(exporter: LogRecordExporter, events: list[SaidEvent]) -> None:
    """Say the events as an application would that knows nothing of this library: as plain log records."""
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter, max_queue_size=20_000))
    logger = provider.get_logger("application")
    encoder = Encoder(Redactor())
    for event in events:
        said = event.arguments
        event.record_id = f"0191a000-0000-7000-8000-{event.number:012x}"
        event.before = now()
        attributes = {
            "audit.record.id": event.record_id,
            "audit.action": said["action"],
            "audit.target.type": said["entity_type"],
            "audit.target.id": str(said["entity_id"]),
            "audit.tenant.id": said["yacht_id"],
            "audit.actor.id": said["user_id"],
        }
        for name in ("old_values", "new_values"):
            value = said[name]
            if isinstance(value, str) or value is None:
                attributes[f"audit.change.{name}"] = value
            else:
                attributes[f"audit.change.{name}"] = _attribute(value, encoder)
        logger.emit(LogRecord(attributes=attributes))
        event.after = now()
    assert provider.force_flush(60_000)
    provider.shutdown()


def _attribute(value: Any, encoder: Encoder) -> Any:
    """Give documents as their text, and scalars as they are, which is how applications hand them over."""
    text = encoder.value(value).decode()
    return text if text[0] in "{[" else text.strip('"') if text[0] == '"' else value


def test_they_land_from_plain_log_records_in_postgresql(
    stack: Stack, audit_table: AuditTable, events: list[SaidEvent], tmp_path: Path
) -> None:
    stack.gateway.keep_requests(False)
    exporter = SupabaseAuditExporter(
        stack.url, stack.service_key, table=audit_table.name, outbox_dir=os.fspath(tmp_path / "outbox")
    )
    emit_records(exporter, events)
    check_all(events, plain_rows(audit_table))
    check_types(stack, audit_table, events)


def test_they_land_from_plain_log_records_in_sqlite(tmp_path: Path, events: list[SaidEvent]) -> None:
    path = tmp_path / "rows.db"
    emit_records(SQLiteAuditExporter(os.fspath(path), outbox_dir=os.fspath(tmp_path / "outbox")), events)
    check_all(events, sqlite_rows(path))
