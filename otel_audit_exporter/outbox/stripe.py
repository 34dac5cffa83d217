"""A stripe: segments that one append at a time writes, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Protocol
from zlib import crc32

from otel_audit_exporter.outbox.ended import EndedRanges
from otel_audit_exporter.outbox.frames import CRC_STEP, META_BYTES, SEAL, checksum, frame_bytes, pack_meta
from otel_audit_exporter.outbox.segment import FIRST_BYTES, HEADER_BYTES, Segment, next_size
from otel_audit_exporter.outbox.stalls import SLOW_SECONDS
from otel_audit_exporter.runtime.clock import Clock

# Where an event lies: its stripe and number, and the segment and offset of its frame. A plain tuple: one is made in
# every call.
EventRef = tuple["Stripe", int, Segment, int]

MakeSegment = Callable[[int, int, int, int], Segment]
"""Makes a segment, given its stripe, its number, the size to have and the size that it needs at least."""


class LogOfStripe(Protocol):
    """What a stripe's reference knows of its log."""

    @property
    def released(self) -> bool:
        """Whether this process has released it."""
        ...

    def note_slow_store(self, seconds: float) -> None:
        """Look into a store that took long."""
        ...

    def still_waits(self, stripe: Stripe, number: int) -> bool:
        """Return whether an event waits in a log that this process has released. Any process may hold it now."""
        ...


class StripeBusyError(Exception):
    """Another thread is making the next segment just now: the event goes into another stripe."""


class _Turn:
    """Whose turn it is to make a stripe's next segment: the call's that has the stripe in hand, or the housekeeper's.

    Nobody waits for it: a signal handler that did would wait for another thread, which may wait for a lock that this
    one holds. Entering raises :class:`StripeBusyError` where another thread has it.
    """

    __slots__ = ("_free", "preparing")

    def __init__(self) -> None:
        self._free = deque([True], maxlen=1)
        self.preparing: deque[bool] = deque()  # one for each thread that means to prepare the stripe

    def __enter__(self) -> None:
        if not self._free and not self.preparing:
            self._free.append(True)  # an exception between two steps of a call had lost it
        try:
            self._free.pop()
        except IndexError:
            raise StripeBusyError from None

    def __exit__(self, *_: object) -> None:
        self._free.append(True)


class Stripe:
    """One stripe of a log. The thread that has it from the pool appends; anybody may read what is published in ``at``.

    ``at`` is the segment that is written, where its next frame goes, and the number of the newest event. It is
    published by one assignment, after the frame's head: an append that is interrupted anywhere before has not
    happened.
    """

    __slots__ = (
        "_ask_for_next",
        "_make",
        "_ordinals",
        "_turn",
        "at",
        "ended",
        "index",
        "log",
        "lost",
        "parked",
        "segments",
        "spare",
    )

    def __init__(
        self,
        log: LogOfStripe,
        index: int,
        first: Segment,
        make: MakeSegment,
        ask_for_next: Callable[[Stripe], None],
    ) -> None:
        self.log = log
        self.index = index
        self.segments = [first]
        self.at: tuple[Segment, int, int] = (first, HEADER_BYTES, 0)
        self.spare: Segment | None = None
        self.ended = EndedRanges()
        self.lost: list[tuple[int, int]] = []
        self.parked = EndedRanges()
        self._make = make
        self._ordinals = count(first.ordinal + 1)
        self._turn = _Turn()
        self._ask_for_next = ask_for_next

    @property
    def pending(self) -> int:
        """How many events have not ended. What has ended is read first: the result is never below 0."""
        ended = self.ended.count
        return max(self.at[2] - ended, 0)  # what is refused ends before it is published

    @property
    def used_bytes(self) -> int:
        """The room that events have taken: all of the full segments, and a part of the one that is written."""
        current, offset, _ = self.at
        used = current.size - max(current.limit - offset, 0)
        for segment in list(self.segments):
            if segment is current:
                break
            used += segment.size
        return used

    # The clock is a default argument, because test tools that replace clocks patch only names of modules. The age of
    # the events of a dead process comes from it.
    def append(self, kind: int, body: bytes, clock: Callable[[], float] = Clock.wall) -> EventRef:
        """Store one frame; it survives the process once this has returned. Takes no lock."""
        segment, offset, number = self.at
        number += 1
        begun = clock()
        payload = pack_meta(kind | number, begun) + body
        size = len(payload)
        end = offset + 8 + (size + 7 & ~7)
        if end > segment.limit:
            segment = self.next_segment(size)
            offset = HEADER_BYTES
            end = offset + 8 + (size + 7 & ~7)
        crc = crc32(payload, segment.seed) if size <= CRC_STEP else checksum(payload, segment.seed)
        segment.put(offset, end, payload, crc)
        self.at = (segment, end, number)
        if clock() - begun > SLOW_SECONDS:
            self.log.note_slow_store(clock() - begun)
        if end > segment.prepare_at and self.spare is None:
            self._ask_for_next(self)
        return self, number, segment, offset

    def has_room_for(self, body_bytes: int) -> bool:
        """Return whether an event fits into what there is: the present segment, or the one made beforehand."""
        segment, offset, _ = self.at
        spare, needed = self.spare, frame_bytes(META_BYTES + body_bytes)
        return offset + needed <= segment.limit or (spare is not None and HEADER_BYTES + needed <= spare.limit)

    def next_segment(self, payload_bytes: int) -> Segment:
        """Go on in the next segment: the one that was made beforehand, where there is one that is large enough.

        Raises :class:`StripeBusyError` where there is none, and another thread is making one.
        """
        segment, offset, number = self.at
        new = self.spare
        if new is not None:  # else one that comes just now would be forgotten
            self.spare = None
        if new is None or HEADER_BYTES + frame_bytes(payload_bytes) > new.limit:
            new = self._make_now(new, segment, payload_bytes)
        self._go_on_in(new, segment, offset, number)
        return new

    def _go_on_in(self, new: Segment, segment: Segment, offset: int, number: int) -> None:
        """Seal the present segment, and go on in a new one.

        It is published before anything is in it: an exception in the middle of its first append leaves no frame
        behind that nobody accepted, where a reader would come by.
        """
        self._seal(segment, offset, number)
        self.segments.append(new)
        self.at = (new, HEADER_BYTES, number)
        for left in list(self.segments):
            if left.last_number is None and left is not new:
                left.last_number = number

    def _make_now(self, too_small: Segment | None, segment: Segment, payload_bytes: int) -> Segment:
        """Make a segment in the middle of a call, which waits for the disk."""
        try:
            with self._turn:
                made, self.spare = self.spare, None
                for unused in (too_small, made):
                    if unused is not None and HEADER_BYTES + frame_bytes(payload_bytes) <= unused.limit:
                        return unused
                    if unused is not None:
                        self.segments.append(unused)  # left empty: the segments are used in their order
                size = next_size(segment.size, payload_bytes)
                return self._make(self.index, next(self._ordinals), size, next_size(0, payload_bytes))
        except StripeBusyError:
            if too_small is not None:
                self.segments.append(too_small)
            raise

    def _seal(self, segment: Segment, offset: int, number: int, clock: Callable[[], float] = Clock.wall) -> None:
        """Say at the end of a full segment that there is another one."""
        payload = pack_meta(SEAL | number, clock())
        segment.put(offset, offset + frame_bytes(len(payload)), payload, crc32(payload, segment.seed))

    @property
    def is_half_full(self) -> bool:
        """Whether half of the present segment has been written."""
        segment, offset, _ = self.at
        return offset * 2 > segment.size

    def prepare(self) -> None:
        """Make the next segment beforehand, so that no call has to."""
        self._turn.preparing.append(True)
        try:
            with suppress(StripeBusyError), self._turn:  # else a call makes one
                if self.spare is None:
                    size = next_size(self.at[0].size, 0)
                    self.spare = self._make(self.index, next(self._ordinals), size, next_size(0, 0))
        finally:
            self._turn.preparing.pop()

    def shrink(self) -> None:
        """Go on in a small segment, where the present one is larger. Only the holder of the stripe may call this."""
        segment, offset, number = self.at
        if segment.size <= FIRST_BYTES and self.spare is None:
            return
        with suppress(StripeBusyError), self._turn:
            new = self._make(self.index, next(self._ordinals), FIRST_BYTES, FIRST_BYTES)
            spare, self.spare = self.spare, None
            if spare is not None:
                self.segments.append(spare)
            self._go_on_in(new, segment, offset, number)

    def close_left(self) -> None:
        """Let go of the maps of segments that are full: they are read from their files."""
        current = self.at[0]
        for segment in list(self.segments):
            if segment is current:
                break
            segment.close()

    def emptied(self) -> list[Segment]:
        """Return the segments before the present one of which every event has ended."""
        current = self.at[0]
        upto = self.ended.upto
        found = []
        for segment in list(self.segments):
            if segment is current or segment.last_number is None or segment.last_number > upto:
                break
            found.append(segment)
        return found

    def drop(self, segment: Segment) -> bool:
        """Forget an emptied segment; False where another thread has."""
        with suppress(ValueError):
            self.segments.remove(segment)
            return True
        return False


def is_pending(ref: EventRef) -> bool:
    """Return whether the event has not ended. In a released log, another process may have ended it."""
    stripe, number, *_ = ref
    return number not in stripe.ended and (not stripe.log.released or stripe.log.still_waits(stripe, number))


def is_elsewhere(ref: EventRef) -> bool:
    """Return whether the event's log is not this process's any more: it was released, or is the parent's."""
    return ref[0].log.released


def was_parked(ref: EventRef) -> bool:
    """Return whether this process has parked the event."""
    return ref[1] in ref[0].parked


def is_lost(ref: EventRef) -> bool:
    """Return whether the event was damaged, and cannot be read any more."""
    return any(first <= ref[1] <= last for first, last in ref[0].lost)
