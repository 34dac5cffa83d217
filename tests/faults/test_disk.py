"""The outbox's disk: full, small, unwritable, vanished, damaged, of a newer format, and seen by others."""

import json
import logging
import os
import resource
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from otel_audit_exporter import AuditConfigurationError, OutboxError, OutboxFullError, audit_event, configure_audit
from tests.faults import scenario
from tests.faults.conftest import Start
from tests.faults.failpoints import AFTER_A_CALL
from tests.faults.scenario import Scenario
from tests.faults.scripts import run, started
from tests.stack import Stack
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.running import run_in_child


def remove_in_use(folder: Path) -> None:
    """Remove a folder although files in it are made and get other names meanwhile."""

    def is_gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    wait_until(is_gone, "it is removed")


class TestFull:
    def test_a_full_outbox_refuses_events_until_it_has_drained(self, stack: Stack, start: Start) -> None:
        """The error names the setting for the quota."""
        running = start(outbox_max_bytes=300_000)
        with stack.gateway.refusing():
            with pytest.raises(OutboxFullError, match="OTEL_AUDIT_OUTBOX_MAX_BYTES"):
                running.emit(5000)
            accepted = len(running.said)
            assert running.pipeline.stats().rejected == 1
        running.wait_until_delivered()
        running.emit(200)
        running.wait_until_delivered()
        assert len(running.said) == accepted + 200
        running.assert_each_good_one_stored_once()

    @pytest.mark.parametrize("limit", ["disk", "file size"])
    def test_on_a_full_disk_it_refuses_events_but_still_drains(
        self, tmp_path: Path, small_disk: Path | None, limit: str
    ) -> None:
        """Where no small file system can be mounted, the system's limit on the size of a file stands for it."""
        full = scenario.on_sqlite(tmp_path)
        by_size = limit == "file size" or small_disk is None
        if small_disk is not None and not by_size:
            full.job.options["outbox_dir"] = str(small_disk / "outbox")
        full.job.options["path"] = str(tmp_path / "missing" / "table.db")
        full.rows = lambda: scenario.sqlite_rows(tmp_path / "missing" / "table.db")
        with started("full_disk", full, visits=2 if by_size else 1) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline().startswith("refused")
            (tmp_path / "missing").mkdir()
            process.stdin.write("healed\n")
            process.stdin.flush()
            assert process.stdout.read() == "True\n"
            assert process.wait(60) == 0
        assert full.violations() == []


@pytest.mark.parametrize("limit", ["disk", "file size"])
def test_a_forked_child_that_a_full_disk_refuses_leaves_no_file(
    tmp_path: Path, small_disk: Path | None, limit: str
) -> None:
    """Where no small file system can be mounted, the system's limit on the size of a file stands for it."""
    disk = small_disk if limit == "disk" else None
    outbox = (disk or tmp_path) / "outbox"
    configure_audit("postgres", dsn="postgresql://127.0.0.1:1/x", outbox_dir=str(outbox))
    audit_event(**arguments())
    if disk is not None:
        with (disk / "filler").open("wb") as filler:
            filler.write(bytes(shutil.disk_usage(disk).free))
    files = set(outbox.rglob("*"))

    def be_refused() -> None:
        if disk is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        for _ in range(50):
            with pytest.raises(OutboxError):
                audit_event(**arguments())
        assert set(outbox.rglob("*")) <= files

    assert run_in_child(be_refused, 60)
    assert set(outbox.rglob("*")) <= files


def test_segments_with_holes_end_the_process_where_the_disk_is_full(tmp_path: Path, small_disk: Path | None) -> None:
    """Where no small file system can be mounted, the unit test of the blocks stands for it."""
    full = scenario.on_sqlite(tmp_path, schedule_delay_millis=60_000)
    full.job.options["path"] = str(tmp_path / "missing" / "table.db")
    full.job.options["outbox_dir"] = str((small_disk or tmp_path) / "outbox")
    job = replace(full.job, events=30_000, threads=1)
    if small_disk is not None:
        with full.nursery() as nursery:
            assert nursery.kill(replace(job, breaks=["sparse segments"]), 60.0).status == -signal.SIGBUS
            assert nursery.kill(job, 60.0).status == 1  # the call was refused, and raised


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 8 MiB; None where this user may not mount one."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(directory)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield directory if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", str(directory)], check=True)


class TestUnusable:
    def test_the_error_for_an_impossible_directory_names_both_remedies(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(AuditConfigurationError, match=r"OTEL_AUDIT_OUTBOX_DIR.*OTEL_AUDIT_OUTBOX=memory"):
            configure_audit("sqlite", path=str(tmp_path / "t.db"), outbox_dir=str(tmp_path / "file" / "outbox"))

    def test_files_are_private(self, tmp_path: Path) -> None:
        previous = os.umask(0)
        try:
            left = scenario.on_sqlite(tmp_path)
            with left.nursery() as nursery:
                assert nursery.kill_one(replace(left.job, failpoint=AFTER_A_CALL, visits=20), 60.0) == -9
        finally:
            os.umask(previous)
        outbox = Path(left.job.options["outbox_dir"])
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (outbox, *outbox.rglob("*"))}
        assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
        assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
        assert any(path.suffix == ".seg" for path in modes)

    def test_a_directory_that_vanishes_while_it_is_used_ends_nothing(self, stack: Stack, start: Start) -> None:
        running = start()
        running.emit(20)
        running.wait_until_delivered()
        remove_in_use(running.outbox_dir)
        running.emit(20)
        running.wait_until_delivered()
        running.assert_each_good_one_stored_once()
        assert running.pipeline.shutdown()

    def test_events_removed_with_their_directory_are_reported(
        self, stack: Stack, start: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        running = start()
        with stack.gateway.refusing():
            running.emit(20)
            remove_in_use(running.outbox_dir)
            assert not running.pipeline.shutdown(100)
        (said,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
        assert "20 event(s) in it are lost" in said.getMessage()


class TestDamaged:
    """Files of a killed process, damaged: set aside, what can be read saved, and all of it said."""

    @pytest.fixture
    def orphan(self, tmp_path: Path) -> tuple[Scenario, Path]:
        """A scenario whose first process left 300 events in its file, nothing delivered."""
        damaged = scenario.on_sqlite(tmp_path, schedule_delay_millis=60_000)
        damaged.job = replace(damaged.job, threads=1)  # one stripe
        assert run("os_exit", damaged)[0] == 5
        (path,) = Path(damaged.job.options["outbox_dir"]).rglob("000-00000001.seg")
        return damaged, path

    def test_a_file_cut_short_gives_what_is_left_of_it(self, orphan: tuple[Scenario, Path]) -> None:
        damaged, path = orphan
        os.truncate(path, path.stat().st_size // 2)
        assert 0 < len(self.saved(damaged)) < 300

    def test_garbage_in_the_middle_costs_no_more_than_what_it_hides(self, orphan: tuple[Scenario, Path]) -> None:
        damaged, path = orphan
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2 // 4096 * 4096)
            file.write(b"\xff" * 4096)
        assert 200 < len(self.saved(damaged)) < 300

    def test_a_header_of_garbage_keeps_nobody_from_starting(self, orphan: tuple[Scenario, Path]) -> None:
        damaged, path = orphan
        with path.open("r+b") as file:
            file.write(b"\xff" * 4096)
        assert len(self.saved(damaged)) < 300
        assert list(path.parent.parent.rglob(f"{path.name}.damaged"))

    def test_a_log_of_a_newer_format_is_left_alone(self, orphan: tuple[Scenario, Path]) -> None:
        newer, path = orphan
        description = path.with_name("log.json")
        description.write_text(json.dumps(json.loads(description.read_text()) | {"format": 99}))
        before = path.read_bytes()
        with newer.nursery() as nursery:
            assert nursery.drain(newer.job)["drained"]
        assert path.read_bytes() == before
        assert "newer" in newer.log.read_text()

    def test_a_damaged_log_does_not_block_the_adoption_of_others(self, orphan: tuple[Scenario, Path]) -> None:
        damaged, path = orphan
        foreign = path.parent.with_name("1-of-garbage.log")
        foreign.mkdir()
        for name in ("log.json", "lock", "ended", path.name):
            (foreign / name).write_bytes(b"\xff" * 4096)
        with damaged.nursery() as nursery:
            assert nursery.drain(damaged.job)["drained"]
        assert {str(row["id"]) for row in damaged.rows()} == damaged.said.accepted
        assert f"{foreign} is left alone" in damaged.log.read_text()

    def saved(self, damaged: Scenario) -> set[str]:
        """Start again and return what is delivered; what is lost is said."""
        with damaged.nursery() as nursery:
            last = nursery.drain(damaged.job)
        assert last["drained"]
        assert "is damaged" in damaged.log.read_text()
        assert last["counters"]["failed"] > 0
        return {str(row["id"]) for row in damaged.rows()} & damaged.said.accepted


def test_two_adopters_at_once_deliver_each_event_once(tmp_path: Path) -> None:
    # A delay, or the first batch is inserted before the first event is noted as accepted.
    shared = scenario.on_sqlite(tmp_path, schedule_delay_millis=1000)
    job = replace(shared.job, failpoint="before the sink's insert")
    with shared.nursery() as one, shared.nursery() as other:
        assert {one.kill_one(job, 60.0) for _ in range(6)} == {-9}
        waiting = len(shared.said.accepted)
        with ThreadPoolExecutor(2) as pool:
            beside = replace(shared.job, companions=1)
            lasts = list(pool.map(lambda nursery: nursery.drain(beside), (one, other)))
    assert waiting > 0
    assert [last["drained"] for last in lasts] == [True, True], shared.log.read_text()
    assert shared.violations() == []
    assert sum(last["counters"]["recovered"] for last in (*lasts, shared.last)) >= waiting


def test_files_of_another_destination_are_left_alone_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = scenario.on_sqlite(tmp_path, schedule_delay_millis=60_000)
    assert run("os_exit", left)[0] == 5
    caplog.set_level(logging.WARNING, "otel_audit_exporter")
    with configure_audit("sqlite", path=str(tmp_path / "other.db"), outbox_dir=left.job.options["outbox_dir"]) as other:
        assert other.stats().recovered == 0
    assert "300 event(s) of an earlier process wait for another destination" in caplog.text
    assert left.violations() == []


def test_no_secret_is_in_any_file_of_the_outbox(stack: Stack, start: Start) -> None:
    running = start()
    with stack.gateway.refusing():
        running.emit(5)
        for path in running.outbox_dir.rglob("*"):
            if path.is_file():
                assert stack.service_key.encode() not in path.read_bytes()
                assert "key" not in (json.loads(path.read_text()) if path.suffix == ".json" else {})
    running.wait_until_delivered()
