"""The outbox directory: who holds which file, and who takes over what is left."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.outbox.directory import Destination, LockedOutbox, OutboxDirectory, orphans_elsewhere
from otel_audit_exporter.outbox.file_lock import FileLock
from tests.support.damage import damage
from tests.support.running import run_in_child

DESTINATION = Destination("supabase", "https://a.example", "public", "pms_audit_log")


def nothing() -> None:
    """Follow an append with nothing."""


@pytest.fixture
def folder(tmp_path: Path) -> OutboxDirectory:
    return OutboxDirectory(tmp_path / "root", DESTINATION)


@pytest.fixture
def create(folder: OutboxDirectory) -> Iterator[Callable[..., LockedOutbox]]:
    made: list[LockedOutbox] = []

    def make(*events: bytes) -> LockedOutbox:
        held = folder.create(durable=False, max_bytes=2**20)
        for event in events:
            held.store.append(event, nothing)
        made.append(held)
        return held

    yield make
    for held in made:
        if not held.store.closed:
            folder.release(held)


def adopt(folder: OutboxDirectory) -> list[LockedOutbox]:
    return folder.adopt(durable=False, max_bytes=2**20)


def outboxes(folder: OutboxDirectory) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir() if "outbox" in path.name)


@contextmanager
def another_process(folder: OutboxDirectory, *, events: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds an outbox file of the folder with that many events in it."""
    program = (
        "import sys\n"
        "from otel_audit_exporter.outbox.directory import Destination, OutboxDirectory\n"
        f"folder = OutboxDirectory({os.fspath(folder.root)!r}, {folder.destination!r})\n"
        "held = folder.create(durable=False, max_bytes=2**20)\n"
        f"for number in range({events}):\n"
        "    held.store.append(b'[%d]' % number, lambda: None)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    with process, process.stdout, process.stdin:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


class TestCreate:
    def test_the_first_file_makes_the_folder_and_says_whose_it_is(
        self, folder: OutboxDirectory, create: Callable[..., LockedOutbox]
    ) -> None:
        create()
        description = json.loads((folder.path / "destination.json").read_text())
        assert Destination(**description) == DESTINATION
        assert folder.path.stat().st_mode & 0o077 == 0

    def test_a_new_file_is_proved_by_a_commit_and_empty(self, create: Callable[..., LockedOutbox]) -> None:
        held = create()
        assert held.store.count() == 0
        assert held.store.last_seq == 1

    def test_every_process_and_pipeline_has_a_file_of_its_own(self, create: Callable[..., LockedOutbox]) -> None:
        assert create().path != create().path

    def test_a_directory_that_cannot_be_used_names_both_remedies(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(AuditConfigurationError) as caught:
            OutboxDirectory(tmp_path / "file", DESTINATION).create(durable=False, max_bytes=2**20)
        assert "OTEL_AUDIT_OUTBOX_DIR" in str(caught.value)
        assert "OTEL_AUDIT_OUTBOX=memory" in str(caught.value)
        assert os.fspath(tmp_path / "file") in str(caught.value)

    def test_an_emptied_file_is_removed_with_its_lock(
        self, folder: OutboxDirectory, create: Callable[..., LockedOutbox]
    ) -> None:
        held = create(b"[1]")
        held.store.settle([2])
        folder.release(held)
        assert outboxes(folder) == []

    def test_whoever_looks_while_an_emptied_file_is_removed_never_finds_what_was_in_it(
        self, folder: OutboxDirectory, create: Callable[..., LockedOutbox], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = create(b"[1]")
        held.store.checkpoint()
        waits: list[bool] = []
        remove = os.unlink

        def look_after_removing(path: str) -> None:
            remove(path)
            waits.append(held.store.still_waits(2))

        with closing(sqlite3.connect(held.path)) as reader:  # while it is open, the log stays a file of its own
            assert reader.execute("SELECT count(*) FROM event").fetchone() == (1,)
            held.store.settle([2])
            monkeypatch.setattr(os, "unlink", look_after_removing)
            folder.release(held)
        assert waits
        assert not any(waits)
        assert outboxes(folder) == []

    def test_what_a_process_left_that_died_while_it_removed_its_file_is_removed(
        self, folder: OutboxDirectory, create: Callable[..., LockedOutbox]
    ) -> None:
        held = create(b"[1]")
        folder.release(held)
        held.path.unlink()
        for suffix in ("-wal", "-shm", "-ballast", ".lock"):
            Path(f"{held.path}{suffix}").touch()
        assert adopt(folder) == []
        assert outboxes(folder) == []

    def test_a_file_with_events_stays(self, folder: OutboxDirectory, create: Callable[..., LockedOutbox]) -> None:
        held = create(b"[1]")
        folder.release(held)
        assert held.path.exists()
        assert folder.count_orphaned() == 1


class TestAdoption:
    def test_a_file_that_nobody_holds_is_taken_over_with_its_events(
        self, folder: OutboxDirectory, create: Callable[..., LockedOutbox]
    ) -> None:
        folder.release(create(b"[1]", b"[2]"))
        (adopted,) = adopt(folder)
        assert [body for _, body in adopted.store.read(0, None, 10, 2**20)] == [b"[1]", b"[2]"]
        adopted.store.settle([2, 3])
        folder.release(adopted)
        assert outboxes(folder) == []

    def test_a_file_is_taken_over_once(self, folder: OutboxDirectory, create: Callable[..., LockedOutbox]) -> None:
        folder.release(create(b"[1]"))
        (adopted,) = adopt(folder)
        assert adopt(folder) == []
        folder.release(adopted)

    def test_one_s_own_file_is_not_taken_over(
        self, folder: OutboxDirectory, create: Callable[..., LockedOutbox]
    ) -> None:
        create(b"[1]")
        assert adopt(folder) == []
        assert folder.count_orphaned() == 0

    def test_a_live_process_keeps_its_file_and_a_dead_one_s_is_taken_over(self, folder: OutboxDirectory) -> None:
        with another_process(folder, events=3):
            assert adopt(folder) == []
            assert folder.count_orphaned() == 0
        assert folder.count_orphaned() == 3
        (adopted,) = adopt(folder)
        assert adopted.store.count() == 3
        folder.release(adopted)

    def test_two_processes_do_not_take_over_the_same_file(
        self, folder: OutboxDirectory, create: Callable[..., LockedOutbox]
    ) -> None:
        folder.release(create(b"[1]"))
        (mine,) = adopt(folder)
        program = (
            "from otel_audit_exporter.outbox.directory import Destination, OutboxDirectory\n"
            f"folder = OutboxDirectory({os.fspath(folder.root)!r}, {folder.destination!r})\n"
            "print(len(folder.adopt(durable=False, max_bytes=2**20)))"
        )
        command = [sys.executable, "-c", program]
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "0\n"
        folder.release(mine)
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "1\n"

    def test_an_empty_orphan_is_removed(self, folder: OutboxDirectory) -> None:
        with another_process(folder, events=0):
            assert len(outboxes(folder)) >= 2
        assert adopt(folder) == []
        assert outboxes(folder) == []

    def test_a_folder_that_is_not_there_has_no_orphans(self, folder: OutboxDirectory) -> None:
        assert adopt(folder) == []
        assert not folder.path.exists()

    def test_a_damaged_orphan_is_set_aside_and_what_can_be_read_is_taken_over(
        self, folder: OutboxDirectory, create: Callable[..., LockedOutbox], caplog: pytest.LogCaptureFixture
    ) -> None:
        held = create(*(b"[%d,%s]" % (number, b"1" * 500) for number in range(200)))
        folder.release(held)
        with held.path.open("r+b") as file:
            file.seek(held.path.stat().st_size // 2)
            file.write(b"\xff" * 4096)
        (adopted,) = adopt(folder)
        assert 100 < adopted.store.count() < 200
        assert len([name for name in outboxes(folder) if ".damaged-" in name]) == 1
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        folder.release(adopted)

    def test_a_kill_in_the_middle_of_replacing_a_damaged_file_loses_nothing_that_could_be_read(
        self, folder: OutboxDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def be_killed() -> None:
            held = folder.create(durable=False, max_bytes=2**20)
            for number in range(200):
                held.store.append(b"[%d,%s]" % (number, b"1" * 500), nothing)
            held.store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            damage(held.path, "spots")
            held.store._connection.execute("PRAGMA shrink_memory")
            monkeypatch.setattr("otel_audit_exporter.outbox.directory._set_aside", lambda path: os._exit(0))
            with folder.still(), held.store.lock:
                folder.replace(held, [], durable=False, max_bytes=2**20)

        assert run_in_child(be_killed)
        adopted = adopt(folder)
        saved = [{body for _, body in held.store.read(0, None, 1000, 2**20)} for held in adopted]
        assert len(saved) == 2
        assert saved[0] == saved[1]
        assert 100 < len(saved[0]) < 200
        for held in adopted:
            folder.release(held)

    def test_an_orphan_of_a_newer_format_is_left_alone_and_said_once(
        self, folder: OutboxDirectory, create: Callable[..., LockedOutbox], caplog: pytest.LogCaptureFixture
    ) -> None:
        held = create(b"[1]")
        held.store._connection.execute("PRAGMA user_version = 99")
        folder.release(held)
        assert adopt(folder) == []
        assert adopt(folder) == []
        assert held.path.exists()
        assert len(caplog.records) == 1
        assert "newer version" in caplog.text


class TestDestinations:
    def test_every_part_tells_destinations_apart(self) -> None:
        names = {
            Destination(*parts).folder_name
            for parts in [
                ("supabase", "https://a.example", "public", "t"),
                ("postgres", "https://a.example", "public", "t"),
                ("supabase", "https://b.example", "public", "t"),
                ("supabase", "https://a.example", "audit", "t"),
                ("supabase", "https://a.example", "public", "u"),
                ("supabase", "", "public", "t"),
            ]
        }
        assert len(names) == 6

    def test_a_folder_s_name_is_readable_and_safe_whatever_the_place(self) -> None:
        name = Destination("sqlite", "/var/ü/../" + "x" * 500, "public", "t\0/..").folder_name
        assert name.startswith("sqlite-var-")
        assert len(name) < 100
        assert "/" not in name
        assert name.isascii()

    def test_other_destinations_orphans_are_counted_and_left_alone(
        self, folder: OutboxDirectory, create: Callable[..., LockedOutbox]
    ) -> None:
        folder.release(create(b"[1]", b"[2]"))
        other = OutboxDirectory(folder.root, Destination("sqlite", "/b", "public", "t"))
        assert orphans_elsewhere(other) == [(DESTINATION, 2)]
        assert adopt(other) == []
        assert orphans_elsewhere(folder) == []

    def test_what_is_no_folder_of_ours_is_passed_over(self, folder: OutboxDirectory) -> None:
        (folder.root / "x").mkdir(parents=True)
        (folder.root / "x" / "destination.json").write_text("{")
        (folder.root / "y").mkdir()
        (folder.root / "y" / "destination.json").write_text("[1]")
        assert orphans_elsewhere(folder) == []


class TestLocks:
    def test_a_lock_is_held_once(self, tmp_path: Path) -> None:
        first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
        assert first.acquire()
        assert not second.acquire()
        first.release()
        assert second.acquire()
        second.release()

    def test_a_lock_s_file_is_the_owner_s_alone(self, tmp_path: Path) -> None:
        with FileLock(tmp_path / "lock"):
            assert (tmp_path / "lock").stat().st_mode & 0o077 == 0

    def test_releasing_twice_is_no_trouble(self, tmp_path: Path) -> None:
        lock = FileLock(tmp_path / "lock")
        lock.acquire()
        lock.release()
        lock.release()
