"""Reading a stripe from its oldest event on, past what is damaged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from otel_audit_exporter.outbox.frames import (
    EVENT,
    HEAD_BYTES,
    INVALID_EVENT,
    META_BYTES,
    NUMBER_MASK,
    SEAL,
    find_frame,
    frame_at,
    frame_bytes,
    size_at,
    unpack_frame,
)
from otel_audit_exporter.outbox.segment import HEADER_BYTES, Segment
from otel_audit_exporter.outbox.stripe import Stripe

CHUNK_BYTES: Final = 2**20
_LOOK_BYTES: Final = 2**16  # a large piece for a short look would stay with the process


@dataclass
class Read:
    """What was read: runs of events with their numbers, offsets and bytes, and ranges of numbers that are lost.

    ``invalid``: events that are wrong by themselves, each with its segment, number, offset and bytes. ``unknown``: how
    many frames are of a kind that this version does not know.
    """

    parts: list[tuple[Segment, list[int], list[int], list[bytes]]] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    invalid: list[tuple[Segment, int, int, bytes]] = field(default_factory=list)
    unknown: int = 0
    rows: int = 0
    bytes: int = 0


class StripeReader:
    """Gives a stripe's events, each once, the oldest first. Not to be used by two threads at once.

    Nothing is given that its checksum does not prove. A damage is passed over to the next whole frame; the gap in
    the numbers shows which events are lost with it.
    """

    def __init__(self, stripe: Stripe) -> None:
        self._stripe = stripe
        self._segment = stripe.segments[0]
        self._offset = HEADER_BYTES
        self.number = 0  # of the last event that was given, or is lost

    def read(self, limit: int, max_bytes: int) -> Read:
        """Return up to ``limit`` events of up to ``max_bytes`` together, at least one where there is one."""
        got = Read()
        while got.rows < limit and got.bytes < max_bytes:
            current, end, newest = self._stripe.at
            if self.number >= newest:
                break
            is_current = self._segment is current
            stop = end if is_current else self._segment.size
            if self._read_chunk(got, stop, limit, max_bytes):
                continue
            if is_current:  # what was published and is not there has to be given up
                self.number = self._close_gap(got, self.number, newest + 1)
            elif not self._go_on():
                break
        return got

    def _read_chunk(self, got: Read, stop: int, limit: int, max_bytes: int) -> bool:
        """Take frames of one piece of the segment; False where the segment has no more."""
        want = min(max(CHUNK_BYTES, self._frame_size()), stop - self._offset)
        if want <= 0:
            return False
        buffer, base = self._bytes(self._offset, want), self._offset
        self._segment.note(self.number + 1, base)
        at, sealed = self._take_frames(got, buffer, base, limit - got.rows, max_bytes - got.bytes)
        self._offset = base + at
        if sealed:
            return False
        if got.rows >= limit or got.bytes >= max_bytes or (at and base + len(buffer) < stop):
            return True  # enough, or the next frame goes on beyond this piece
        return self._pass_damage(got, buffer, at, base, stop)

    def _take_frames(self, got: Read, buffer: bytes, base: int, limit: int, max_bytes: int) -> tuple[int, bool]:
        """Take the whole frames from a buffer's beginning; return where they end, and whether the segment does."""
        at, seed, total, number = 0, self._segment.seed, len(buffer), self.number
        last, taken, sealed = total - HEAD_BYTES - META_BYTES, 0, False
        numbers: list[int] = []
        offsets: list[int] = []
        bodies: list[bytes] = []
        while len(bodies) < limit and taken < max_bytes and at <= last:
            size, crc, tag = unpack_frame(buffer, at)
            end = at + HEAD_BYTES + size
            payload = buffer[at + HEAD_BYTES : end]
            if size < META_BYTES or end > total or crc32(payload, seed) != crc:
                break
            if tag == EVENT + number + 1:  # nearly always: the next event
                number += 1
                numbers.append(number)
                offsets.append(base + at)
                bodies.append(payload[META_BYTES:])
                taken += size - META_BYTES
            elif tag >= SEAL:
                number = self._close_gap(got, number, (tag & NUMBER_MASK) + 1)
                sealed = True
                break
            elif tag & NUMBER_MASK > number:
                number = self._close_gap(got, number, tag & NUMBER_MASK) + 1
                taken += size - META_BYTES
                if EVENT <= tag < INVALID_EVENT:
                    numbers.append(number)
                    offsets.append(base + at)
                    bodies.append(payload[META_BYTES:])
                else:
                    self._put_apart(got, tag - number, number, base + at, payload[META_BYTES:])
            at = end + 7 & ~7
        self.number = number
        got.bytes += taken
        if numbers:
            got.parts.append((self._segment, numbers, offsets, bodies))
            got.rows += len(numbers)
        return at, sealed

    def _put_apart(self, got: Read, kind: int, number: int, offset: int, body: bytes) -> None:
        """Note a frame that goes to no sink. One of an unknown kind is kept, and keeps its segment."""
        if kind == INVALID_EVENT:
            got.invalid.append((self._segment, number, offset, body))
        else:
            got.unknown += 1

    def _frame_size(self) -> int:
        return size_at(self._bytes(self._offset, HEAD_BYTES), 0)

    def _bytes(self, offset: int, size: int) -> bytes:
        try:
            return self._segment.read(offset, size)
        except OSError:  # the file is missing: its events are lost, which the gap in the numbers shows
            return b""

    def _pass_damage(self, got: Read, buffer: bytes, at: int, base: int, stop: int) -> bool:
        """Go on at the next whole frame of the segment; False where there is none."""
        rest = buffer[at:] if base + len(buffer) >= stop else self._bytes(base + at, stop - base - at)
        if not rest.strip(b"\0"):
            return False
        found = find_frame(rest, 8, self._segment.seed, self.number)
        if found is None:
            return False
        self._offset = base + at + found.offset
        return True

    @staticmethod
    def _close_gap(got: Read, number: int, following: int) -> int:
        """Note what is missing between two numbers; return the last one that is given or lost now."""
        if following > number + 1:
            got.lost.append((number + 1, following - 1))
        return max(number, following - 1)

    def _go_on(self) -> bool:
        """Go to the next segment."""
        for segment in list(self._stripe.segments):
            if segment.ordinal > self._segment.ordinal:
                self._segment, self._offset = segment, HEADER_BYTES
                return True
        return False


def read_event(segment: Segment, offset: int, number: int, kind: int = EVENT) -> bytes | None:
    """Return the bytes of one event where its frame lies; None where no whole one of its kind is there."""
    try:
        head = segment.read(offset, HEAD_BYTES)
        frame = frame_at(segment.read(offset, size_at(head, 0)), 0, segment.seed)
    except OSError:
        return None
    return frame.body if frame is not None and (frame.kind, frame.number) == (kind, number) else None


def find_event(stripe: Stripe, number: int) -> tuple[Segment, int] | None:
    """Return the segment and the offset of an event, whose frame is not checked; None where it is not found."""
    for segment in list(stripe.segments):
        if segment.last_number is None or segment.last_number >= number:
            offset = _find_in(segment, number)
            return None if offset is None else (segment, offset)
    return None


def _find_in(segment: Segment, number: int) -> int | None:
    offset = segment.nearest(number)
    while True:
        try:
            buffer = segment.read(offset, min(_LOOK_BYTES, segment.size - offset))
        except OSError:
            return None
        at = 0
        while at + HEAD_BYTES + META_BYTES <= len(buffer):
            size, _, tag = unpack_frame(buffer, at)
            if size < META_BYTES or tag >= SEAL:
                return None
            if tag & NUMBER_MASK == number:
                return offset + at
            at += frame_bytes(size)
        if at == 0:
            return None
        offset += at
