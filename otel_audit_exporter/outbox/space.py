"""Where segments come from, and how much room they may take."""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final

from otel_audit_exporter.errors import OutboxError, OutboxFullError
from otel_audit_exporter.outbox.segment import (
    FIRST_BYTES,
    LEAST_BYTES,
    SPARE_SUFFIX,
    FileKind,
    FileSegment,
    MappedSegment,
    MemorySegment,
    Segment,
    WrittenSegment,
    make_blocks,
    open_new,
    segment_name,
)
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import register_renewed
from otel_audit_exporter.runtime.threads import RLock

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_WRITTEN_SECONDS: Final = 600.0
_LARGEST_KEPT: Final = 2  # emptied files that are kept for the next segments


class SharedQuota:
    """How many bytes the segments of all destinations of one pipeline may take together."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.members: weakref.WeakSet[Quota] = weakref.WeakSet()
        self.renew_after_fork()
        register_renewed(self)

    def renew_after_fork(self) -> None:
        """In a forked child: a lock that nobody holds."""
        # Python's own lock: an exception between its acquire and the block that it guards cannot leave it held.
        self.lock = RLock()

    def allows(self, member: Quota, size: int) -> bool:
        """Return whether a destination may take so many bytes more: half of all where others wait, too."""
        others = [one for one in self.members if one is not member]
        most = self.max_bytes // 2 if any(one.is_waiting() for one in others) else self.max_bytes
        used = member.used_bytes + size
        return used <= most and used + sum(one.used_bytes for one in others) <= self.max_bytes


class Quota:
    """How many bytes all segments of one destination may take in this process; adopted ones count.

    ``is_waiting`` says whether something waits there.
    """

    def __init__(self, max_bytes: int, is_waiting: Callable[[], bool] = lambda: False) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.is_waiting = is_waiting
        self._shared: SharedQuota | None = None
        self.renew_after_fork()
        register_renewed(self)

    def renew_after_fork(self) -> None:
        """In a forked child: a lock that nobody holds."""
        self._own_lock = RLock()

    @property
    def _lock(self) -> AbstractContextManager[object]:
        return self._own_lock if self._shared is None else self._shared.lock

    def join(self, shared: SharedQuota) -> None:
        """Share a limit with other destinations, too."""
        with shared.lock:
            shared.members.add(self)
            self._shared = shared

    def take(self, size: int) -> bool:
        """Take so many bytes; False where that is too much."""
        with self._lock:
            if self.used_bytes + size > self.max_bytes:
                return False
            if self._shared is not None and not self._shared.allows(self, size):
                return False
            self.used_bytes += size
            return True

    def add(self, size: int) -> None:
        """Count bytes that are there already, even beyond the limit; fewer where it is negative."""
        with self._lock:
            self.used_bytes += size

    def counting(self) -> AbstractContextManager[object]:
        """Have nobody else count meanwhile."""
        return self._lock

    @property
    def is_roomy(self) -> bool:
        """Whether more than half of it is free."""
        return self.left_bytes * 2 > self.max_bytes

    @property
    def left_bytes(self) -> int:
        """How many more bytes segments may take."""
        return max(self.max_bytes - self.used_bytes, 0)


class SegmentSpace:
    """Makes segments, in memory or in a folder, within a quota; files that were emptied are used again.

    It takes no lock but the quota's: a file is taken and given back in one step each.
    """

    def __init__(
        self, quota: Quota, folder: Path | None = None, kind: FileKind = WrittenSegment, *, durable: bool = False
    ) -> None:
        self.quota = quota
        self._kind = kind
        self.durable = durable
        self._written_until = 0.0
        self._is_parents = False
        self._folder = folder
        self._emptied: dict[str, int] = {}  # files by path, with their sizes
        self._living: set[weakref.ref[Segment]] = set()  # those in memory that count

    @property
    def least_bytes(self) -> int:
        """The size of a first segment that fits in any quota: one too small for an event refuses it, and is there."""
        if self._folder is not None:
            return FIRST_BYTES
        return max(min(FIRST_BYTES, self.quota.left_bytes) & ~7, LEAST_BYTES)

    @property
    def is_mapped(self) -> bool:
        """Whether new segments are mapped."""
        return self._kind is MappedSegment and Clock.monotonic() >= self._written_until

    def prefer_written(self) -> None:
        """Have new segments written for a while: a store into a map that the volume holds up stops the process."""
        self._written_until = Clock.monotonic() + _WRITTEN_SECONDS

    def forget(self) -> None:
        """In a forked child: the folder is the parent's. A call that the fork has interrupted makes nothing there."""
        self._is_parents = True

    def make(self, log_id: bytes, stripe: int, ordinal: int, size: int, needed: int) -> Segment:
        """Return a new segment of ``size`` bytes, or of the ``needed`` ones where there is no room for more.

        Raises :class:`OutboxFullError` where there is no room for these either, and OSError where the disk fails or
        the folder is the parent's.
        """
        self._refuse_parents()
        for wanted in dict.fromkeys((max(size, needed), needed)):
            if self._folder is None:
                if (segment := self._in_memory(log_id, stripe, ordinal, wanted)) is not None:
                    return segment
                continue
            path = self._folder / segment_name(stripe, ordinal)
            if (blocks := self._blocks(path.with_suffix(SPARE_SUFFIX), wanted, needed)) is not None:
                return self._open(*blocks, path, log_id, stripe, ordinal)
        raise OutboxFullError(full_message(str(self._folder or "memory")))

    def _in_memory(self, log_id: bytes, stripe: int, ordinal: int, size: int) -> Segment | None:
        segment: Segment = MemorySegment(log_id, stripe, ordinal, size)
        counted = weakref.ref(segment)
        with self.quota.counting():
            self._living.add(counted)
            if size != LEAST_BYTES and not self.quota.take(size):
                self._living.discard(counted)
                return None
        return segment

    def recount(self) -> None:
        """Count the memory of segments anew: an exception between two steps may have lost one that nobody has used."""
        if self._folder is None:
            with self.quota.counting():
                for one in [one for one in list(self._living) if one() is None]:
                    self._living.discard(one)
                living = (one() for one in list(self._living))
                self.quota.used_bytes = sum(segment.size for segment in living if segment is not None)

    def _open(
        self, spare: Path, size: int, descriptor: int | None, path: Path, log_id: bytes, stripe: int, ordinal: int
    ) -> FileSegment:
        self._refuse_parents()
        try:
            kind = MappedSegment if self.is_mapped else WrittenSegment
            return open_new(
                kind, spare, path, log_id, stripe, ordinal, size, descriptor=descriptor, durable=self.durable
            )
        except BaseException:
            self._refuse_parents()
            for left in (spare, path):
                with suppress(OSError):
                    os.unlink(left)
            self.quota.add(-size)
            raise

    def _refuse_parents(self) -> None:
        if self._is_parents:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _blocks(self, path: Path, size: int, needed: int) -> tuple[Path, int, int | None] | None:
        """Return a file of blocks, an emptied one or a new one under ``path``; None where there is no room."""
        for name, there in list(self._emptied.items()):
            fits = size <= there or (needed <= there and self.quota.left_bytes < size)
            # One step takes it: a signal handler may have done so just now.
            if fits and self._emptied.pop(name, None) is not None:
                return Path(name), there, None
        while not self.quota.take(size):
            if not self._drop_emptied():
                return None
        try:
            return path, size, make_blocks(path, size)
        except BaseException as error:
            self.quota.add(-size)
            if isinstance(error, OSError) and error.errno in _FULL:
                return None
            raise

    def may_prepare(self, *, early: bool = False) -> bool:
        """Return whether there is room for segments that hold nothing yet: an eighth of the volume is free.

        ``early``: long before they are needed; then half of the quota has to be free, too.
        """
        if early and not self.quota.is_roomy:
            return False
        if self._folder is None:
            return True
        import shutil  # as every outbox on disk does

        with suppress(OSError):
            usage = shutil.disk_usage(self._folder)
            return usage.free * 8 >= usage.total
        return False

    def free(self, segment: Segment) -> None:
        """Take back a segment that nobody writes or reads any more."""
        segment.close()
        if not isinstance(segment, FileSegment):
            with self.quota.counting():
                self._living.discard(weakref.ref(segment))
                self.quota.add(-segment.size)
            return
        spare = segment.path.with_suffix(SPARE_SUFFIX)
        try:
            if len(self._emptied) < _LARGEST_KEPT and self.may_prepare():
                os.rename(segment.path, spare)
                self._emptied[os.fspath(spare)] = segment.size
                return
            os.unlink(segment.path)
        except OSError:  # it stays, and is in nobody's way: its number is noted as free
            pass
        self.quota.add(-segment.size)

    def _drop_emptied(self) -> bool:
        try:
            path, size = self._emptied.popitem()
        except KeyError:
            return False
        with suppress(OSError):
            os.unlink(path)
        self.quota.add(-size)
        return True

    def give_back(self, size: int) -> None:
        """Count the room of a log that was removed as free."""
        self.drop_all_emptied()
        self.quota.add(-size)

    def drop_all_emptied(self) -> None:
        """Give the emptied files back to the disk."""
        while self._drop_emptied():
            pass

    def as_outbox_error(self, error: OSError) -> OutboxError:
        """Return the error for a caller where the disk fails."""
        where = str(self._folder or "memory")
        if error.errno in _FULL:
            return OutboxFullError(full_message(where))
        return OutboxError(f"the outbox {where} failed: {error.strerror or error}")


def full_message(where: str) -> str:
    """Return the words for an outbox that takes no more."""
    return (
        f"the outbox ({where}) is full: the sink does not take events, or the disk is full. "
        "See `otel-audit outbox status`; raise OTEL_AUDIT_OUTBOX_MAX_BYTES, or free disk"
    )
