"""Opening what a dead process has left: whole, damaged, with files that are gone or no segments at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from otel_audit_exporter.outbox.adoption import Findings, examine
from otel_audit_exporter.outbox.ended import PARKED, STORED, read_records
from otel_audit_exporter.outbox.frames import EVENT
from otel_audit_exporter.outbox.log import ENDED_NAME, OutboxLog
from otel_audit_exporter.outbox.reader import StripeReader
from otel_audit_exporter.outbox.segment import HEADER_BYTES, segment_name
from otel_audit_exporter.outbox.stripe import Stripe
from tests.support.raw_logs import LOG_ID, Event, event_bytes, file_log, open_copy, said
from tests.unit.outbox.test_reader import flip

FLIPS = 500


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OutboxLog]:
    """A log of two stripes with several segments each, of which the first is freed, and some events have ended."""
    log = file_log(tmp_path / "own.log")
    with log.taken_stripe():
        said(log, [event_bytes(number, 2000 + number) for number in range(100)])
    said(log, [event_bytes(1000 + number, 2500) for number in range(150)])
    first, second = log.stripes
    log.end(STORED, [(first, 1, 40), (second, 3, 5), (second, 20, 20)])
    log.end(PARKED, [(first, 50, 50)])
    log.free_segments()
    assert first.segments[0].ordinal > 1
    yield log
    log.close_files()


def path_of(log: OutboxLog) -> Path:
    assert log.path is not None
    return log.path


def all_events(log: OutboxLog) -> set[Event]:
    """Return every event of a log that has not ended."""
    return {event for event in read(log.stripes) if event[1] not in log.stripes[event[0]].ended}


def read(stripes: list[Stripe]) -> Iterator[Event]:
    for stripe in stripes:
        reader = StripeReader(stripe)
        while reader.number < stripe.at[2]:
            for _, numbers, _, bodies in reader.read(1000, 2**20).parts:
                yield from ((stripe.index, number, body) for number, body in zip(numbers, bodies, strict=True))


def look(path: Path) -> Findings:
    return examine(path, LOG_ID, read_records(path / ENDED_NAME, LOG_ID))


def check(found: Findings, pending: set[Event], everything: set[Event]) -> int:
    """Compare what is found with what was there; return how many are gone."""
    events = set(read(found.stripes))
    assert events <= everything
    gone = len(pending - events)
    assert found.lost == gone if found.lost_exactly else found.lost <= gone
    assert (found.lost > 0) == (gone > 0)
    return gone


def test_pending_events_are_found_complete_and_ended_ones_stay_ended(own: OutboxLog, tmp_path: Path) -> None:
    copy = open_copy(path_of(own), tmp_path / "copy")
    assert {event for event in copy.events if event[1] not in copy.log.stripes[event[0]].ended} == all_events(own)
    assert (copy.log.pending, copy.found.lost, copy.found.foreign) == (own.pending, 0, [])
    assert [list(stripe.ended.ranges()) for stripe in copy.log.stripes] == [
        list(stripe.ended.ranges()) for stripe in own.stripes
    ]


def test_looking_changes_nothing(own: OutboxLog, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in path_of(own).iterdir()}
    assert look(path_of(own)).pending == own.pending
    assert {path.name: path.read_bytes() for path in path_of(own).iterdir()} == before


def test_an_orphan_is_cut_and_its_spares_are_removed(own: OutboxLog, tmp_path: Path) -> None:
    """It is cut to its last frame."""
    own.do_work()
    before = sum(path.stat().st_size for path in path_of(own).glob("*.s*"))
    copy = open_copy(path_of(own), tmp_path / "copy")
    after = sum(path.stat().st_size for path in (tmp_path / "copy").iterdir())
    assert after < before * 0.8
    assert list((tmp_path / "copy").glob("*.spare")) == []
    again = open_copy(tmp_path / "copy", tmp_path / "again")
    assert (again.events, again.found.lost) == (copy.events, 0)


def test_a_flipped_bit_in_a_dead_log_is_harmless_or_reported(own: OutboxLog) -> None:
    path, chance = path_of(own), Random(7)
    everything, pending = set(read(own.stripes)), all_events(own)
    files = sorted([*path.glob("*.seg"), path / ENDED_NAME])
    hurt = 0
    for _ in range(FLIPS):
        file = chance.choice(files)
        used = 40 * 32 if file.name == ENDED_NAME else file.stat().st_size
        bit = chance.randrange(used * 8)
        flip(file, bit)
        found = look(path)
        hurt += check(found, pending, everything) > 0
        assert found.pending >= len(pending) - found.lost
        flip(file, bit)
    assert hurt > FLIPS // 5
    assert check(look(path), pending, everything) == 0


def test_a_flipped_bit_near_the_end_is_harmless_or_reported(own: OutboxLog) -> None:
    """Around the end of the last frame."""
    path, everything, pending = path_of(own), set(read(own.stripes)), all_events(own)
    for stripe in own.stripes:
        segment, end, _ = stripe.at
        assert segment.path is not None
        for bit in range((end - 24) * 8, (end + 32) * 8, 5):
            flip(segment.path, bit)
            check(look(path), pending, everything)
            flip(segment.path, bit)


def last_of(own: OutboxLog, stripe: int) -> str:
    segment = own.stripes[stripe].at[0]
    return segment_name(stripe, segment.ordinal)


def middle_of(own: OutboxLog, stripe: int) -> str:
    return segment_name(stripe, own.stripes[stripe].segments[-2].ordinal)


DAMAGES: dict[str, Callable[[OutboxLog, Path], object]] = {
    "the last segment removed": lambda own, path: (path / last_of(own, 0)).unlink(),
    "a middle segment removed": lambda own, path: (path / middle_of(own, 1)).unlink(),
    "the last segment cut below its last frame": lambda own, path: os.truncate(
        path / last_of(own, 1), own.stripes[1].at[1] - 4000
    ),
    "a middle segment cut": lambda own, path: os.truncate(path / middle_of(own, 1), 30_000),
    "a middle segment cut to its header": lambda own, path: os.truncate(path / middle_of(own, 1), HEADER_BYTES),
    "a middle segment empty": lambda own, path: os.truncate(path / middle_of(own, 1), 0),
    "a middle segment of zeros": lambda own, path: (path / middle_of(own, 1)).write_bytes(bytes(200_000)),
    "a middle segment of garbage": lambda own, path: (path / middle_of(own, 1)).write_bytes(Random(1).randbytes(99)),
    "a page of garbage": lambda own, path: overwrite(path / middle_of(own, 1), 20_000, Random(1).randbytes(4096)),
    "a page of zeros": lambda own, path: overwrite(path / middle_of(own, 1), 20_000, bytes(4096)),
}


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("damage", DAMAGES)
def test_events_lost_by_damage_are_reported(own: OutboxLog, tmp_path: Path, damage: str) -> None:
    everything, pending = set(read(own.stripes)), all_events(own)
    copy = open_copy(path_of(own), tmp_path / "copy", lambda path: DAMAGES[damage](own, path))
    assert check(copy.found, pending, everything) > 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_reported_once_even_after_several_adoptions(own: OutboxLog, tmp_path: Path, damage: str) -> None:
    copy = open_copy(path_of(own), tmp_path / "copy", lambda path: DAMAGES[damage](own, path))
    assert copy.found.lost > 0
    for number in range(3):
        again = open_copy(tmp_path / "copy", tmp_path / "again")
        assert (again.found.lost, again.log.pending) == (0, copy.log.pending), number
        shutil.rmtree(tmp_path / "copy")
        (tmp_path / "again").rename(tmp_path / "copy")


def swap(own: OutboxLog, path: Path) -> None:
    first, second, aside = path / middle_of(own, 1), path / last_of(own, 0), path / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def double(own: OutboxLog, path: Path) -> None:
    shutil.copy(path / last_of(own, 1), path / "999-00000001.seg")
    with (path / "999-00000001.seg").open("r+b") as file:  # an early copy: it ends before the other
        file.seek(HEADER_BYTES)
        file.write(bytes(200_000))


HARMLESS: dict[str, Callable[[OutboxLog, Path], object]] = {
    "two segments swapped": swap,
    "an early copy of a segment under another name": double,
    "a foreign file": lambda own, path: (path / "777-00000001.seg").write_bytes(b"of somebody else" * 100),
    "a file that is none": lambda own, path: (path / "777-00000001.seg").symlink_to("/etc/passwd"),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_files_under_wrong_names_cost_no_event(own: OutboxLog, tmp_path: Path, what: str) -> None:
    everything, pending = set(read(own.stripes)), all_events(own)
    copy = open_copy(path_of(own), tmp_path / "copy", lambda path: HARMLESS[what](own, path))
    assert check(copy.found, pending, everything) == 0
    assert len(copy.found.foreign) == (what != "two segments swapped")
    assert copy.log.pending == len(pending)


@pytest.mark.parametrize("damage", ["removed", "garbage", "emptied"])
def test_without_a_word_of_what_has_ended_everything_is_there_again(
    own: OutboxLog, tmp_path: Path, damage: str
) -> None:
    pending = all_events(own)

    def spoil(path: Path) -> None:
        if damage == "removed":
            (path / ENDED_NAME).unlink()
        else:
            (path / ENDED_NAME).write_bytes(Random(1).randbytes(5000) if damage == "garbage" else b"")

    copy = open_copy(path_of(own), tmp_path / "copy", spoil)
    assert pending <= set(copy.events)
    assert copy.found.lost == 0


def test_the_time_of_the_oldest_pending_event_is_known(tmp_path: Path) -> None:
    log = file_log(tmp_path / "own.log")
    times = iter([100.0, 100.0, 200.0, 200.0, 300.0, 300.0])
    for _ in range(3):
        log.stripes[0].append(EVENT, b"event", lambda: next(times))
    log.end(STORED, [(log.stripes[0], 1, 1)])
    assert look(tmp_path / "own.log").oldest_accepted_at == 200.0


def test_what_a_kill_leaves_of_an_append_was_never_accepted(tmp_path: Path) -> None:
    log = file_log(tmp_path / "own.log")
    written = said(log, [event_bytes(number, 100) for number in range(5)])
    segment, offset, number = log.stripes[0].at
    assert segment.path is not None
    log.append(event_bytes(6, 100))
    whole = segment.path.read_bytes()
    for stored in range(8, log.stripes[0].at[1] - offset, 8):  # the body is there in part, the head is not
        segment.path.write_bytes(whole[:offset] + bytes(8) + whole[offset + 8 : offset + stored] + bytes(64))
        os.truncate(segment.path, segment.size)
        copy = open_copy(tmp_path / "own.log", tmp_path / "copy")
        assert (copy.events, copy.found.lost, copy.log.pending) == (written, 0, number), stored
