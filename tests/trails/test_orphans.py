"""What a process that is gone has left for a trail or a database is delivered, or told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otel_audit_exporter import audit_event, configure_audit, shutdown_audit
from otel_audit_exporter.pipeline.configure import get_audit_pipeline
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.rows import sqlite_rows
from tests.trails.tables import LEDGER


def leave_events(files: Path, **named: Any) -> None:
    """Have an event accepted that nobody can deliver yet, by a pipeline that goes."""
    configure_audit("sqlite", path=str(files / "main.db"), trails=LEDGER, databases=lambda name: None)
    audit_event(**arguments(action="left", **named))
    assert not shutdown_audit(0)


def test_they_are_delivered_where_the_name_can_be_resolved(files: Path) -> None:
    leave_events(files, trail="ledger", database="acme")
    acme = {"path": str(files / "acme.db")}
    configure_audit("sqlite", path=str(files / "main.db"), trails=LEDGER, databases={"acme": acme})
    wait_until(lambda: len(sqlite_rows(files / "acme.db", "ledger_events")) == 1, "the event is delivered", 30)
    assert get_audit_pipeline().stats().databases["acme"].recovered == 1


def test_those_of_a_database_that_nobody_knows_are_a_warning(files: Path) -> None:
    leave_events(files, database="acme")
    configure_audit("sqlite", path=str(files / "main.db"), trails=LEDGER, databases={"other": {"path": "x.db"}})
    wait_until(lambda: get_audit_pipeline().health().level == "warning", "the health warns", 30)
    (reason,) = get_audit_pipeline().health().reasons
    assert reason.startswith("1 event waits for database acme, the oldest for ")
    assert "nobody here knows it" in reason
    assert "otel-audit outbox drain --database acme" in reason


def test_a_trails_orphaned_events_are_delivered_without_a_new_one(files: Path) -> None:
    path = str(files / "main.db")
    blocked = files / "blocked"
    blocked.mkdir()
    configure_audit("sqlite", path=path, trails={"ledger": {"table": "ledger_events", "path": str(blocked)}})
    audit_event(**arguments(action="left", trail="ledger"))
    assert not shutdown_audit(0)
    blocked.rmdir()
    configure_audit("sqlite", path=path, trails={"ledger": {"table": "ledger_events", "path": str(blocked)}})
    wait_until(lambda: len(sqlite_rows(blocked, "ledger_events")) == 1, "the event is delivered", 30)
