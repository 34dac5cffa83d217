"""`otel-audit demo`: it shows what it says."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from otel_audit_exporter.cli import demo
from otel_audit_exporter.config.settings import load_settings
from tests.cli.conftest import Workspace


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DELAY_SECONDS", 0.001)
    # A busy machine may be slow, and that is no word of the command's.
    monkeypatch.setattr(demo, "load_settings", lambda places: load_settings({**places, "slow_write_seconds": 0}))


def test_it_leaves_the_rows_of_every_handler_in_the_file(workspace: Workspace) -> None:
    done = workspace.run("demo", "--dir", "here")
    assert (done.code, done.err) == (0, "")
    rows = workspace.rows(workspace.directory / "here" / "pms_audit_log.db")
    actions = [row["action"] for row in rows]
    assert len(rows) == 9 + 2 * demo.WRITES
    assert actions.count("count_stock") == 2 * demo.WRITES
    assert {"create_receiving", "approve_purchase", "update_part_stock", "attach_document"} < set(actions)


def test_it_shows_costs_rows_and_stats_without_colours_in_a_pipe(workspace: Workspace) -> None:
    """It also says where to go next."""
    out = workspace.run("demo").out
    for part in ("insert, and wait for it", "audit_event()", "stock: 2 -> 14", "status: draft -> approved"):
        assert part in out
    for part in ("upload_token: [REDACTED]", "failure, 18250.00 is more than 5000.00", "success_rate", "README.md"):
        assert part in out
    assert "ut_5f1c88d2e4" not in out
    assert "\x1b" not in out


def test_a_refused_approval_is_recorded_as_a_failure(workspace: Workspace) -> None:
    workspace.run("demo", "--dir", "here")
    rows = workspace.rows(workspace.directory / "here" / "pms_audit_log.db")
    approvals = [orjson.loads(row["new_values"]) for row in rows if row["action"] == "approve_purchase"]
    assert approvals[0] == {"status": "approved"}
    assert approvals[1]["_audit"]["outcome"] == "failure"


def test_it_stays_in_one_directory_that_git_ignores(workspace: Workspace) -> None:
    workspace.run("demo")
    assert [path.name for path in workspace.directory.iterdir()] == ["otel-audit-demo"]
    assert (workspace.directory / "otel-audit-demo" / ".gitignore").read_text() == "*\n"


def test_it_can_be_run_again_beside_its_earlier_rows(workspace: Workspace) -> None:
    outs = [workspace.run("demo").out for _ in range(2)]
    assert "holds 29 rows" in outs[0]
    assert "holds 58 rows" in outs[1]
    assert outs[0].count("create_part") == outs[1].count("create_part") == 2


def test_the_environments_settings_are_left_aside_and_stay_as_they_are(
    workspace: Workspace, environment: Callable[[str, object], None]
) -> None:
    settings = {
        "OTEL_AUDIT_EXPORTER": "supabase",
        "OTEL_AUDIT_TABLE": "other",
        "OTEL_AUDIT_COLUMNS": "key=record_id",
        "OTEL_AUDIT_MODE": "nonsense",
        "OTEL_SDK_DISABLED": "true",
    }
    for name, value in settings.items():
        environment(name, value)
    assert workspace.run("demo").code == 0
    assert {name: os.environ[name] for name in settings} == settings
    assert not Path("audit.db").exists()
    with closing(sqlite3.connect("otel-audit-demo/pms_audit_log.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [
            ("pms_audit_log",)
        ]
