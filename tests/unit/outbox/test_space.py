"""Room: what segments take of the quota comes back, whoever frees them, and files have real blocks."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter.errors import OutboxError, OutboxFullError
from otel_audit_exporter.outbox import segment as segment_module
from otel_audit_exporter.outbox import space as space_module
from otel_audit_exporter.outbox.ended import STORED
from otel_audit_exporter.outbox.segment import (
    FIRST_BYTES,
    LARGEST_BYTES,
    FileSegment,
    MappedSegment,
    MemorySegment,
    WrittenSegment,
    make_blocks,
    next_size,
    open_new,
)
from otel_audit_exporter.outbox.space import Quota, SegmentSpace
from otel_audit_exporter.runtime.clock import Clock
from tests.support.interruptions import interrupt
from tests.support.raw_logs import LOG_ID, event_bytes, file_log, open_copy, said


def made(space: SegmentSpace, ordinal: int = 1, size: int = FIRST_BYTES, needed: int = FIRST_BYTES) -> FileSegment:
    segment = space.make(LOG_ID, 0, ordinal, size, needed)
    assert isinstance(segment, FileSegment)
    return segment


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [1, 4096, FIRST_BYTES, 3 * FIRST_BYTES + 17])
def test_a_file_has_real_blocks_and_never_holes(tmp_path: Path, size: int) -> None:
    os.close(make_blocks(tmp_path / "new.spare", size))
    stat = (tmp_path / "new.spare").stat()
    assert (stat.st_size, stat.st_mode & 0o777) == (size, 0o600)
    assert stat.st_blocks * 512 >= size


def test_a_file_that_does_not_fit_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def full_at_last(descriptor: int, data: bytes, offset: int) -> None:
        written.append(offset)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(segment_module, "pwrite", full_at_last)
    space = SegmentSpace(Quota(2 * LARGEST_BYTES), tmp_path)
    with pytest.raises(OutboxFullError, match="OTEL_AUDIT_OUTBOX_MAX_BYTES"):
        made(space, size=LARGEST_BYTES, needed=LARGEST_BYTES)
    assert (names(tmp_path), space.quota.used_bytes) == ([], 0)


def test_a_smaller_file_is_made_if_a_large_one_cannot_fit(tmp_path: Path) -> None:
    space = SegmentSpace(Quota(3 * FIRST_BYTES), tmp_path)
    assert made(space, size=4 * FIRST_BYTES).size == FIRST_BYTES
    assert space.quota.left_bytes == 2 * FIRST_BYTES


@pytest.mark.parametrize("folder", [True, False])
def test_past_the_quota_none_is_made(tmp_path: Path, folder: bool) -> None:
    space = SegmentSpace(Quota(FIRST_BYTES + 1), tmp_path if folder else None)
    space.make(LOG_ID, 0, 1, FIRST_BYTES, FIRST_BYTES)
    with pytest.raises(OutboxFullError):
        space.make(LOG_ID, 0, 2, FIRST_BYTES, FIRST_BYTES)


def test_an_emptied_file_is_reused_without_its_old_content(tmp_path: Path) -> None:
    space = SegmentSpace(Quota(FIRST_BYTES), tmp_path)
    first = made(space)
    first.put(64, 64 + 24, b"x" * 16, 1)
    space.free(first)
    assert names(tmp_path) == ["000-00000001.spare"]
    second = made(space, 2)
    assert names(tmp_path) == ["000-00000002.seg"]
    assert second.read(64, 8) == bytes(8)
    assert (second.seed != first.seed, space.quota.used_bytes) == (True, FIRST_BYTES)


def test_at_most_two_emptied_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is kept on a disk that is nearly full."""
    space = SegmentSpace(Quota(2**20), tmp_path)
    segments = [made(space, number) for number in range(1, 6)]
    for segment in segments[:3]:
        space.free(segment)
    assert (len(list(tmp_path.glob("*.spare"))), space.quota.used_bytes) == (2, 4 * FIRST_BYTES)
    space.drop_all_emptied()
    monkeypatch.setattr(SegmentSpace, "may_prepare", lambda space: False)
    space.free(segments[3])
    assert (names(tmp_path), space.quota.used_bytes) == (["000-00000005.seg"], FIRST_BYTES)


def test_a_forked_child_makes_and_removes_nothing_in_its_parents_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the fork comes in the middle of making a segment."""
    space = SegmentSpace(Quota(2**20), tmp_path, MappedSegment)
    opened: list[FileSegment] = []

    def forked(*arguments: Any, **named: Any) -> None:
        opened.append(open_new(*arguments, **named))
        space.forget()
        raise FileNotFoundError("the parent has renamed it")

    monkeypatch.setattr(space_module, "open_new", forked)
    with pytest.raises(OSError, match="Stale"):
        made(space)
    before = names(tmp_path)
    assert before == [opened[0].path.name]
    with pytest.raises(OSError, match="Stale"):
        made(space)
    assert names(tmp_path) == before


def test_the_memory_of_lost_segments_is_counted_anew() -> None:
    """What another thread is making just now counts, too."""
    space = SegmentSpace(Quota(4 * FIRST_BYTES))
    kept, lost = (space.make(LOG_ID, 0, ordinal, FIRST_BYTES, FIRST_BYTES) for ordinal in (1, 2))
    freed = space.make(LOG_ID, 0, 3, FIRST_BYTES, FIRST_BYTES)
    space.free(freed)
    del lost
    space.recount()
    assert space.quota.used_bytes == kept.size


def test_memory_comes_back_to_the_quota() -> None:
    space = SegmentSpace(Quota(FIRST_BYTES))
    segment = space.make(LOG_ID, 0, 1, FIRST_BYTES, FIRST_BYTES)
    assert isinstance(segment, MemorySegment)
    space.free(segment)
    assert space.quota.used_bytes == 0


def test_a_segment_that_cannot_be_opened_takes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = SegmentSpace(Quota(2**20), tmp_path, MappedSegment)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as broken:
        broken.setattr(space_module, "open_new", fail)
        with pytest.raises(OSError, match="memory"):
            made(space)
    assert (names(tmp_path), space.quota.used_bytes) == ([], 0)
    assert made(space).size == FIRST_BYTES


def test_removing_an_adopted_log_gives_back_all_its_room(tmp_path: Path) -> None:
    log = file_log(tmp_path / "own.log")
    said(log, [event_bytes(number, 10_000) for number in range(100)])
    adopted = open_copy(tmp_path / "own.log", tmp_path / "copy.log").log
    quota = adopted.space.quota
    quota.add(adopted.size_bytes)
    stripe = adopted.stripes[0]
    adopted.end(STORED, [(stripe, 1, 90)])
    adopted.free_segments()
    adopted.end(STORED, [(stripe, 91, 100)])
    adopted.space.give_back(adopted.size_bytes)
    assert quota.used_bytes == 0


def test_a_signal_handler_that_makes_segments_takes_no_file_twice(tmp_path: Path) -> None:
    """It interrupts the making of another segment."""
    steps, more = 0, True
    while more:
        folder = tmp_path / str(steps)
        folder.mkdir()
        space, found = SegmentSpace(Quota(2**30), folder), list[FileSegment]()
        for segment in [made(space, number) for number in (1, 2)]:
            space.free(segment)

        def make(*ordinals: int, space: SegmentSpace = space, found: list[FileSegment] = found) -> None:
            found += [made(space, ordinal) for ordinal in ordinals]

        more = interrupt(partial(make, 3), steps, partial(make, 4, 5), [space_module])
        assert sorted(path.name for path in folder.glob("*.seg")) == sorted(one.path.name for one in found), steps
        assert [segment.read(0, 8) for segment in found] == [b"OTELAUD\x02"] * len(found)
        for segment in found:
            segment.close()
        steps += 1
    assert steps > 20


def test_a_volume_that_stalled_has_written_segments_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, now = SegmentSpace(Quota(2**20), tmp_path, MappedSegment), 1000.0
    monkeypatch.setattr(Clock, "monotonic", lambda: now)
    assert isinstance(made(space, 1), MappedSegment)
    space.prefer_written()
    assert isinstance(made(space, 2), WrittenSegment)
    now += 601
    assert isinstance(made(space, 3), MappedSegment)


def test_a_full_disk_and_a_broken_one_are_distinguished(tmp_path: Path) -> None:
    space = SegmentSpace(Quota(2**20), tmp_path)
    full = [space.as_outbox_error(OSError(number, "")) for number in (errno.ENOSPC, errno.EDQUOT)]
    assert {type(error) for error in full} == {OutboxFullError}
    broken = space.as_outbox_error(OSError(errno.EIO, "Input/output error"))
    assert (type(broken), "Input/output error" in str(broken)) == (OutboxError, True)


@pytest.mark.parametrize("payload", [0, 100, FIRST_BYTES - 140, FIRST_BYTES, 5_000_000])
def test_the_next_size_is_enough_for_the_payload(payload: int) -> None:
    segment = MemorySegment(LOG_ID, 0, 1, next_size(0, payload))
    assert 64 + 8 + payload + 7 & ~7 <= segment.limit
    assert next_size(FIRST_BYTES, payload) >= 2 * FIRST_BYTES
