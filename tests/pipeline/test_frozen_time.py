"""Applications' tests that freeze time: waits go on, and what is recorded follows the frozen clock."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from freezegun import freeze_time

from otel_audit_exporter import AuditDeliveryError, audit_event, configure_audit, flush_audit, shutdown_audit
from tests.support.events import arguments
from tests.support.rows import sqlite_rows
from tests.support.running import run_python

LONG_AGO = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_waits_end_while_time_is_frozen_and_the_sink_is_away(tmp_path: Path, bare_environment: None) -> None:
    configure_audit("sqlite", path=str(tmp_path / "missing" / "audit.db"), export_timeout_millis=500)
    with freeze_time(LONG_AGO):
        receipt = audit_event(**arguments())
        with pytest.raises(AuditDeliveryError):
            receipt.result(0.5)
        assert not flush_audit(500)
        assert not shutdown_audit(500)


def test_created_at_follows_the_frozen_clock_and_the_row_lands(tmp_path: Path, bare_environment: None) -> None:
    configure_audit("sqlite", path=str(tmp_path / "audit.db"))
    with freeze_time(LONG_AGO):
        audit_event(**arguments()).result(30)
        assert flush_audit(30_000)
    [row] = sqlite_rows(tmp_path / "audit.db")
    assert row["created_at"] == LONG_AGO


def test_a_first_import_while_time_is_frozen_keeps_the_real_clocks(tmp_path: Path) -> None:
    program = f"""
from freezegun import freeze_time
with freeze_time("2001-02-03"):
    import otel_audit_exporter as audit
    audit.configure_audit("sqlite", path={str(tmp_path / "missing" / "audit.db")!r}, outbox_dir={str(tmp_path)!r})
    print(audit.flush_audit(300))
    audit.audit_event("x", entity_type="t", entity_id="{"0" * 8}-0000-0000-0000-000000000000",
                      yacht_id="{"0" * 8}-0000-0000-0000-000000000000", user_id="{"0" * 8}-0000-0000-0000-000000000000")
    print(audit.flush_audit(300))
    print(audit.shutdown_audit(300))
"""
    assert run_python(program).split() == ["True", "False", "False"]
