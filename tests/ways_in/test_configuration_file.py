"""OpenTelemetry's declarative configuration file: the exporter is named in it, with its settings."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from textwrap import dedent

from tests.stack import AuditTable, Stack
from tests.support.rows import sqlite_rows
from tests.ways_in.programs import NO_SET_UP, SAYS_NOTHING, check, instrumented

SUPABASE = """
    file_format: "1.0"
    resource:
      attributes:
        - {name: service.name, value: shop}
    logger_provider:
      processors:
        - batch:
            schedule_delay: 100
            exporter:
              supabase_audit:
                url: "${PROJECT_URL}"
                key: "${PROJECT_KEY}"
                token: "${PROJECT_TOKEN}"
                table: "${TABLE:-pms_audit_log}"
"""
POSTGRES = """
    file_format: "1.0"
    logger_provider:
      processors:
        - batch:
            exporter:
              postgres_audit:
                dsn: ${PROJECT_DSN}
                table: ${TABLE}
"""
SQLITE = """
    file_format: "1.0"
    logger_provider:
      processors:
        - simple:
            exporter:
              sqlite_audit:
                path: rows.db
                outbox_max_bytes: 64MiB
                redact_keys: [by]
                columns: {key: record_id, what: action, after: new_values}
"""


def configured(folder: Path, text: str) -> dict[str, str]:
    """Write the file, and return the variable that names it."""
    (folder / "otel.yaml").write_text(dedent(text))
    return {"OTEL_CONFIG_FILE": str(folder / "otel.yaml")}


def test_supabase_audit_lands_audit_events_and_plain_log_records(
    tmp_path: Path, stack: Stack, audit_table: AuditTable
) -> None:
    there = {"PROJECT_URL": stack.url, "PROJECT_KEY": stack.service_key, "TABLE": audit_table.name}
    ran = instrumented(tmp_path, NO_SET_UP, **configured(tmp_path, SUPABASE), **there)
    check(ran, audit_table.rows())
    assert audit_table.count() == 2


def test_postgres_audit_lands_audit_events_and_plain_log_records(
    tmp_path: Path, stack: Stack, audit_table: AuditTable
) -> None:
    there = {"PROJECT_DSN": stack.dsn(), "TABLE": audit_table.name}
    ran = instrumented(tmp_path, NO_SET_UP, **configured(tmp_path, POSTGRES), **there)
    check(ran, audit_table.rows())
    assert audit_table.count() == 2


def test_sqlite_audit_takes_lists_and_maps_from_the_file(tmp_path: Path) -> None:
    instrumented(tmp_path, NO_SET_UP, **configured(tmp_path, SQLITE))
    with closing(sqlite3.connect(tmp_path / "rows.db")) as connection:
        rows = connection.execute("SELECT what, after FROM pms_audit_log").fetchall()
    assert len(rows) == 2
    assert all(what == "order_part" and '"by":"[REDACTED]"' in after for what, after in rows)


def test_a_setting_of_the_file_goes_before_the_environment_s(tmp_path: Path) -> None:
    text = SQLITE[: SQLITE.index("outbox_max_bytes")]
    instrumented(tmp_path, NO_SET_UP, **configured(tmp_path, text), OTEL_AUDIT_SQLITE_PATH="other.db")
    assert len(sqlite_rows(tmp_path / "rows.db")) == 2
    assert not (tmp_path / "other.db").exists()


def test_unset_variables_hold_the_events_for_a_later_start(
    tmp_path: Path, stack: Stack, audit_table: AuditTable
) -> None:
    file = configured(tmp_path, SUPABASE)
    ran = instrumented(tmp_path, NO_SET_UP, **file, TABLE=audit_table.name)
    assert "events are held in the outbox" in ran.log
    assert "the project's address" in ran.log
    there = {"PROJECT_URL": stack.url, "PROJECT_KEY": stack.service_key, "TABLE": audit_table.name}
    instrumented(tmp_path, SAYS_NOTHING, **file, **there)
    check(ran, audit_table.rows())
    assert audit_table.count() == 2


def test_a_setting_that_there_is_not_is_named_in_the_log(tmp_path: Path) -> None:
    text = SQLITE.replace("redact_keys", "redacted_keys")
    ran = instrumented(tmp_path, SAYS_NOTHING, **configured(tmp_path, text))
    assert "redacted_keys: there is no such setting" in ran.log
    assert ran.out == "started\n"
