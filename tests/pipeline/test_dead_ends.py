"""Nothing that goes wrong with one event, one file or one call keeps the others from being delivered."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from otel_audit_exporter import AuditPipeline, audit_event, configure_audit
from tests.pipeline.said import arguments, sqlite_rows
from tests.stack.waiting import wait_until

UNREADABLE = [b"[]", b"[1,\n2]", b"[\xff,\n]", b'["\n"']


def outbox_file(outbox_dir: str) -> Path:
    (path,) = Path(outbox_dir).rglob("*.outbox")
    return path


def put_into(path: Path, *bodies: bytes) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for body in bodies:
            connection.execute("INSERT INTO event (accepted_at, body) VALUES (0, ?)", (body,))


@pytest.fixture
def left(tmp_path: Path, outbox_dir: str) -> Path:
    """The outbox file of a process that is gone, with one event in it."""
    away = tmp_path / "away" / "rows.db"
    with configure_audit("sqlite", path=os.fspath(away)) as pipeline:
        audit_event(**arguments())
        pipeline.shutdown(0)
    away.parent.mkdir()
    return outbox_file(outbox_dir)


def again(tmp_path: Path) -> AuditPipeline:
    return configure_audit("sqlite", path=os.fspath(tmp_path / "away" / "rows.db"), schedule_delay_millis=10)


@pytest.mark.parametrize("body", UNREADABLE)
def test_what_cannot_be_read_is_parked_and_holds_nobody_up(tmp_path: Path, left: Path, body: bytes) -> None:
    put_into(left, body)
    pipeline = again(tmp_path)
    assert pipeline.stats().recovered == 2
    audit_event(**arguments())
    wait_until(lambda: pipeline.stats().pending == 0, "everything is settled")
    assert len(sqlite_rows(tmp_path / "away" / "rows.db")) == 2
    (letter,) = pipeline.dead_letters()
    assert "no row" in letter.error
    assert "record" in letter.row
    assert pipeline.dead_letters().retry() == 0
    exported = io.StringIO()
    assert pipeline.dead_letters().export(exported) == 1
    assert json.loads(exported.getvalue())["record_id"] == letter.record_id
