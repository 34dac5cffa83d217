"""The other ways in: exporters of the SDK's, a provider of one's own, jobs, one's own transaction, and reading."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from psycopg.sql import SQL, Identifier

from otel_audit_exporter import (
    AuditConfigurationError,
    SQLiteAuditExporter,
    attach_audit,
    audit_context,
    audit_event,
    configure_audit,
    read_events,
    shutdown_audit,
    write_audit_event,
)
from otel_audit_exporter.integrations.context_propagation import RemoteContext, serialize_context
from otel_audit_exporter.testing import AuditLog
from tests.stack import AuditTable, Stack
from tests.support.events import arguments
from tests.trails.tables import LEDGER, actions


def attributes(action: str, **more: str) -> dict[str, Any]:
    said = arguments(action=action)
    return {
        "audit.action": action,
        "audit.tenant.id": said["yacht_id"],
        "audit.target.type": said["entity_type"],
        "audit.target.id": said["entity_id"],
        "audit.actor.id": said["user_id"],
        **more,
    }


def configure_with_files(files: Path) -> None:
    def resolve(name: str) -> dict[str, str]:
        return {"path": str(files / f"{name}.db")}

    configure_audit("sqlite", path=str(files / "main.db"), trails=LEDGER, databases=resolve)


def test_an_exporter_of_the_sdk_s_takes_its_own_trail_only(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(files / "main.db")
    exporters = [
        SQLiteAuditExporter(path),
        SQLiteAuditExporter(path, table="ledger_events", trail="ledger"),
    ]
    provider = LoggerProvider(shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    emit = provider.get_logger("other code").emit
    emit(LogRecord(attributes=attributes("plain")))
    emit(LogRecord(attributes=attributes("booked", **{"audit.trail": "ledger"})))
    for _ in range(3):
        emit(LogRecord(attributes=attributes("lost", **{"audit.trail": "nobody"})))
    assert all(exporter.force_flush() for exporter in exporters)
    assert actions(files / "main.db") == ["plain"]
    assert actions(files / "main.db", "ledger_events") == ["booked"]
    assert exporters[0].channel.stats().rejected == 3
    assert caplog.text.count("no exporter takes records of nobody") == 1
    provider.shutdown()


def test_an_attached_pipeline_has_trails_and_its_records_name_them(files: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Watching(SimpleLogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            seen.append(dict(log_record.log_record.attributes))

    provider = LoggerProvider(shutdown_on_exit=False)
    databases = {"acme": {"path": str(files / "acme.db")}}
    attach_audit(provider, "sqlite", path=str(files / "main.db"), trails=LEDGER, databases=databases)
    provider.add_log_record_processor(Watching(SQLiteAuditExporter(str(files / "unused.db"))))
    audit_event(**arguments(action="booked", trail="ledger", database="acme"))
    audit_event(**arguments(action="plain"))
    provider.get_logger("other code").emit(LogRecord(attributes=attributes("other", **{"audit.trail": "ledger"})))
    assert shutdown_audit()
    assert (seen[0]["audit.trail"], seen[0]["audit.database"]) == ("ledger", "acme")
    assert "audit.trail" not in seen[1]
    assert actions(files / "acme.db", "ledger_events") == ["booked"]
    assert actions(files / "main.db", "ledger_events") == ["other"]
    provider.shutdown()


def test_trails_of_the_environment_are_there_for_a_configured_pipeline(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_AUDIT_TRAILS", "ledger")
    monkeypatch.setenv("OTEL_AUDIT_TRAIL_LEDGER_TABLE", "ledger_events")
    configure_audit("sqlite", path=str(files / "main.db"))
    audit_event(**arguments(action="booked", trail="ledger"))
    assert shutdown_audit()
    assert actions(files / "main.db", "ledger_events") == ["booked"]


def test_a_job_brings_both_names_along(files: Path) -> None:
    configure_audit(
        "sqlite", path=str(files / "main.db"), trails=LEDGER, databases=lambda n: {"path": f"{files}/{n}.db"}
    )
    with audit_context(trail="ledger", database="acme"):
        packed = serialize_context()
    with RemoteContext(packed):
        audit_event(**arguments(action="in_the_job"))
    assert shutdown_audit()
    assert actions(files / "acme.db", "ledger_events") == ["in_the_job"]


def test_a_row_in_the_callers_transaction_goes_to_its_trail(stack: Stack, audit_table: AuditTable) -> None:
    ledger = f"{audit_table.name}_ledger"
    name = Identifier("public", ledger)
    stack.sql(SQL("create table {} (id uuid primary key, what text, bill uuid)").format(name))
    columns = {"id": "record_id", "what": "action", "bill": "entity_id"}
    shape = {"table": ledger, "columns": columns, "unmapped": "drop"}
    configure_audit("postgres", dsn=stack.dsn(), table=audit_table.name, trails={"ledger": shape})
    with stack.postgres.connect() as connection, connection.transaction():
        record_id = write_audit_event(connection, **arguments(action="paid", trail="ledger"))
    rows = stack.sql(SQL("select id::text, what from {}").format(name))
    assert rows == [{"id": record_id, "what": "paid"}]
    assert audit_table.count() == 0
    stack.sql(SQL("drop table {}").format(name))


def test_events_are_read_from_the_destination_that_is_named(files: Path) -> None:
    configure_audit(
        "sqlite", path=str(files / "main.db"), trails=LEDGER, databases=lambda n: {"path": f"{files}/{n}.db"}
    )
    all_named: list[dict[str, Any]] = [{}, {"trail": "ledger"}, {"database": "acme"}]
    for named in [*all_named, {"trail": "ledger", "database": "acme"}]:
        audit_event(**arguments(action="at_" + "_".join(named.values()), **named)).result(30)
        assert [event.action for event in read_events(**named)] == ["at_" + "_".join(named.values())]
    with pytest.raises(AuditConfigurationError, match="no trail is called 'other'"):
        list(read_events("other"))


def test_the_fixture_takes_every_destination_and_says_which() -> None:
    with AuditLog() as audit_log:
        configure_audit("sqlite", trails=LEDGER, databases={"acme": {"path": "x.db"}})
        with audit_context(database="acme"):
            audit_event(**arguments(action="booked", trail="ledger"))
        audit_event(**arguments(action="plain"))
        audit_log.assert_recorded(action="booked", trail="ledger", database="acme")
        audit_log.assert_recorded(action="plain", trail=None, database=None)


def test_sqlite_is_unchanged_where_no_event_came(files: Path) -> None:
    configure_audit("sqlite", path=str(files / "main.db"), trails=LEDGER)
    assert shutdown_audit()
    with sqlite3.connect(files / "main.db") as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
