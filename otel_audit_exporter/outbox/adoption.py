"""Opening the log that a dead process has left: its stripes, what of them has ended, and what is damaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from zlib import crc32

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.outbox.ended import (
    ENDS,
    LOST,
    SEGMENT_FREED,
    SEGMENT_MADE,
    EndedFile,
    Record,
    read_records,
)
from otel_audit_exporter.outbox.frames import (
    HEAD_BYTES,
    META_BYTES,
    NUMBER_MASK,
    SEAL,
    find_frame,
    unpack_beginning,
)
from otel_audit_exporter.outbox.log import ENDED_NAME, OutboxLog
from otel_audit_exporter.outbox.segment import (
    HEADER_BYTES,
    SPARE_SUFFIX,
    SUFFIX,
    FileSegment,
    ForeignSegmentError,
    Segment,
    open_existing,
    segment_name,
    shorten,
)
from otel_audit_exporter.outbox.space import SegmentSpace
from otel_audit_exporter.outbox.stripe import Stripe

_SECTOR: Final = 512
DAMAGED_SUFFIX: Final = ".damaged"


@dataclass
class Findings:
    """What was found in a log: its stripes, how many events are lost at least, and what to report of its files."""

    stripes: list[Stripe] = field(default_factory=list)
    lost: int = 0
    lost_exactly: bool = True
    lost_ranges: list[tuple[Stripe, int, int]] = field(default_factory=list)
    foreign: list[tuple[Path, str]] = field(default_factory=list)
    free: list[Path] = field(default_factory=list)
    oldest_accepted_at: float | None = None

    @property
    def is_damaged(self) -> bool:
        """Whether something has to be reported."""
        return self.lost > 0 or bool(self.foreign)

    @property
    def pending(self) -> int:
        """How many events wait."""
        return sum(stripe.pending for stripe in self.stripes) - self.lost


def open_orphan(path: Path, log_id: bytes, space: SegmentSpace, *, durable: bool) -> tuple[OutboxLog, Findings]:
    """Open a log whose lock this process holds, for delivering what is in it. Nothing is appended to it.

    A file that is damaged or belongs to another log does not block the others: it is set aside and reported.
    """
    ended = EndedFile(path / ENDED_NAME, log_id, durable=durable)
    records = ended.read()
    found = examine(path, log_id, records)
    if found.foreign and not records and not found.stripes:
        ended.close()
        raise OutboxError(f"none of its {len(found.foreign)} segment(s) is its own: what it says of itself is damaged")
    log = OutboxLog.adopted(log_id, space, ended, path=path, stripes=found.stripes)
    for stripe in found.stripes:
        stripe.log = log
    log.end(LOST, found.lost_ranges)
    for file, _ in found.foreign:
        with suppress(OSError):
            file.rename(file.with_name(f"{file.name}{DAMAGED_SUFFIX}"))
    for file in (*found.free, *path.glob(f"*{SPARE_SUFFIX}")):
        with suppress(OSError):
            file.unlink()
    for stripe in found.stripes:
        _cut(stripe)
    return log, found


def _cut(stripe: Stripe) -> None:
    """Give the unused rest of the last segment back to the disk."""
    last, end, _ = stripe.at
    if isinstance(last, FileSegment) and end < last.size:
        with suppress(OSError):
            shorten(last, end)


def look_through(path: Path, log_id: bytes) -> Findings:
    """Look through a log and its record of ended events, and change nothing."""
    return examine(path, log_id, read_records(path / ENDED_NAME, log_id))


def examine(path: Path, log_id: bytes, records: list[Record]) -> Findings:
    """Look through a log, and change nothing."""
    found = Findings()
    home = _Home()
    freed: dict[int, int] = defaultdict(int)  # segments are freed in their order
    for record in records:
        if record.kind == SEGMENT_FREED:
            freed[record.stripe] = max(freed[record.stripe], record.first)
    segments = _segments(path, log_id, freed, found)
    made = {(record.stripe, record.first) for record in records if record.kind == SEGMENT_MADE}
    for index in range(1 + max((stripe for stripe, _ in (*segments, *made)), default=-1)):
        ordinals = sorted({at for stripe, at in (*segments, *made) if stripe == index and at > freed[index]})
        mine: list[Segment] = [segments.get((index, at)) or MissingSegment(log_id, index, at) for at in ordinals]
        found.stripes.append(_stripe(home, index, mine or [MissingSegment(log_id, index, freed[index] + 1)], records))
        if ordinals:
            _scan(found.stripes[-1], found)
    return found


def _segments(
    path: Path, log_id: bytes, freed: Mapping[int, int], found: Findings
) -> dict[tuple[int, int], FileSegment]:
    """Return the segments by stripe and ordinal, without those that are noted as free."""
    segments: dict[tuple[int, int], FileSegment] = {}
    for file in sorted(path.glob(f"*{SUFFIX}")):
        try:
            segment = open_existing(file, log_id)
        except (ForeignSegmentError, OSError) as error:
            found.foreign.append((file, str(error)))
            continue
        place = segment.stripe, segment.ordinal
        if segment.ordinal <= freed[segment.stripe]:
            found.free.append(file)
        elif place in segments and file.name != segment_name(*place):
            found.foreign.append((file, f"{file}: a copy of {segments[place].path.name}"))
        else:
            if place in segments:
                copy = segments[place].path
                found.foreign.append((copy, f"{copy}: a copy of {file.name}"))
            segments[place] = segment
    return segments


def _stripe(home: _Home, index: int, segments: list[Segment], records: Iterable[Record]) -> Stripe:
    stripe = Stripe(home, index, segments[0], _appends_nothing, _prepares_nothing)
    stripe.segments = segments
    for record in records:
        if record.kind in ENDS and record.stripe == index:
            stripe.ended.add(record.first, record.last)
            if record.kind == LOST:
                stripe.lost.append((record.first, record.last))
    stripe.at = (segments[-1], HEADER_BYTES, max((last for _, last in stripe.ended.ranges()), default=0))
    return stripe


def _scan(stripe: Stripe, found: Findings) -> None:
    """Find the last event of a stripe, and what is lost before it."""
    scan = _Scan(stripe)
    for segment in stripe.segments:
        scan.read(segment)
    lost = scan.finish()
    found.lost += sum(stop - start + 1 for a, b in lost for start, stop in stripe.ended.missing(a, b))
    found.lost_exactly &= not scan.uncertain
    found.lost_ranges += ((stripe, first, last) for first, last in lost)
    if scan.oldest_accepted_at is not None:
        known = found.oldest_accepted_at
        found.oldest_accepted_at = min(scan.oldest_accepted_at, scan.oldest_accepted_at if known is None else known)
    stripe.at = (stripe.segments[-1], scan.end, scan.number)


class _Scan:
    """One pass over a stripe's segments: every frame's checksum, the numbers, and the gaps between them."""

    def __init__(self, stripe: Stripe) -> None:
        self._ended = stripe.ended
        self._lost_before = max((last for _, last in stripe.lost), default=0)  # when it was opened before
        self._lost: list[tuple[int, int]] = []
        self._starts_whole = stripe.segments[0].ordinal == 1
        self._sealed = True  # a segment that is missing had events, unless the one before was not full
        self.number = 0
        self.end = HEADER_BYTES
        self.uncertain = False  # something is damaged since the last whole frame
        self.oldest_accepted_at: float | None = None

    def read(self, segment: Segment) -> None:
        """Read one segment."""
        try:
            buffer = segment.read(0, segment.size)
        except OSError:
            buffer = b""
        if len(buffer) < segment.size or isinstance(segment, MissingSegment):
            self.uncertain |= self._sealed
        self._sealed = False
        self.end = self._read_frames(buffer, segment.seed)
        segment.last_number = self.number

    def _read_frames(self, buffer: bytes, seed: int) -> int:
        at, size = HEADER_BYTES, len(buffer)
        view = memoryview(buffer)
        while at + HEAD_BYTES + META_BYTES <= size:
            length, crc, tag, accepted_at = unpack_beginning(buffer, at)
            start = at + HEAD_BYTES
            if length < META_BYTES or crc32(view[start : start + length], seed) != crc or start + length > size:
                found = self._past_damage(buffer, at, seed, bool(length or crc) and _has_tag(buffer, at))
                if found is None:
                    break
                at = found
                continue
            if tag >= SEAL:
                self._close_gap((tag & NUMBER_MASK) + 1)
                self._sealed = True
                break
            self._take(tag & NUMBER_MASK, accepted_at)
            at = start + (length + 7 & ~7)
        return at

    def _past_damage(self, buffer: bytes, at: int, seed: int, has_head: bool) -> int | None:
        self.uncertain |= has_head
        if not buffer[at:].strip(b"\0"):
            return None
        found = find_frame(buffer, at + 8, seed, self.number)
        if found is not None:
            self.uncertain = True
        return None if found is None else found.offset

    def _take(self, number: int, accepted_at: float) -> None:
        if number == self.number + 1 and self.oldest_accepted_at is not None:  # nearly every one
            self.number, self.uncertain = number, False
            return
        if number <= self.number:
            return
        if self.number == 0 and not self._starts_whole:  # what came before was in segments that are free
            self.number = min(self._ended.upto or number - 1, number - 1)
            self._ended.add(1, self.number)
        self._close_gap(number)
        self.number = number
        if self.oldest_accepted_at is None and number not in self._ended:
            self.oldest_accepted_at = accepted_at

    def _close_gap(self, following: int) -> None:
        if following > self.number + 1:
            self._lost.append((self.number + 1, following - 1))
            self.number = following - 1
        self.uncertain = False

    def finish(self) -> list[tuple[int, int]]:
        """Return what is lost; at least one event where the end is damaged, which is counted once."""
        self.uncertain &= self.number >= self._lost_before
        self.number = max(self.number, max((last for _, last in self._ended.ranges()), default=0))
        if self.uncertain:
            self.number += 1
            self._lost.append((self.number, self.number))
        return self._lost


def _has_tag(buffer: bytes, at: int) -> bool:
    """Return whether a frame may have been where a head fits no frame.

    Its tag is never zero and is stored first: in the same sector of the disk there is no head without it.
    """
    start = at + HEAD_BYTES
    return start % _SECTOR == 0 or bool(buffer[start : start + 8].strip(b"\0"))


class _Home:
    """Stands for the log of stripes that are only looked at."""

    released = True

    def note_slow_store(self, seconds: float) -> None:
        """Nothing is stored here."""

    def still_waits(self, stripe: Stripe, number: int) -> bool:
        return number not in stripe.ended


class MissingSegment(Segment):
    """A segment that was made, and whose file is gone."""

    def __init__(self, log_id: bytes, stripe: int, ordinal: int) -> None:
        super().__init__(log_id, stripe, ordinal, HEADER_BYTES)

    def read(self, offset: int, size: int) -> bytes:
        """Return nothing: what was in it is lost."""
        return b""


def _appends_nothing(stripe: int, ordinal: int, size: int, needed: int) -> Segment:
    raise AssertionError("nothing is appended to another process's log")


def _prepares_nothing(stripe: Stripe) -> None:
    """Prepare nothing."""
