"""The outbox directory: who holds which log, who takes over what is left, and what is left alone and told."""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import pytest

from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.outbox import directory as module
from otel_audit_exporter.outbox.destination import Destination
from otel_audit_exporter.outbox.directory import (
    DESCRIPTION_NAME,
    LOCK_NAME,
    LockedLog,
    OutboxDirectory,
)
from otel_audit_exporter.outbox.ended import STORED
from otel_audit_exporter.outbox.inspection import orphans_elsewhere, read_log_status
from otel_audit_exporter.outbox.log import LogOptions
from otel_audit_exporter.outbox.segment import MappedSegment, WrittenSegment
from otel_audit_exporter.outbox.space import Quota
from otel_audit_exporter.runtime.clock import Clock
from tests.support.logs import held_by_a_process
from tests.support.raw_logs import event_bytes, read_all, said
from tests.support.running import in_threads, run_in_child
from tests.unit.outbox.test_reader import flip

DESTINATION = Destination("supabase", "https://a.example", "public", "pms_audit_log")
MAX_BYTES = 2**24


@pytest.fixture
def directory(tmp_path: Path) -> OutboxDirectory:
    return OutboxDirectory(tmp_path / "root", DESTINATION)


@pytest.fixture
def create(directory: OutboxDirectory) -> Iterator[Callable[..., LockedLog]]:
    made: list[LockedLog] = []

    def make(*events: bytes, options: LogOptions = LogOptions(write="written")) -> LockedLog:  # noqa: B008
        held = directory.create(Quota(MAX_BYTES), options)
        said(held.log, list(events))
        made.append(held)
        return held

    yield make
    for held in made:
        if not held.log.released:
            directory.release(held)


Create = Callable[..., LockedLog]


def die(held: LockedLog) -> Path:
    """Let go of a log as a kill does."""
    held.log.close_files()
    held.lock.forget()
    return held.path


def adopt(directory: OutboxDirectory, limit: int = 100) -> list[LockedLog]:
    return list(directory.adopt(Quota(MAX_BYTES), LogOptions(), limit=limit))


def bodies(held: LockedLog) -> list[bytes]:
    return [body for _, _, body in read_all(held.log)[0]]


def names(directory: OutboxDirectory) -> list[str]:
    return sorted(path.name for path in directory.path.iterdir() if path.is_dir())


def test_a_log_is_adopted_only_after_its_process_has_ended(directory: OutboxDirectory, create: Create) -> None:
    own = create(b"one", b"two")
    assert adopt(directory) == []
    die(own)
    (held,) = adopt(directory)
    assert (held.path, bodies(held), held.log.pending) == (own.path, [b"one", b"two"], 2)
    assert adopt(directory) == []
    directory.release(held)
    assert len(adopt(directory)) == 1


def test_a_log_that_another_living_process_holds_is_left_to_it(directory: OutboxDirectory, create: Create) -> None:
    path = die(create(b"one"))
    with held_by_a_process(path / LOCK_NAME):
        assert adopt(directory) == []
    (held,) = adopt(directory)
    directory.release(held)


def test_a_log_that_was_held_is_looked_at_again_later(
    directory: OutboxDirectory, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, path, other = create(b"own"), die(create(b"one")), die(create(b"another"))
    now = Clock.monotonic()
    monkeypatch.setattr(Clock, "monotonic", staticmethod(lambda: now))
    with held_by_a_process(path / LOCK_NAME):
        for held in directory.adopt(Quota(MAX_BYTES), LogOptions(), limit=9, mine={own.path}):
            assert held.path == other
            directory.release(held)

    def again() -> list[Path]:
        taken = list(directory.adopt(Quota(MAX_BYTES), LogOptions(), limit=9, again=True))
        for held in taken:
            directory.release(held)
        return [held.path for held in taken]

    assert again() == []
    now += 0.5
    assert again() == [path]  # the others were not held, or are this process's
    assert directory.held_elsewhere.next_at == inf


def test_a_log_without_events_is_removed_and_its_room_comes_back(directory: OutboxDirectory, create: Create) -> None:
    die(create())
    quota = Quota(MAX_BYTES)
    assert list(directory.adopt(quota, LogOptions(), limit=9)) == []
    assert (names(directory), quota.used_bytes) == ([], 0)


def test_a_log_is_removed_only_when_all_of_it_has_ended(directory: OutboxDirectory, create: Create) -> None:
    emptied, left = create(b"one"), create(b"one")
    emptied.log.end(STORED, [(stripe, 1, stripe.at[2]) for stripe in emptied.log.stripes])
    directory.release(emptied)
    directory.release(left)
    assert names(directory) == [left.path.name]


def test_of_two_that_adopt_at_once_each_log_goes_to_one(directory: OutboxDirectory, create: Create) -> None:
    for _ in range(20):
        die(create(b"one"))
    taken: list[LockedLog] = []
    others = [OutboxDirectory(directory.root, DESTINATION) for _ in range(4)]
    in_threads([lambda other=other: taken.extend(adopt(other)) for other in others])  # type: ignore[misc]
    assert len(taken) == len({held.path for held in taken}) == 20
    for held in taken:
        directory.release(held)


def test_the_oldest_logs_come_first_and_no_more_than_asked_for(directory: OutboxDirectory, create: Create) -> None:
    paths = [die(create(b"one")) for _ in range(5)]
    for age, path in enumerate(paths):
        os.utime(path, (1000 - age, 1000 - age))
    taken = adopt(directory, limit=2)
    assert [held.path for held in taken] == [paths[4], paths[3]]
    for held in taken:
        directory.release(held)


def test_a_child_has_not_its_parent_s_lock(directory: OutboxDirectory, create: Create) -> None:
    own = create(b"one")

    def in_child() -> None:
        assert own.lock._descriptor is None
        assert adopt(directory) == []

    assert run_in_child(in_child, 30)
    assert adopt(directory) == []


# --- what is left alone -------------------------------------------------------------------------------------------


def test_a_log_of_a_newer_format_is_left_alone(
    directory: OutboxDirectory, create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says so."""
    path = die(create(b"one"))
    described = json.loads((path / DESCRIPTION_NAME).read_text()) | {"format": 99}
    (path / DESCRIPTION_NAME).write_text(json.dumps(described))
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert adopt(directory) == adopt(directory) == []
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    (record,) = caplog.records
    assert "run a newer version" in record.getMessage()


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"format": "x"}', '{"format": 2, "id": "zz"}'])
def test_a_log_with_an_unreadable_description_is_left_alone(
    directory: OutboxDirectory, create: Create, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """The other logs are adopted."""
    path = die(create(b"one"))
    die(create(b"two"))
    (path / DESCRIPTION_NAME).write_text(text)
    (held,) = adopt(directory)
    assert bodies(held) == [b"two"]
    assert f"{path} is left alone" in caplog.text
    assert path.is_dir()
    directory.release(held)


def test_a_flipped_bit_in_a_description_removes_no_event(
    directory: OutboxDirectory, create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    path = die(create(*[event_bytes(number, 9000) for number in range(10)]))
    description = path / DESCRIPTION_NAME
    size, segments = description.stat().st_size, len(list(path.glob("*.seg")))
    for bit in range(0, size * 8, 5):
        flip(description, bit)
        for held in adopt(directory):
            assert len(bodies(held)) == 10, bit
            held.log.close_files()
            held.lock.release()
        flip(description, bit)
        assert len(list(path.glob("*.seg"))) == segments, bit
    (held,) = adopt(directory)
    assert len(bodies(held)) == 10
    assert "is left alone" in caplog.text
    directory.release(held)


def test_a_damaged_segment_is_kept_after_the_rest_is_delivered(directory: OutboxDirectory, create: Create) -> None:
    path = die(create(*[event_bytes(number, 9000) for number in range(10)]))
    last = max(path.glob("*.seg"))
    last.write_bytes(b"\xff" * last.stat().st_size)
    (held,) = adopt(directory)
    assert (held.found.foreign[0][0], held.found.lost) == (last, 1)
    held.log.end(STORED, [(stripe, 1, stripe.at[2]) for stripe in held.log.stripes])
    directory.release(held)
    assert [file.name for file in directory.path.rglob("*.damaged") if file.is_file()] == [f"{last.name}.damaged"]
    assert adopt(directory) == []


def test_a_lock_that_is_a_link_is_refused_and_reported(
    directory: OutboxDirectory, create: Create, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = die(create(b"one"))
    (tmp_path / "of somebody else").touch()
    (path / LOCK_NAME).unlink()
    (path / LOCK_NAME).symlink_to(tmp_path / "of somebody else")
    assert adopt(directory) == adopt(directory) == []
    assert caplog.text.count(f"{path} is left alone") == 1


def test_a_log_that_is_being_removed_by_somebody_else_is_none(
    directory: OutboxDirectory, create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    path = die(create(b"one"))
    (path / LOCK_NAME).unlink()
    assert adopt(directory) == []
    assert caplog.text == ""


# --- making and removing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["_write_description", "rename", "EndedFile"])
def test_an_unfinished_log_of_a_dead_process_is_removed(
    directory: OutboxDirectory, create: Create, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It had no events yet."""

    def in_child() -> None:
        if step == "rename":
            monkeypatch.setattr(os, "rename", lambda *_: os._exit(0))
        elif step == "_write_description":
            monkeypatch.setattr(module, "_write_description", lambda *_, **__: os._exit(0))
        else:
            monkeypatch.setattr(module, "EndedFile", lambda *_, **__: os._exit(0))
        directory.create(Quota(MAX_BYTES), LogOptions())

    directory._make_folder()
    assert run_in_child(in_child, 30)
    (left,) = names(directory)
    assert left.startswith(".new-")
    adopt(directory)
    assert names(directory) == []


@pytest.mark.parametrize("removed", [(), ("lock",)], ids=["nothing", "the lock"])
def test_what_a_remover_leaves_that_died_is_removed(
    directory: OutboxDirectory, create: Create, monkeypatch: pytest.MonkeyPatch, removed: tuple[str, ...]
) -> None:
    own = create(b"one")
    own.log.end(STORED, [(own.log.stripes[0], 1, 1)])

    def die_in_the_middle(folder: Path, **_: object) -> None:
        for name in removed:
            (folder / name).unlink()

    with monkeypatch.context() as dying:
        dying.setattr(shutil, "rmtree", die_in_the_middle)
        directory.release(own)
    (left,) = names(directory)
    assert left.startswith(".gone-")
    adopt(directory)
    assert names(directory) == []


def test_a_folder_that_is_made_once_more_just_now_is_not_removed(
    directory: OutboxDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its maker had it removed by somebody who cleared up, and has not locked it yet."""
    directory._make_folder()
    making = directory.path / ".new-1-abc"
    making.mkdir()
    monkeypatch.setattr(module, "_modified_at", lambda path: 0.0)  # as it was gone when its time was asked for
    assert adopt(directory) == []
    assert making.exists()


def test_makers_and_adopters_at_once_take_nothing_from_each_other(directory: OutboxDirectory) -> None:
    """Whoever makes a log has its folder for a moment without the lock."""
    directory._make_folder()
    stop: list[bool] = []

    def make() -> None:
        try:
            for _ in range(60):
                held = directory.create(Quota(MAX_BYTES), LogOptions(write="written"))
                directory.release(held)
        finally:
            stop.append(True)

    def take() -> None:
        while len(stop) < 2:
            assert adopt(OutboxDirectory(directory.root, DESTINATION)) == []

    in_threads([make, make, take, take])


def test_files_are_private_and_the_folder_says_whose_they_are(directory: OutboxDirectory, create: Create) -> None:
    previous = os.umask(0)
    try:
        own = create(b"one")
    finally:
        os.umask(previous)
    paths = [directory.root, directory.path, own.path, *own.path.iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in own.path.glob("*.seg")} == {0o600}
    files = (LOCK_NAME, "ended", DESCRIPTION_NAME)
    assert {stat.S_IMODE((own.path / name).stat().st_mode) for name in files} == {0o600}
    assert json.loads((directory.path / "destination.json").read_text())["table"] == "pms_audit_log"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (LogOptions(write="written"), WrittenSegment),
        (LogOptions(durable=True), WrittenSegment),
        (LogOptions(), MappedSegment),
        (LogOptions(write="mapped"), MappedSegment),
    ],
)
def test_the_way_to_write_is_as_requested_if_it_is_safe(
    directory: OutboxDirectory, create: Create, monkeypatch: pytest.MonkeyPatch, options: LogOptions, kind: type
) -> None:
    monkeypatch.setattr(module, "mapping_problem", lambda path: None)
    own = create(b"one", options=options)
    assert type(own.log.stripes[0].at[0]) is kind
    status = read_log_status(own.path)
    assert status is not None
    assert (status.held, status.events, status.write) == (True, 1, kind.writes)  # type: ignore[attr-defined]


def test_where_a_map_is_unsafe_the_log_is_written_or_refused(
    directory: OutboxDirectory, create: Create, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is written with a warning, and refused where a map was requested."""
    monkeypatch.setattr(module, "mapping_problem", lambda path: "its file system is nfs")
    assert type(create(options=LogOptions()).log.stripes[0].at[0]) is WrittenSegment
    assert "its file system is nfs" in caplog.text
    with pytest.raises(AuditConfigurationError, match=r"not safe .*nfs.*OTEL_AUDIT_OUTBOX_DIR"):
        directory.create(Quota(MAX_BYTES), LogOptions(write="mapped"))
    assert len(names(directory)) == 1


def test_the_error_for_a_tiny_quota_names_both_remedies(directory: OutboxDirectory) -> None:
    """The quota has no room for one segment."""
    with pytest.raises(AuditConfigurationError, match=r"OTEL_AUDIT_OUTBOX_DIR.*OTEL_AUDIT_OUTBOX=memory"):
        directory.create(Quota(1000), LogOptions(write="written"))
    assert names(directory) == []


def test_dead_logs_give_back_unused_room_on_a_full_disk(
    directory: OutboxDirectory, create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    """None of their events is lost."""
    whole, damaged, empty = (die(create(*events)) for events in ([b"one"], [event_bytes(1), event_bytes(2)], []))
    flip(next(damaged.glob("*.seg")), (64 + 40) * 8)
    before = sum(file.stat().st_size for file in whole.iterdir())
    directory.cut_orphans()
    assert sum(file.stat().st_size for file in whole.iterdir()) < before
    assert not empty.exists()
    held = {one.path: one for one in adopt(directory)}
    assert (bodies(held[whole]), held[damaged].found.lost) == ([b"one"], 1)
    for one in held.values():
        directory.release(one)


def test_events_in_a_removed_directory_are_reported(
    directory: OutboxDirectory, create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    own = create(b"one", b"two")
    shutil.rmtree(directory.path)
    directory.release(own)
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "2 event(s) in it are lost" in record.getMessage()


def test_events_of_other_destinations_are_counted_within_a_time_limit(
    directory: OutboxDirectory, create: Create
) -> None:
    die(create(b"one", b"two"))
    create(b"three")
    other = OutboxDirectory(directory.root, Destination("sqlite", "b", "public", "t"))
    assert orphans_elsewhere(other, seconds=60) == {DESTINATION: 2}
    assert orphans_elsewhere(directory, seconds=60) == {}
    assert orphans_elsewhere(other, seconds=-1) == {}


def test_no_two_destinations_share_a_folder() -> None:
    parts = [("a", "b", "c", "d"), ("a", "b-c", "", "d"), ("a-b", "", "c", "d"), ("a", "b", "c", "D")]
    assert len({Destination(*part).folder_name for part in parts}) == 4
    assert all(Destination(*part).folder_name.startswith("a-b") for part in parts)
