"""Nothing that goes wrong with one event, one file or one call keeps the others from being delivered."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from otel_audit_exporter import AuditPipeline, OutboxError, audit_event, configure_audit
from otel_audit_exporter.delivery.channel import Lane
from otel_audit_exporter.event.encoded_event import decode
from otel_audit_exporter.outbox.store import OutboxFile
from otel_audit_exporter.testing import FaultySink
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.rows import sqlite_rows

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
        audit_event(**arguments(new_values={"text": "x" * 3000}))
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


def lane_of(pipeline: AuditPipeline) -> Lane:
    return pipeline.exporters[0].lane


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


class TestAFileTakenOver:
    @pytest.fixture
    def left(self, left: Path) -> Path:
        with closing(sqlite3.connect(left)) as connection:
            body, *_ = connection.execute("SELECT body FROM event").fetchone()
        said = decode(body)["record_id"].encode()
        put_into(left, *[body.replace(said, str(uuid4()).encode()) for _ in range(3000)])
        return left

    def test_that_is_damaged_in_use_keeps_nobody_up_and_is_told_of(
        self, tmp_path: Path, left: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "away").rmdir()
        pipeline = again(tmp_path)
        assert pipeline.stats().recovered == 3001
        with left.open("r+b") as file:
            file.write(b"\xff" * left.stat().st_size)
        (tmp_path / "away").mkdir()
        audit_event(**arguments())
        wait_until(lambda: pipeline.stats().pending == 0, "what can be read is settled")
        assert_balanced(pipeline)
        assert pipeline.stats().succeeded >= 1
        assert "left alone for now" in caplog.text
        audit_event(**arguments()).result(30)
        assert pipeline.force_flush()

    def test_that_fails_for_a_while_is_taken_over_again(self, tmp_path: Path, left: Path) -> None:
        (tmp_path / "away").rmdir()
        pipeline = again(tmp_path)
        lane = lane_of(pipeline)
        (adopted,) = [store for store in lane.stores if store is not lane.own]
        assert isinstance(adopted, OutboxFile)
        adopted._connection.close()
        audit_event(**arguments())
        wait_until(lambda: pipeline.stats().pending == 1, "the file is given back")
        assert_balanced(pipeline)
        assert not pipeline.force_flush(0)
        (tmp_path / "away").mkdir()
        wait_until(lambda: lane.adopt_orphans() == 3001, "all that is left in it is taken over again")
        assert pipeline.force_flush(60_000)
        assert len(sqlite_rows(tmp_path / "away" / "rows.db")) == 3002
        assert_balanced(pipeline)

    def test_whose_lock_cannot_be_opened_keeps_nobody_from_starting_or_from_the_other_files(
        self, tmp_path: Path, left: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("0-a", "z-z"):
            (left.parent / f"{name}.outbox").touch()
            (left.parent / f"{name}.outbox.lock").mkdir()
        pipeline = again(tmp_path)
        assert pipeline.stats().recovered == 3001
        assert "is left alone" in caplog.text


def test_a_look_that_fails_once_leaves_its_events_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = again(tmp_path)
    failures = [OutboxError("a disk error"), OutboxError("a disk error")]
    count_between = OutboxFile.count_between

    def failing(store: OutboxFile, first: int, last: int) -> int:
        if failures:
            raise failures.pop()
        return count_between(store, first, last)

    (tmp_path / "away").mkdir()
    monkeypatch.setattr(OutboxFile, "count_between", failing)
    audit_event(**arguments())
    wait_until(lambda: pipeline.stats().pending == 0, "the event is stored")
    assert failures == []


def one_more_passes_and_all_is_settled(pipeline: AuditPipeline) -> bool:
    audit_event(**arguments())
    return pipeline.force_flush(1000)


@pytest.mark.parametrize("damage", ["header", "middle"])
def test_damaged_dead_letters_are_set_aside_and_the_next_bad_row_is_parked(
    outbox_dir: str, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    pipeline = configure_audit("sqlite", path="t.db", schedule_delay_millis=10)
    lane = lane_of(pipeline)
    sink = FaultySink(lane.sink)
    sink.refuse_rows(lambda row: row["action"] == "bad")
    lane.sink = sink
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


def test_a_folder_s_lock_that_cannot_be_opened_is_told_of_and_stops_nobody(
    tmp_path: Path, left: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = left.parent / "folder.lock"
    lock.unlink()
    lock.mkdir()
    pipeline = again(tmp_path)
    audit_event(**arguments()).result(60)
    assert caplog.text.count("folder.lock cannot be used") == 1
    assert pipeline.shutdown()
    lock.rmdir()
    assert again(tmp_path).stats().recovered == 1


@contextmanager
def a_stopped_process_that_holds(lock: Path) -> Iterator[None]:
    program = (
        "import sys\n"
        "from otel_audit_exporter.outbox.file_lock import FileLock\n"
        f"print(FileLock({os.fspath(lock)!r}).acquire(), flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield
        process.kill()


def test_a_process_that_stands_still_while_it_holds_the_folder_stops_no_other(tmp_path: Path, left: Path) -> None:
    with a_stopped_process_that_holds(left.parent / "folder.lock"):
        pipeline = in_a_thread(lambda: again(tmp_path))
        audit_event(**arguments()).result(60)
        assert in_a_thread(lambda: lane_of(pipeline).adopt_orphans()) == 0
        assert in_a_thread(lambda: pipeline.shutdown(600_000))
    assert again(tmp_path).force_flush()
    assert len(sqlite_rows(tmp_path / "away" / "rows.db")) == 2


def test_the_quota_stays_below_what_the_disk_can_spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = again(tmp_path)
    lane = lane_of(pipeline)
    _, most = lane.own.room_bytes()
    assert lane.folder is not None
    monkeypatch.setattr(type(lane.folder), "affordable_bytes", lambda folder: 2**22)
    lane.limit_outbox()
    assert lane.own.room_bytes()[1] < min(most, 2**22 + 2**20)
