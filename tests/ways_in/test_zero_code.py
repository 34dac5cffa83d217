"""No set-up in the application: OpenTelemetry's own command builds the exporter from its name."""

from __future__ import annotations

from pathlib import Path

from tests.stack import AuditTable, Stack
from tests.support.rows import sqlite_rows
from tests.ways_in.programs import NO_SET_UP, SAYS_NOTHING, check, instrumented


def supabase(stack: Stack, table: AuditTable) -> dict[str, str]:
    return {"SUPABASE_URL": stack.url, "SUPABASE_SERVICE_ROLE_KEY": stack.service_key, "OTEL_AUDIT_TABLE": table.name}


def test_supabase_audit_lands_audit_events_and_plain_log_records(
    tmp_path: Path, stack: Stack, audit_table: AuditTable
) -> None:
    ran = instrumented(tmp_path, NO_SET_UP, OTEL_LOGS_EXPORTER="supabase_audit", **supabase(stack, audit_table))
    check(ran, audit_table.rows())
    assert audit_table.count() == 2


def test_postgres_audit_lands_audit_events_and_plain_log_records(
    tmp_path: Path, stack: Stack, audit_table: AuditTable
) -> None:
    there = {"OTEL_AUDIT_POSTGRES_DSN": stack.dsn(), "OTEL_AUDIT_TABLE": audit_table.name}
    ran = instrumented(tmp_path, NO_SET_UP, OTEL_LOGS_EXPORTER="postgres_audit", **there)
    check(ran, audit_table.rows())
    assert audit_table.count() == 2


def test_sqlite_audit_lands_audit_events_and_plain_log_records(tmp_path: Path) -> None:
    ran = instrumented(tmp_path, NO_SET_UP, OTEL_LOGS_EXPORTER="sqlite_audit")
    check(ran, sqlite_rows(tmp_path / "pms_audit_log.db"))


def test_two_exporters_of_ours_each_land_both(tmp_path: Path, stack: Stack, audit_table: AuditTable) -> None:
    both = "supabase_audit,sqlite_audit"
    ran = instrumented(tmp_path, NO_SET_UP, OTEL_LOGS_EXPORTER=both, **supabase(stack, audit_table))
    check(ran, audit_table.rows())
    check(ran, sqlite_rows(tmp_path / "pms_audit_log.db", audit_table.name))


def test_supabase_audit_without_settings_lets_the_application_run(
    tmp_path: Path, stack: Stack, audit_table: AuditTable
) -> None:
    """A later start delivers."""
    named = {"OTEL_LOGS_EXPORTER": "supabase_audit", "OTEL_AUDIT_TABLE": audit_table.name}
    ran = instrumented(tmp_path, NO_SET_UP, **named)
    assert "events are held in the outbox" in ran.log
    assert "SUPABASE_URL" in ran.log
    assert "SUPABASE_SERVICE_ROLE_KEY" in ran.log
    assert audit_table.count() == 0
    instrumented(tmp_path, SAYS_NOTHING, OTEL_LOGS_EXPORTER="supabase_audit", **supabase(stack, audit_table))
    check(ran, audit_table.rows())
    assert audit_table.count() == 2


def test_postgres_audit_without_settings_lets_the_application_run(
    tmp_path: Path, stack: Stack, audit_table: AuditTable
) -> None:
    """A later start delivers."""
    named = {"OTEL_LOGS_EXPORTER": "postgres_audit", "OTEL_AUDIT_TABLE": audit_table.name}
    ran = instrumented(tmp_path, NO_SET_UP, **named)
    assert "events are held in the outbox" in ran.log
    assert "OTEL_AUDIT_POSTGRES_DSN" in ran.log
    instrumented(tmp_path, SAYS_NOTHING, OTEL_AUDIT_POSTGRES_DSN=stack.dsn(), **named)
    check(ran, audit_table.rows())
    assert audit_table.count() == 2
