"""Nothing that goes wrong with one event, one file or one call keeps the others from being delivered."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from otel_audit_exporter import AuditPipeline, audit_event, configure_audit
from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.event.validation import EventValidator
from otel_audit_exporter.testing import FaultySink
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.logs import held_by_a_process, leave_log, logs_below, overwrite, segments_of
from tests.support.rows import sqlite_rows

UNREADABLE = [b"[]", b"[1,\n2]", b"[\xff,\n]", b'["\n"']


@pytest.fixture
def left(tmp_path: Path, outbox_dir: str) -> Path:
    """The log of a process that is gone, with one event in it."""
    away = tmp_path / "away" / "rows.db"
    with configure_audit("sqlite", path=os.fspath(away)) as pipeline:
        audit_event(**arguments(new_values={"text": "x" * 3000}))
        pipeline.shutdown(0)
        wait_until(lambda: channel_of(pipeline).sender.delivering == 0, "nobody looks for the folder any more")
    away.parent.mkdir()
    (log,) = logs_below(outbox_dir)
    return log


def again(tmp_path: Path) -> AuditPipeline:
    return configure_audit("sqlite", path=os.fspath(tmp_path / "away" / "rows.db"), schedule_delay_millis=10)


@pytest.mark.parametrize("body", UNREADABLE)
def test_what_cannot_be_read_is_parked_and_holds_nobody_up(tmp_path: Path, left: Path, body: bytes) -> None:
    leave_log(left.parent, [body])
    pipeline = again(tmp_path)
    assert pipeline.stats().recovered == 2
    audit_event(**arguments())
    wait_until(lambda: pipeline.stats().pending == 0, "everything is settled")
    assert len(sqlite_rows(tmp_path / "away" / "rows.db")) == 2
    (letter,) = pipeline.dead_letters()
    assert "no row" in letter.error
    assert letter.row is not None
    assert "record" in letter.row
    assert pipeline.dead_letters().retry() == 0
    exported = io.StringIO()
    assert pipeline.dead_letters().export(exported) == 1
    assert json.loads(exported.getvalue())["record_id"] == letter.record_id
    for path in (tmp_path / "letters.jsonl", os.fspath(tmp_path / "letters.jsonl")):
        assert pipeline.dead_letters().export(path) == 1
    assert (tmp_path / "letters.jsonl").read_text(encoding="utf-8") == exported.getvalue()
    assert (tmp_path / "letters.jsonl").stat().st_mode & 0o777 == 0o600


def channel_of(pipeline: AuditPipeline) -> DeliveryChannel:
    return pipeline.exporters[0].channel


def in_a_thread(call: Callable[[], Any]) -> Any:
    """Make a call that may not take long, although it was given all the time in the world."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(60)
    assert answers, "it does not return"
    return answers[0]


def assert_balanced(pipeline: AuditPipeline) -> None:
    stats = pipeline.stats()
    assert stats.submitted + stats.recovered == stats.succeeded + stats.failed + stats.pending


class TestALogTakenOver:
    @pytest.fixture
    def many(self, left: Path) -> Path:
        bodies = (event_bytes(str(uuid4())) for _ in range(3000))
        return leave_log(left.parent, bodies)

    def test_that_is_damaged_in_use_keeps_nobody_up_and_is_logged(
        self, tmp_path: Path, many: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "away").rmdir()
        pipeline = again(tmp_path)
        assert pipeline.stats().recovered == 3001
        for segment in segments_of(many)[1:]:
            overwrite(segment)
        (tmp_path / "away").mkdir()
        audit_event(**arguments())
        wait_until(lambda: pipeline.stats().pending == 0, "what can be read is delivered")
        assert_balanced(pipeline)
        stats = pipeline.stats()
        assert stats.succeeded == len(sqlite_rows(tmp_path / "away" / "rows.db")) > 1
        assert stats.failed == stats.lost > 0
        assert f"is damaged: {stats.lost} event(s) cannot be read" in caplog.text
        audit_event(**arguments()).result(30)
        assert pipeline.force_flush()

    def test_whose_lock_cannot_be_opened_keeps_nobody_from_the_others(self, tmp_path: Path, many: Path) -> None:
        for name in ("0-a", "z-z"):
            (many.parent / f"{name}.log" / "lock").mkdir(parents=True)
        pipeline = again(tmp_path)
        assert pipeline.stats().recovered == 3001

    def test_that_is_none_is_left_alone_and_logged(
        self, tmp_path: Path, many: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        stranger = many.parent / "0-a.log"
        stranger.mkdir()
        for name in ("lock", "log.json"):
            (stranger / name).touch()
        pipeline = again(tmp_path)
        assert pipeline.stats().recovered == 3001
        assert f"{stranger} is left alone" in caplog.text
        assert stranger.exists()


def event_bytes(record_id: str) -> bytes:
    encoded = EventValidator().compose(arguments(record_id=record_id))
    return encoded.body


def one_more_passes_and_all_is_settled(pipeline: AuditPipeline) -> bool:
    audit_event(**arguments())
    return pipeline.force_flush(1000)


@pytest.mark.parametrize("damage", ["header", "middle"])
def test_after_damaged_dead_letters_the_next_bad_row_is_parked(
    outbox_dir: str, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """The damaged file is set aside."""
    pipeline = configure_audit("sqlite", path="t.db", schedule_delay_millis=10)
    channel = channel_of(pipeline)
    sink = FaultySink(channel.sink)
    sink.refuse_rows(lambda row: row["action"] == "bad")
    channel.sink = sink
    for _ in range(40):
        audit_event(**arguments(action="bad", new_values={"text": "x" * 2000}))
    wait_until(lambda: one_more_passes_and_all_is_settled(pipeline), "every bad row is parked")
    (letters,) = Path(outbox_dir).rglob("dead-letters.db")
    with letters.open("r+b") as file:
        file.seek(0 if damage == "header" else letters.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096 * 4)
    bad = audit_event(**arguments(action="bad"))
    wait_until(lambda: one_more_passes_and_all_is_settled(pipeline), "the next one is parked")
    assert bad.state == "parked"
    assert pipeline.dead_letters().get(bad.record_id) is not None
    if damage == "header":
        assert len(pipeline.dead_letters()) == 1
        assert "dead letters damaged: 0 saved" in caplog.text
        assert len(list(letters.parent.glob("dead-letters.db.damaged-*"))) == 1


def test_a_stopped_process_that_holds_a_log_blocks_no_other(tmp_path: Path, left: Path) -> None:
    with held_by_a_process(left / "lock"):
        pipeline = in_a_thread(lambda: again(tmp_path))
        audit_event(**arguments()).result(60)
        assert in_a_thread(lambda: channel_of(pipeline).adopt_orphans()) == 0
        assert in_a_thread(lambda: pipeline.shutdown(600_000))
    assert again(tmp_path).force_flush()
    assert len(sqlite_rows(tmp_path / "away" / "rows.db")) == 2


def test_the_quota_stays_below_what_the_disk_can_spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = channel_of(again(tmp_path))
    logs = channel.logs
    most = logs.quota.max_bytes
    assert logs.directory is not None
    monkeypatch.setattr(type(logs.directory), "affordable_bytes", lambda folder: 2**22)
    channel_of(
        configure_audit("sqlite", path=os.fspath(tmp_path / "away" / "rows.db"), schedule_delay_millis=10)
    ).limit_outbox()
    assert logs.quota.max_bytes < min(most, 2**22 + 2**20)
