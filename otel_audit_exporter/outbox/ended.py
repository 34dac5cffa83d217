"""What has ended: which events of a log are stored, parked or lost, and which segments are free.

In memory, ranges of numbers for each stripe. On disk, records of 32 bytes in a file beside the segments, each with a
type, a length and a checksum. A record of a type that is not known here is kept, and keeps its segment. A file that
cannot be read only means that everything is delivered again, under the ids that it has.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from otel_audit_exporter.outbox.segment import pread, pwrite, sync_file
from otel_audit_exporter.runtime.owner import give_to_owner
from otel_audit_exporter.runtime.threads import RLock

STORED: Final = 1
PARKED: Final = 2
LOST: Final = 3
REFUSED: Final = 4  # written, but its call was refused: a sync had failed
SEGMENT_MADE: Final = 16
SEGMENT_FREED: Final = 17
_KNOWN: Final = frozenset({STORED, PARKED, LOST, REFUSED, SEGMENT_MADE, SEGMENT_FREED})
ENDS: Final = frozenset({STORED, PARKED, LOST, REFUSED})

_RECORD: Final = struct.Struct("<BBHIQQ")  # type, length, reserved, stripe, first, last
RECORD_BYTES: Final = 32
_STEP_BYTES: Final = 16 * 1024
_COMPACT_BYTES: Final = 2**20


class Record(NamedTuple):
    """One record: of a range of numbers (``first`` to ``last``), or of a segment (its ordinal, and its size)."""

    kind: int
    stripe: int
    first: int
    last: int


class EndedRanges:
    """The numbers of one stripe that have ended: all up to ``upto``, and some ranges beyond it."""

    __slots__ = ("_beyond", "count", "upto")

    def __init__(self) -> None:
        self.upto = 0
        self.count = 0
        self._beyond: list[tuple[int, int]] = []

    def add(self, first: int, last: int) -> int:
        """Note that these have ended; return how many had not before."""
        fresh = 0
        for start, stop in list(self.missing(first, last)):
            fresh += stop - start + 1
            insort(self._beyond, (start, stop))
        while self._beyond and self._beyond[0][0] == self.upto + 1:
            self.upto = self._beyond.pop(0)[1]
        self._join(first, last)
        self.count += fresh
        return fresh

    def _join(self, first: int, last: int) -> None:
        """Make one range of those that touch each other here: what ended in turns takes no room for long."""
        at = max(bisect_left(self._beyond, (first, 0)) - 1, 0)
        while at + 1 < len(self._beyond) and self._beyond[at][0] <= last + 1:
            (start, stop), (following, end) = self._beyond[at : at + 2]
            if following == stop + 1:
                self._beyond[at : at + 2] = [(start, end)]
            else:
                at += 1

    def missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges in ``[first, last]`` that have not ended."""
        first = max(first, self.upto + 1)
        at = max(bisect_left(self._beyond, (first, 0)) - 1, 0)
        for start, stop in self._beyond[at:]:
            if stop < first:
                continue
            if start > last:
                break
            if first < start:
                yield first, start - 1
            first = stop + 1
        if first <= last:
            yield first, last

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield all that has ended, in order."""
        if self.upto:
            yield 1, self.upto
        yield from list(self._beyond)

    def __contains__(self, number: int) -> bool:
        return number <= self.upto or not any(True for _ in self.missing(number, number))

    def count_upto(self, number: int) -> int:
        """Return how many of the numbers up to ``number`` have ended."""
        if number <= self.upto:
            return number
        return self.upto + sum(min(stop, number) - start + 1 for start, stop in self._beyond if start <= number)


class EndedFile:
    """The records of one log. Safe to use from any thread, and from a signal handler in the middle of a write."""

    def __init__(self, path: Path, log_id: bytes, *, durable: bool) -> None:
        self.path = path
        self._durable = durable
        self._seed = crc32(log_id)
        self._lock = RLock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        give_to_owner(path)
        self._made_bytes = os.fstat(self._descriptor).st_size
        self._end = self._made_bytes - self._made_bytes % RECORD_BYTES
        self._unwritten: list[Record] = []
        self._is_writing = False
        self.foreign = False  # a record is there that this version does not know

    @property
    def lock(self) -> RLock:
        """The lock under which records are written."""
        return self._lock

    def read(self) -> list[Record]:
        """Return the whole records of the file, and write on after the last one."""
        with self._lock:
            records, self._end = _records(pread(self._descriptor, self._made_bytes, 0), self._seed)
            self.foreign = any(record.kind not in _KNOWN for record in records)
            return records

    def note(self, records: Iterable[Record], *, sync: bool = False) -> bool:
        """Write records; False where they cannot be written now: they are written with the next ones."""
        with self._lock:
            self._unwritten.extend(records)
            if self._is_writing:  # a signal handler in the middle of a write, which takes these with it
                return False
            self._is_writing = True
            try:
                while self._unwritten and self._descriptor >= 0:
                    self._write()
            except OSError:
                return False
            finally:
                self._is_writing = False
            if sync and self._durable:
                sync_file(self._descriptor)
            return True

    def _write(self) -> None:
        records = list(self._unwritten)
        at, size = self._end, len(records) * RECORD_BYTES
        while self._made_bytes < at + size:
            pwrite(self._descriptor, bytes(_STEP_BYTES), self._made_bytes)  # real blocks, for when the disk is full
            self._made_bytes += _STEP_BYTES
        pwrite(self._descriptor, b"".join(map(self._packed, records)), at)
        self._end = at + size
        del self._unwritten[: len(records)]

    def _packed(self, record: Record) -> bytes:
        data = _RECORD.pack(record.kind, RECORD_BYTES, 0, record.stripe, record.first, record.last)
        data += bytes(RECORD_BYTES - 4 - len(data))
        return data + struct.pack("<I", crc32(data, self._seed))

    @property
    def is_long(self) -> bool:
        """Return whether the file is worth rewriting."""
        return self._end > _COMPACT_BYTES and not self.foreign

    def replace(self, records: Iterable[Record]) -> None:
        """Have these records in the place of all that were written; a kill in between leaves the old ones."""
        with self._lock:
            data = b"".join(map(self._packed, [*records, *self._unwritten]))
            new = self.path.with_name(f"{self.path.name}.new")
            with suppress(FileNotFoundError):
                os.unlink(new)
            descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                give_to_owner(new)
                pwrite(descriptor, data + bytes(-len(data) % _STEP_BYTES), 0)
                sync_file(descriptor)
                os.rename(new, self.path)
            except OSError:
                os.close(descriptor)
                raise
            os.close(self._descriptor)
            self._descriptor, self._end = descriptor, len(data)
            self._made_bytes = len(data) + -len(data) % _STEP_BYTES
            self._unwritten.clear()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)

    def forget(self) -> None:
        """In a forked child: let go of the parent's file."""
        self._lock = RLock()
        self._is_writing = False
        self.close()


def read_records(path: Path, log_id: bytes) -> list[Record]:
    """Return the whole records of a log's file; none where it is not there."""
    with suppress(FileNotFoundError):
        return _records(path.read_bytes(), crc32(log_id))[0]
    return []


def _records(data: bytes, seed: int) -> tuple[list[Record], int]:
    """Return the whole records, and where the last one ends. One that was cut off by a kill is passed over."""
    records, end = [], 0
    for at in range(0, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
        piece = data[at : at + RECORD_BYTES]
        if piece[0] and struct.unpack_from("<I", piece, RECORD_BYTES - 4)[0] == crc32(piece[:-4], seed):
            kind, _, _, stripe, first, last = _RECORD.unpack_from(piece)
            records.append(Record(kind, stripe, first, last))
            end = at + RECORD_BYTES
    return records, end
