"""What has ended: ranges against a plain set, and records that kills, full disks and signals leave whole."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit_exporter.outbox import ended as module
from otel_audit_exporter.outbox.ended import (
    RECORD_BYTES,
    SEGMENT_FREED,
    STORED,
    EndedFile,
    EndedRanges,
    Record,
    read_records,
)
from tests.support.interruptions import interrupt
from tests.support.raw_logs import LOG_ID

_RANGE = st.tuples(st.integers(1, 60), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(_RANGE, max_size=40))
def test_ranges_are_what_a_plain_set_is(added: list[tuple[int, int]]) -> None:
    ranges, plain = EndedRanges(), set[int]()
    for first, last in added:
        fresh = set(range(first, last + 1)) - plain
        assert [n for a, b in ranges.missing(first, last) for n in range(a, b + 1)] == sorted(fresh)
        assert ranges.add(first, last) == len(fresh)
        plain |= fresh
        assert ranges.count == len(plain)
        assert ranges.upto == next(n for n in range(80) if n + 1 not in plain)
    assert [n for a, b in ranges.ranges() for n in range(a, b + 1)] == sorted(plain)
    for number in range(1, 80):
        assert (number in ranges) == (number in plain)
        assert ranges.count_upto(number) == sum(n <= number for n in plain)


def test_what_ends_in_turns_takes_no_room_for_long() -> None:
    ranges = EndedRanges()
    for number in [*range(2, 4000, 2), *range(3, 4000, 2)]:
        ranges.add(number, number)
    assert list(ranges.ranges()) == [(2, 3999)]
    ranges.add(1, 1)
    assert list(ranges.ranges()) == [(1, 3999)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ended"


def ended_file(path: Path, *, durable: bool = False) -> EndedFile:
    return EndedFile(path, LOG_ID, durable=durable)


def records(count: int, first: int = 1) -> list[Record]:
    return [Record(STORED, number % 3, number, number + 5) for number in range(first, first + count)]


def test_records_are_read_back_and_later_ones_follow_them(path: Path) -> None:
    first = ended_file(path)
    assert first.note(records(700))
    first.close()
    second = ended_file(path)
    assert second.read() == records(700)
    second.note(records(3, 701))
    second.close()
    assert read_records(path, LOG_ID) == records(703)


def test_another_log_s_records_are_none(path: Path) -> None:
    ended_file(path).note(records(3))
    assert read_records(path, bytes(16)) == []


def test_a_file_that_is_not_there_has_no_records(path: Path) -> None:
    assert read_records(path, LOG_ID) == []


def test_a_record_cut_off_by_a_kill_is_skipped_and_overwritten(path: Path) -> None:
    ended_file(path).note(records(3))
    for cut in range(2 * RECORD_BYTES + 1, 3 * RECORD_BYTES):
        os.truncate(path, cut)
        again = ended_file(path)
        assert again.read() == records(2)
        again.note(records(1, 3))
        again.close()
        assert read_records(path, LOG_ID) == records(3)


def test_a_flipped_bit_costs_the_record_that_it_hits(path: Path) -> None:
    ended_file(path).note(records(20))
    whole, chance = path.read_bytes(), Random(2)
    for _ in range(200):
        flipped, at = bytearray(whole), chance.randrange(20 * RECORD_BYTES)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        assert read_records(path, LOG_ID) == [one for n, one in enumerate(records(20)) if n != at // RECORD_BYTES]


def test_a_file_with_a_record_of_unknown_type_is_never_rewritten(path: Path) -> None:
    own = ended_file(path)
    own.note([Record(99, 0, 1, 2), *records(40_000)])
    assert own.is_long
    again = ended_file(path)
    again.read()
    assert (again.foreign, again.is_long) == (True, False)


def test_records_refused_by_a_full_disk_are_written_with_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ended_file(path)
    own.note(records(2))
    with monkeypatch.context() as full:
        full.setattr(module, "pwrite", failing)
        assert not own.note(records(2, 3))
    assert read_records(path, LOG_ID) == records(2)
    assert own.note(records(1, 5))
    assert read_records(path, LOG_ID) == records(5)


def failing(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_records_lie_in_blocks_that_were_written_before(path: Path) -> None:
    ended_file(path).note(records(1))
    assert path.stat().st_blocks * 512 >= path.stat().st_size > RECORD_BYTES


def test_a_summary_takes_the_place_of_all_records(path: Path) -> None:
    own = ended_file(path)
    own.note(records(1000))
    own.replace([Record(STORED, 0, 1, 1000)])
    own.note([Record(SEGMENT_FREED, 0, 1, 0)])
    assert read_records(path, LOG_ID) == [Record(STORED, 0, 1, 1000), Record(SEGMENT_FREED, 0, 1, 0)]
    assert [file.name for file in path.parent.iterdir()] == ["ended"]


def test_a_summary_that_cannot_be_written_leaves_the_records(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ended_file(path)
    own.note(records(10))
    with monkeypatch.context() as full:
        full.setattr(module, "sync_file", failing)
        with pytest.raises(OSError, match="No space"):
            own.replace([Record(STORED, 0, 1, 1000)])
    own.note(records(1, 11))
    assert read_records(path, LOG_ID) == records(11)


def test_only_a_durable_file_syncs_and_only_on_request(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(module, "sync_file", synced.append)
    for durable in (False, True):
        own = ended_file(path.with_name(str(durable)), durable=durable)
        own.note(records(1))
        own.note(records(1, 2), sync=True)
    assert len(synced) == 1


def test_a_note_that_interrupts_another_between_any_two_steps_loses_none(path: Path) -> None:
    """A signal handler may note in the middle of a note."""
    steps = 0
    while True:
        path.unlink(missing_ok=True)
        own = ended_file(path)
        own.note(records(1))
        if not interrupt(partial(own.note, records(2, 2)), steps, partial(own.note, records(3, 100)), [module]):
            break
        own.note(records(1, 4))
        assert sorted(set(read_records(path, LOG_ID))) == sorted([*records(4), *records(3, 100)]), steps
        own.close()
        steps += 1
    assert steps > 50
