"""One sync for the events of several threads, where each has to survive a power loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.outbox.ended import REFUSED
from otel_audit_exporter.outbox.frames import EVENT, checksum, frame_bytes, pack_head, pack_meta
from otel_audit_exporter.outbox.log import OutboxLog
from otel_audit_exporter.outbox.segment import HEADER_BYTES, WrittenSegment
from otel_audit_exporter.outbox.stripe import EventRef, Stripe
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.threads import Event, Lock, get_ident

_LARGEST_WRITE: Final = 2**20
_SLOW_SYNC_SECONDS: Final = 1e-3
_GATHERING_SHARE: Final = 0.1  # of what a sync takes


class _Group:
    """Events that are committed together."""

    def __init__(self) -> None:
        self.events: list[tuple[int, bytes]] = []
        self.refs: list[EventRef] = []
        self.done = Event()
        self.wanted = 0  # with so many events it waits for no more
        self.is_full: Event | None = None
        self.error: OutboxError | None = None


class GroupCommit:
    """Appends to a log so that each event is synced before the call returns. The first thread syncs for the others."""

    def __init__(self, log: OutboxLog) -> None:
        self._log = log
        self._lock = Lock()
        self._group: _Group | None = None
        self._writing = Lock()
        self._inside: set[int] = set()
        self._last_size, self._last_seconds = 0, 0.0  # of the group before

    def append(self, body: bytes, kind: int = EVENT) -> EventRef:
        """Store one event and have it synced. Raises :class:`OutboxError` where that fails: it is not recorded then."""
        thread = get_ident()
        if thread in self._inside:  # a signal handler must not wait for the call that it interrupts
            return self._append_alone(kind, body)
        self._inside.add(thread)
        try:
            return self._append_with_others(kind, body)
        finally:
            self._inside.discard(thread)

    def _append_alone(self, kind: int, body: bytes) -> EventRef:
        group = _Group()
        group.events.append((kind, body))
        self._commit(group)
        return self._ref(group, 0)

    def _append_with_others(self, kind: int, body: bytes) -> EventRef:
        mine = _Group()  # where there is none to join
        try:
            with self._lock:
                group = self._group
                if group is None:
                    group = self._group = mine
                place = len(group.events)
                group.events.append((kind, body))
                if group.is_full is not None and place + 1 == group.wanted:
                    group.is_full.set()
            if group is mine:
                self._lead(mine)
            else:
                group.done.wait()
            return self._ref(group, place)
        finally:
            self._dismiss(mine)

    def _lead(self, group: _Group) -> None:
        """Wait until the group before is through, and commit all that has come meanwhile."""
        with self._writing:
            self._gather(group)
            with self._lock:
                self._group = None
            begun = Clock.monotonic()
            self._commit(group)
            self._last_size, self._last_seconds = len(group.events), Clock.monotonic() - begun

    def _gather(self, group: _Group) -> None:
        """Where a sync takes long, give those of the group before a moment to come again: else two groups take turns.

        A single thread never waits here.
        """
        if self._last_size > 1 and self._last_seconds > _SLOW_SYNC_SECONDS:
            with self._lock:
                group.is_full, group.wanted = Event(), len(group.events) + self._last_size
            group.is_full.wait(self._last_seconds * _GATHERING_SHARE)

    def _dismiss(self, group: _Group) -> None:
        """Have nobody join or await this group any more, even where the leading call ended with an exception."""
        if self._group is group:
            with self._lock:
                if self._group is group:
                    self._group = None
        if group.error is None and len(group.refs) < len(group.events):
            group.error = OutboxError("the thread that commits for others was interrupted: the event is not recorded")
        group.done.set()

    def _ref(self, group: _Group, place: int) -> EventRef:
        if place < len(group.refs):
            return group.refs[place]
        raise group.error or OutboxError("the event is not recorded")

    def _commit(self, group: _Group) -> None:
        try:
            with self._log.taken_stripe() as stripe:
                _Commit(self._log, stripe).run(group)
        except OSError as error:
            group.error = self._log.space.as_outbox_error(error)
        except OutboxError as error:
            group.error = error


class _Commit:
    """Writes a group's events to one stripe, and publishes them once they are synced."""

    def __init__(self, log: OutboxLog, stripe: Stripe) -> None:
        self._log = log
        self._stripe = stripe
        self._segment, self._start, self._number = stripe.at
        self._end = self._start
        self._frames: list[bytes] = []
        self._refs: list[EventRef] = []

    def run(self, group: _Group, clock: Callable[[], float] = Clock.wall) -> None:
        """Write, sync and publish; the events that are published have their references in the group."""
        now = clock()
        for kind, body in group.events:
            self._add(kind, body, now, group)
        self._flush(group)

    def _add(self, kind: int, body: bytes, now: float, group: _Group) -> None:
        payload_bytes = 16 + len(body)
        if self._end + frame_bytes(payload_bytes) > self._segment.limit:
            self._flush(group)
            self._segment = self._stripe.next_segment(payload_bytes)
            self._start = self._end = HEADER_BYTES
        elif self._end - self._start > _LARGEST_WRITE:
            self._flush(group)
        self._number += 1
        payload = pack_meta(kind | self._number, now) + body
        crc = checksum(payload, self._segment.seed)
        self._frames += (pack_head(len(payload), crc), payload, bytes(-len(payload) % 8))
        self._refs.append((self._stripe, self._number, self._segment, self._end))
        self._end += frame_bytes(payload_bytes)

    def _flush(self, group: _Group) -> None:
        """Write and sync what was added; publish it then. Where that fails the segment is never used again."""
        if not self._frames:
            return
        assert isinstance(self._segment, WrittenSegment)
        try:
            self._segment.put_all(self._start, b"".join(self._frames))
            self._segment.sync()
        except BaseException:
            self._abandon(self._segment)
            raise
        self._stripe.at = (self._segment, self._end, self._number)
        group.refs += self._refs
        self._start, self._frames, self._refs = self._end, [], []

    def _abandon(self, segment: WrittenSegment) -> None:
        """Refuse what was not synced: nobody is to read it, and no number comes twice."""
        first = self._number - len(self._refs) + 1
        with suppress(OSError):
            segment.put_all(self._start, b"")
        self._log.refused += len(self._refs)
        self._log.end(REFUSED, [(self._stripe, first, self._number)])
        self._stripe.at = (segment, segment.limit, self._number)  # full, so that the next event goes to another one
