"""A response waits for its events in whatever trail and database they belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otel_audit_exporter import audit_event, configure_audit, get_audit_stats
from otel_audit_exporter.integrations.aws_lambda import audit_lambda
from tests.support.events import arguments
from tests.support.rows import sqlite_rows

WHERE: tuple[dict[str, Any], ...] = (
    {},
    {"trail": "ledger"},
    {"database": "acme"},
    {"trail": "ledger", "database": "acme"},
)


@audit_lambda
def touch_everywhere(event: Any, context: Any) -> None:
    for route in WHERE:
        audit_event(**arguments(), **route)


def test_a_response_waits_for_events_of_every_trail_and_database(tmp_path: Path) -> None:
    configure_audit(
        "sqlite",
        path=str(tmp_path / "main.db"),
        trails={"ledger": {"table": "ledger_events"}},
        databases=lambda name: {"path": str(tmp_path / f"{name}.db")},
        profile="ephemeral",
        past_deadline="raise",
        response_deadline_millis=60_000,
        schedule_delay_millis=60_000,
    )
    touch_everywhere({}, None)
    places = [(file, table) for file in ("main.db", "acme.db") for table in ("pms_audit_log", "ledger_events")]
    assert [len(sqlite_rows(tmp_path / file, table)) for file, table in places] == [1, 1, 1, 1]
    assert get_audit_stats().late == 0
