"""What a process that is gone has left for a trail or a database is delivered, or told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter import audit_event, configure_audit, shutdown_audit
from otel_audit_exporter.delivery.log_set import ADOPTED_AT_ONCE
from otel_audit_exporter.outbox.directory import LOCK_NAME
from otel_audit_exporter.outbox.inspection import read_log_status
from otel_audit_exporter.pipeline.current import get_audit_pipeline
from otel_audit_exporter.pipeline.orphans import OPENED_AT_ONCE, Orphanage
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.logs import held_by_a_process, leave_log, logs_below
from tests.support.rows import sqlite_rows
from tests.trails.tables import LEDGER


@pytest.fixture
def outbox() -> Path:
    """Give the outbox directory."""
    return Path(os.environ["OTEL_AUDIT_OUTBOX_DIR"])


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


@pytest.mark.usefixtures("no_usual_look")
@pytest.mark.parametrize("named", [{}, {"trail": "ledger"}, {"database": "acme"}], ids=str)
def test_a_log_held_at_the_first_look_is_delivered_once_free(files: Path, outbox: Path, named: dict[str, str]) -> None:
    main = files / "main.db"
    main.mkdir()  # nothing can be delivered there
    leave_events(files, **named)
    main.rmdir()
    (log,) = (path for path in logs_below(outbox) if (status := read_log_status(path)) and status.events)
    with held_by_a_process(log / LOCK_NAME):
        configure_audit(
            "sqlite", path=str(main), trails=LEDGER, databases=lambda name: {"path": str(files / f"{name}.db")}
        )
        looked = get_audit_pipeline().primary.channel.logs if not named else get_audit_pipeline()._orphanage
        wait_until(lambda: has_noted(looked, log), "the log was looked at, and was held")
    file = files / f"{named.get('database', 'main')}.db"
    table = "ledger_events" if "trail" in named else "pms_audit_log"
    wait_until(lambda: len(sqlite_rows(file, table)) == 1, "the event is delivered", 60)


def has_noted(looked: Any, log: Path) -> bool:
    notes = [looked._held] if isinstance(looked, Orphanage) else [one.held_elsewhere for one in looked._directories]
    return any(log in one._pauses for one in notes)


@pytest.mark.usefixtures("no_usual_look")
def test_many_logs_and_databases_are_delivered_without_a_pause(files: Path, outbox: Path) -> None:
    names = [f"tenant{number}" for number in range(3 * OPENED_AT_ONCE // 2)]
    configure_audit("sqlite", path=str(files / "main.db"), databases=lambda name: None)
    for name in names:
        audit_event(**arguments(action=name, database=name))
    rules = get_audit_pipeline().primary.rules
    bodies = [rules.compose(arguments(action="tenant0")).body for _ in range(2 * ADOPTED_AT_ONCE)]
    assert not shutdown_audit(0)
    (first,) = (log for log in logs_below(outbox) if "tenant0-" in log.parent.name)
    for body in bodies:
        leave_log(first.parent, [body])
    configure_audit("sqlite", path=str(files / "main.db"), databases=lambda name: {"path": str(files / f"{name}.db")})
    wait_until(lambda: all(sqlite_rows(files / f"{name}.db") for name in names), "all databases have theirs", 120)
    many = 1 + 2 * ADOPTED_AT_ONCE
    wait_until(lambda: len(sqlite_rows(files / "tenant0.db")) == many, "all logs of one are delivered", 120)


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
