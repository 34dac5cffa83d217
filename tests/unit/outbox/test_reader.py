"""Reading a live log: each event once, past every damage, and what is lost is counted exactly."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from otel_audit_exporter.outbox.ended import STORED
from otel_audit_exporter.outbox.log import OutboxLog
from otel_audit_exporter.outbox.reader import StripeReader, find_event, read_event
from otel_audit_exporter.outbox.segment import HEADER_BYTES, FileSegment, Segment, WrittenSegment
from tests.support.raw_logs import KINDS, Event, event_bytes, file_log, make_log, memory_log, read_all, said

FLIPS = 500


@pytest.fixture(params=KINDS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OutboxLog]:
    made = make_log(request.param, tmp_path / "own.log")
    yield made
    made.close_files()


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(bit >> 3)
        (byte,) = file.read(1)
        file.seek(bit >> 3)
        file.write(bytes([byte ^ 1 << (bit & 7)]))


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_a_read_respects_its_limit_and_the_rest_follows(log: OutboxLog, limit: int) -> None:
    written = said(log, [event_bytes(number, 300) for number in range(1000)])
    reader, found = StripeReader(log.stripes[0]), list[int]()
    while reader.number < 1000:
        got = reader.read(limit, 100_000)
        assert 0 < got.rows <= limit
        assert got.bytes < 100_300
        found += [number for _, numbers, _, _ in got.parts for number in numbers]
    assert found == [number for _, number, _ in written]
    assert reader.read(limit, 100_000).rows == 0


def test_an_event_larger_than_what_was_asked_for_is_given_alone(log: OutboxLog) -> None:
    written = said(log, [event_bytes(1, 3_000_000), event_bytes(2, 3_000_000)])
    reader = StripeReader(log.stripes[0])
    for _, number, body in written:
        got = reader.read(100, 1000)
        assert [(numbers, bodies) for _, numbers, _, bodies in got.parts] == [([number], [body])]


def test_what_is_appended_while_somebody_reads_is_given_once(log: OutboxLog) -> None:
    written: list[Event] = []
    writing = threading.Thread(target=lambda: written.extend(said(log, map(event_bytes, range(4000)))))
    reader, found, stripe = StripeReader(log.stripes[0]), list[int](), log.stripes[0]
    writing.start()
    while writing.is_alive() or reader.number < stripe.at[2]:
        got = reader.read(100, 2**20)
        assert got.lost == []
        found += [number for _, numbers, _, _ in got.parts for number in numbers]
    writing.join()
    assert found == list(range(1, 4001))


def test_where_every_event_lies_it_is_found_again(log: OutboxLog) -> None:
    refs = [log.append(event_bytes(number, 3000)) for number in range(100)]
    read_all(log)
    for number, (stripe, at, segment, offset) in enumerate(refs):
        assert read_event(segment, offset, at) == event_bytes(number, 3000)
        assert read_event(segment, offset, at + 1) is None
        assert read_event(segment, offset + 8, at) is None
        assert find_event(stripe, at) == (segment, offset)
    assert find_event(log.stripes[0], 101) is None


def test_an_event_is_found_that_nobody_has_read(log: OutboxLog) -> None:
    refs = [log.append(event_bytes(number, 10 + number * 37 % 2000)) for number in range(300)]
    refs += [log.append(event_bytes(number, 90_000)) for number in range(300, 305)]
    for stripe, number, segment, offset in reversed(refs):
        assert find_event(stripe, number) == (segment, offset)
    assert find_event(log.stripes[0], 306) is None


@pytest.mark.parametrize("kind", ["mapped", "written"])
def test_a_flipped_bit_in_a_live_log_is_harmless_or_counted(tmp_path: Path, kind: str) -> None:
    """The number of lost events is exact."""
    log, chance = make_log(kind, tmp_path / "own.log"), Random(kind)
    written = said(log, [event_bytes(number, chance.randrange(20, 3000)) for number in range(250)])
    ends = [*(segment.size for segment in log.stripes[0].segments[:-1]), log.stripes[0].at[1]]
    files = [segment.path for segment in log.stripes[0].segments if isinstance(segment, FileSegment)]
    assert len(files) > 2
    hurt = 0
    for _ in range(FLIPS // 2):
        at = chance.randrange(len(files))
        bit = chance.randrange(ends[at] * 8)
        flip(files[at], bit)
        events, lost = read_all(log)
        gone = sum(last - first + 1 for _, first, last in lost)
        assert set(events) <= set(written)
        assert len(events) + gone == len(written), (at, bit)
        assert gone <= 1
        hurt += gone
        flip(files[at], bit)
    assert hurt > FLIPS // 5
    assert read_all(log) == (written, [])


def test_many_damaged_places_in_a_live_log_are_counted_exactly(tmp_path: Path) -> None:
    """The number of lost events is exact."""
    log, chance = file_log(tmp_path / "own.log"), Random(5)
    written = said(log, [event_bytes(number, chance.randrange(20, 3000)) for number in range(250)])
    for _ in range(30):
        segment = chance.choice(log.stripes[0].segments)
        flip(tmp_path / "own.log" / str(segment.path), chance.randrange(segment.size * 8))
        events, lost = read_all(log)
        assert set(events) <= set(written)
        assert len(events) + sum(last - first + 1 for _, first, last in lost) == len(written)


@pytest.mark.parametrize("which", [0, 1, -1])
@pytest.mark.parametrize("how", ["removed", "cut", "emptied"])
def test_a_live_segment_that_is_gone_costs_what_was_in_it(tmp_path: Path, which: int, how: str) -> None:
    log = file_log(tmp_path / "own.log", WrittenSegment)
    written = said(log, [event_bytes(number, 3000) for number in range(150)])
    damaged = log.stripes[0].segments[which]
    assert damaged.path is not None
    if how == "removed":
        damaged.path.unlink()
        damaged.close()
    else:
        with damaged.path.open("r+b") as file:
            file.truncate(HEADER_BYTES + 40_000 if how == "cut" else 0)
    events, lost = read_all(log)
    assert set(events) <= set(written)
    assert 0 < len(written) - len(events) == sum(last - first + 1 for _, first, last in lost)


@pytest.mark.parametrize("kind", ["mapped", "written"])
def test_a_live_log_is_readable_after_its_folder_was_removed(tmp_path: Path, kind: str) -> None:
    """As long as its files are open."""
    log = make_log(kind, tmp_path / "own.log")
    written = said(log, [event_bytes(number, 100) for number in range(100)])
    shutil.rmtree(tmp_path / "own.log")
    written += said(log, [event_bytes(number, 100) for number in range(100, 150)])
    assert read_all(log) == (written, [])
    log.close_files()
    assert read_all(log)[0] == []


class Dropping(list[Segment]):
    """Segments of which somebody frees the first one while another looks through them."""

    def __iter__(self) -> Iterator[Segment]:
        seen = list(self[:])
        if self and self[0].last_number is not None:
            del self[0]
        yield from seen


def test_a_segment_freed_during_a_read_makes_it_skip_nothing() -> None:
    log = memory_log()
    written = said(log, [event_bytes(number, 3000) for number in range(150)])
    stripe = log.stripes[0]
    reader = StripeReader(stripe)
    log.end(STORED, [(stripe, 1, stripe.segments[0].last_number or 0)])
    stripe.segments = Dropping(stripe.segments)
    got = reader.read(1000, 2**30)
    assert (got.rows, got.lost) == (len(written), [])
