"""The log of one process and one destination: what was accepted, and what of it has ended.

An append takes a stripe from a pool, stores one frame and gives the stripe back: both are single steps of the
interpreter, so no append ever waits for another thread. Where no stripe is free, one more is made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

from otel_audit_exporter.errors import OutboxError, OutboxFullError
from otel_audit_exporter.outbox.ended import (
    ENDS,
    LOST,
    PARKED,
    SEGMENT_FREED,
    SEGMENT_MADE,
    STORED,
    EndedFile,
    EndedRanges,
    Record,
    read_records,
)
from otel_audit_exporter.outbox.frames import EVENT
from otel_audit_exporter.outbox.segment import FIRST_BYTES, Segment, next_size
from otel_audit_exporter.outbox.space import SegmentSpace
from otel_audit_exporter.outbox.stalls import processor_clock
from otel_audit_exporter.outbox.stripe import EventRef, Stripe, StripeBusyError
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.threads import RLock

_NEVER: Final = object()
IDLE_SECONDS: Final = 60.0
_STRIPES_WHERE_SYNCED: Final = 4
ENDED_NAME: Final = "ended"
Range = tuple[Stripe, int, int]


class LogOptions(NamedTuple):
    """How a log is kept. ``durable``: each event survives a power loss. ``write``: auto, mapped or written."""

    durable: bool = False
    write: str = "auto"


class LogClosedError(OutboxError):
    """The log takes no more events: its process's end has begun."""


class OutboxLog:
    """The stripes of one log. :meth:`append` takes no lock; what delivers is safe to use from any thread."""

    def __init__(self, log_id: bytes, space: SegmentSpace, ended: EndedFile | None, *, path: Path | None) -> None:
        self.id = log_id
        self.path = path
        self.space = space
        self.stripes: list[Stripe] = []
        self.closed = False
        self.is_adopted = False
        self._at_rest = False
        self._last_seen = (0, Clock.monotonic())
        self.released = False  # nothing is appended or delivered here any more
        self.refused = 0  # numbers of calls that were refused after they were written
        self.made_in_calls = 0  # segments and stripes that a call had to make, which costs it a write
        self.work: SimpleQueue[Stripe] = SimpleQueue()
        self.on_work: Callable[[], None] = lambda: None
        self.on_stall: Callable[[float], None] = lambda seconds: None
        self._ended = ended
        self._pool: deque[Stripe] = deque()
        # For `for`: an exception can come between no two steps of a loop's head, as it can after a call.
        self._free: Iterator[Stripe] = iter(self._pool.pop, _NEVER)
        self._give_back = self._pool.append
        self._unused: list[Stripe] = []  # made while the log was closed, and in nobody's hand any more
        self._ending = RLock()
        self._indexes = count()

    @classmethod
    def adopted(
        cls, log_id: bytes, space: SegmentSpace, ended: EndedFile, *, path: Path, stripes: list[Stripe]
    ) -> OutboxLog:
        """Return the log of a process that has ended: nothing is appended to it."""
        log = cls(log_id, space, ended, path=path)
        log.stripes, log.closed, log.is_adopted = stripes, True, True
        return log

    # --- appending --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the first stripe, for a log that is new; where each event is synced, some for signal handlers, too.

        To make one there takes several syncs, in which further signals would interrupt each other without an end.
        """
        for _ in range(_STRIPES_WHERE_SYNCED if self.space.durable else 1):
            self._give_back(self._new_stripe(min(FIRST_BYTES, self.space.least_bytes)))

    def append(self, body: bytes, kind: int = EVENT) -> EventRef:
        """Store one event, and return where it lies. It survives the process once this has returned.

        Raises :class:`OutboxFullError` where a new segment is needed and there is no room for one, another
        :class:`OutboxError` where the disk fails, and :class:`LogClosedError` after :meth:`close`.
        """
        stripe = None
        try:
            try:
                for stripe in self._free:  # noqa: B007  # see above
                    break
            except IndexError:
                stripe = self._one_more(len(body))
            return stripe.append(kind, body)  # type: ignore[union-attr]  # else it has raised
        except StripeBusyError:
            return self.append(body, kind)  # in another one, as this one is in hand meanwhile
        except OutboxFullError:
            ref = _append_where_room_is(self._pool, kind, body)
            if ref is None:
                raise
            return ref
        except OSError as error:
            if self.closed:  # its files may be gone
                raise LogClosedError("the outbox is closed") from error
            raise self.space.as_outbox_error(error) from error
        finally:
            if stripe is not None:
                self._give_back(stripe)

    @contextmanager
    def taken_stripe(self) -> Iterator[Stripe]:
        """Take a stripe out of the pool for a while, for several appends at once."""
        try:
            stripe = self._pool.pop()
        except IndexError:
            stripe = self._one_more(0)
        try:
            yield stripe
        finally:
            self._give_back(stripe)

    def _one_more(self, payload_bytes: int) -> Stripe:
        if self.closed:
            raise LogClosedError("the outbox is closed")
        self.made_in_calls += 1
        return self._new_stripe(next_size(0, payload_bytes))

    def _new_stripe(self, size: int) -> Stripe:
        index = next(self._indexes)  # one step: others may make a stripe in the middle of this
        first = self._segment(index, 1, size, size)
        stripe = Stripe(self, index, first, self._segment, self._ask_for_next)
        self.stripes.append(stripe)
        if self.closed:  # meanwhile: nothing is appended to it
            self._unused.append(stripe)
            raise LogClosedError("the outbox is closed")
        return stripe

    def _segment(self, stripe: int, ordinal: int, size: int, needed: int) -> Segment:
        try:
            segment = self.space.make(self.id, stripe, ordinal, size, needed)
        except OutboxFullError:  # the housekeeper may not have come yet to free what has ended
            self.free_segments()
            self.space.recount()
            segment = self.space.make(self.id, stripe, ordinal, size, needed)
        if self._ended is not None:
            self._ended.note([Record(SEGMENT_MADE, stripe, ordinal, segment.size)])
        return segment

    def _ask_for_next(self, stripe: Stripe) -> None:
        self.work.put(stripe)
        self.on_work()

    # --- what was accepted, and what has ended ----------------------------------------------------------------

    @property
    def accepted(self) -> int:
        """How many events were accepted here, ever."""
        return sum(stripe.at[2] for stripe in self.stripes) - self.refused

    @property
    def pending(self) -> int:
        """How many events have not ended."""
        return sum(stripe.pending for stripe in self.stripes)

    def end(self, kind: int, ranges: Iterable[Range]) -> int:
        """Note that events have ended; return how many had not before. To be called after the sink's answer."""
        ranges = list(ranges)
        fresh = 0
        with self._ending:
            for stripe, first, last in ranges:
                if kind == LOST:
                    stripe.lost.append((first, last))
                elif kind == PARKED:
                    stripe.parked.add(first, last)
                fresh += stripe.ended.add(first, last)
        if self._ended is not None:
            self._ended.note(Record(kind, stripe.index, first, last) for stripe, first, last in ranges)
        return fresh

    def note_slow_store(self, seconds: float) -> None:
        """Look into a store that took long: where the volume held it up, the next segments are written, not mapped."""
        if self.space.is_mapped and processor_clock.stood_still(seconds):
            self.space.prefer_written()
            self.on_stall(seconds)

    def still_waits(self, stripe: Stripe, number: int) -> bool:
        """Return whether an event waits in a log that this process has released. Any process may hold it now."""
        if self.path is None:
            return True
        if not self.path.is_dir():  # emptied logs are removed; one that has gone with its directory was not emptied
            return not self.path.parent.is_dir()
        ended = EndedRanges()
        for record in read_records(self.path / ENDED_NAME, self.id):
            if record.kind in ENDS and record.stripe == stripe.index:
                ended.add(record.first, record.last)
        # An emptied log may have been removed while its records were read.
        return number not in ended and (self.path.is_dir() or not self.path.parent.is_dir())

    # --- keeping house ----------------------------------------------------------------------------------------

    def do_work(self) -> None:
        """Make the segments that will be needed soon; let go of what is empty. For a thread that may wait."""
        asking = set()  # each call asks until there is one
        while not self.work.empty():
            asking.add(self.work.get())
        for stripe in asking:
            if stripe.spare is None and self.space.may_prepare(early=not stripe.is_half_full):
                with suppress(OSError, OutboxError):  # then the call that needs one reports it
                    stripe.prepare()
                    self._keep_one_free()
        for stripe in list(self.stripes):
            stripe.close_left()
        if self._is_idle():
            self._shrink()
        self.free_segments()
        if self._ended is not None and self._ended.is_long:
            with suppress(OSError):
                self._ended.replace(record for stripe in list(self.stripes) for record in records_of(stripe))

    def _keep_one_free(self) -> None:
        """Have a stripe ready for a call that comes while all are in hand: to make its file takes a call long."""
        is_wanted = self.path is not None and (len(self.stripes) == 1 or not self._pool)
        if is_wanted and not self.closed and self.space.quota.is_roomy:
            self._pool.appendleft(self._new_stripe(FIRST_BYTES))

    def _is_idle(self) -> bool:
        """Return whether nothing waits, and nothing has come for a while."""
        accepted, now = self.accepted, Clock.monotonic()
        if accepted != self._last_seen[0] or self.closed:
            self._last_seen = (accepted, now)
        return self.pending == 0 and now - self._last_seen[1] > IDLE_SECONDS

    def _shrink(self) -> None:
        """Keep no more than a small segment for each stripe that nobody has in hand."""
        self.space.drop_all_emptied()  # else a large one would be used again
        for _ in range(len(self._pool)):
            with suppress(IndexError, OSError, OutboxError):
                stripe = self._pool.popleft()  # the next one each time, as it is given back at the other end
                try:
                    stripe.shrink()
                finally:
                    self._give_back(stripe)

    def free_segments(self) -> None:
        """Let go of the segments of which every event has ended: for other uses, or for the disk.

        Several threads may do so at once, as a call does where there is no room: one of them drops each segment.
        """
        for stripe in list(self.stripes):
            for segment in stripe.emptied():
                if self._ended is not None and not self._ended.note(
                    [Record(SEGMENT_FREED, stripe.index, segment.ordinal, segment.size)], sync=True
                ):
                    return
                if stripe.drop(segment):
                    self.space.free(segment)

    def close(self) -> bool:
        """Take no more events; return whether nobody appends any more. What has not ended stays on disk."""
        self.closed = True
        if self.is_adopted or self._at_rest:
            return True
        mine = []
        with suppress(IndexError):
            while True:
                mine.append(self._pool.pop())
        unused = len(self._unused)  # counted before the stripes, as one of these is listed first
        if len(mine) + unused == len(self.stripes):
            self._at_rest = True
            return True
        for stripe in mine:  # somebody is in the middle of an append: the caller looks again
            self._give_back(stripe)
        return False

    def close_files(self) -> None:
        """Let go of every file."""
        self.released = True
        for segment in self._all_segments():
            segment.close()
        if self._ended is not None:
            self._ended.close()

    def _all_segments(self) -> Iterator[Segment]:
        for stripe in list(self.stripes):
            yield from list(stripe.segments)
            if stripe.spare is not None:
                yield stripe.spare

    @property
    def used_bytes(self) -> int:
        """The room that events have taken; segments that hold none yet do not count."""
        return sum(stripe.used_bytes for stripe in list(self.stripes))

    @property
    def size_bytes(self) -> int:
        """The room that its segments take."""
        return sum(segment.size for segment in self._all_segments())

    def forget(self) -> None:
        """In a forked child: let go of the parent's log, and of nothing that is in it."""
        self.closed = self.released = True
        self.space.forget()
        for segment in self._all_segments():
            with suppress(OSError, ValueError):
                segment.forget()
        if self._ended is not None:
            self._ended.forget()
        self._ending = RLock()


def _append_where_room_is(pool: deque[Stripe], kind: int, body: bytes) -> EventRef | None:
    """Store an event in a stripe of the pool that has room for it; None where none has."""
    with suppress(IndexError):
        for _, stripe in zip(range(len(pool)), iter(pool.popleft, _NEVER), strict=False):
            try:
                if stripe.has_room_for(len(body)):
                    return stripe.append(kind, body)
            finally:
                pool.append(stripe)
    return None


def records_of(stripe: Stripe) -> Iterator[Record]:
    """Yield records that say what all that were written of a stripe say."""
    yield Record(SEGMENT_FREED, stripe.index, stripe.segments[0].ordinal - 1, 0)
    spare = stripe.spare  # read first, as it becomes one of the segments
    for segment in [*stripe.segments, *([] if spare is None else [spare])]:
        yield Record(SEGMENT_MADE, stripe.index, segment.ordinal, segment.size)
    for first, last in stripe.ended.ranges():
        yield Record(STORED, stripe.index, first, last)
