"""Segments: the files, or pieces of memory, that a stripe is written into one after the other.

A segment's file has real blocks: it is written full of zeros before its first frame, since a store into a sparse file
ends the process where the disk is full. It is written through a memory map, or by `pwrite`, and read by `pread`; in
the memory of the process it is one bytearray.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from zlib import crc32

from otel_audit_exporter.outbox.frames import HEAD_BYTES, META_BYTES, frame_bytes, pack_head
from otel_audit_exporter.runtime.owner import give_to_owner

FIRST_BYTES: Final = 64 * 1024
LARGEST_BYTES: Final = 4 * 2**20
HEADER_BYTES: Final = 64
SUFFIX: Final = ".seg"
SPARE_SUFFIX: Final = ".spare"
# At the end: room for the frame that seals the segment, and for the zero that follows each frame.
_TAIL_BYTES: Final = HEAD_BYTES + META_BYTES + HEAD_BYTES
LEAST_BYTES: Final = HEADER_BYTES + _TAIL_BYTES
_MAGIC: Final = b"OTELAUD\x02"
_HEADER: Final = struct.Struct("<8s16sIIQ")  # magic, log, stripe, ordinal, size
_ZERO: Final = bytes(8)
_PAGE: Final = 4096
_ZEROS: Final = bytes(2**20)
_LARGE_BYTES: Final = 2**20


class Segment:
    """One segment: the common part. ``limit`` is where the last frame has to end.

    From ``prepare_at`` on the next one is made beforehand. That is early in a small segment: a busy process fills one
    in less time than a thread that waits for the interpreter at each step takes to make another.
    """

    def __init__(self, log_id: bytes, stripe: int, ordinal: int, size: int) -> None:
        self.stripe = stripe
        self.ordinal = ordinal
        self.size = size
        self.limit = size - _TAIL_BYTES
        self.prepare_at = size // 2 if size >= _LARGE_BYTES else size // 8
        self.seed = crc32(log_id + struct.pack("<II", stripe, ordinal))
        self.last_number: int | None = None  # known once it is full
        self.path: Path | None = None
        self._known: list[tuple[int, int]] = []  # numbers and where their frames begin, each so many frames

    def put(self, offset: int, end: int, payload: bytes, crc: int) -> None:
        """Store one frame at ``offset``; ``end`` is where it ends. The head is stored last."""
        raise NotImplementedError

    def read(self, offset: int, size: int) -> bytes:
        """Return up to so many bytes from ``offset`` on; fewer where the file ends."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what writing needs; the segment can still be read."""

    def forget(self) -> None:
        """In a forked child: let go of the parent's segment without touching what is in it."""

    def note(self, number: int, offset: int) -> None:
        """Remember where a frame begins, so that it is found again soon."""
        if not self._known or number > self._known[-1][0]:
            self._known.append((number, offset))

    def nearest(self, number: int) -> int:
        """Return where a frame begins that is not beyond the one with this number."""
        at = bisect_right(self._known, (number, self.size))
        return self._known[at - 1][1] if at else HEADER_BYTES


class MemorySegment(Segment):
    """A segment in the memory of the process."""

    def __init__(self, log_id: bytes, stripe: int, ordinal: int, size: int) -> None:
        super().__init__(log_id, stripe, ordinal, size)
        self._bytes = bytearray(size)
        self._heads = memoryview(self._bytes).cast("Q")

    def put(self, offset: int, end: int, payload: bytes, crc: int) -> None:
        heads = self._heads
        heads[offset >> 3] = 0
        heads[end >> 3] = 0
        self._bytes[offset + 8 : offset + 8 + len(payload)] = payload
        heads[offset >> 3] = len(payload) | crc << 32

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._bytes[offset : offset + size])


class FileSegment(Segment):
    """A segment in a file: what mapped and written ones share."""

    def __init__(self, path: Path, log_id: bytes, stripe: int, ordinal: int, size: int) -> None:
        super().__init__(log_id, stripe, ordinal, size)
        self.path: Path = path

    def read(self, offset: int, size: int) -> bytes:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return self._read_without_name(offset, size)
        try:
            return pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def _read_without_name(self, offset: int, size: int) -> bytes:
        """Read a file whose name was removed, where it is still open here for writing."""
        raise FileNotFoundError(self.path)


class MappedSegment(FileSegment):
    """A segment whose frames are stored through a memory map: a store survives the process, and makes no call."""

    writes = "mapped"

    def __init__(self, path: Path, log_id: bytes, stripe: int, ordinal: int, size: int, descriptor: int) -> None:
        super().__init__(path, log_id, stripe, ordinal, size)
        self._map: mmap.mmap | bytearray = mmap.mmap(descriptor, size)
        self._heads = memoryview(self._map).cast("Q")

    def put(self, offset: int, end: int, payload: bytes, crc: int) -> None:
        heads = self._heads
        heads[offset >> 3] = 0  # left over from an append that an exception interrupted
        heads[end >> 3] = 0
        self._map[offset + 8 : offset + 8 + len(payload)] = payload
        heads[offset >> 3] = len(payload) | crc << 32

    def _read_without_name(self, offset: int, size: int) -> bytes:
        try:
            return bytes(self._map[offset : offset + size])
        except ValueError as error:  # it is closed
            raise FileNotFoundError(self.path) from error

    def close(self) -> None:
        self._heads.release()
        if isinstance(self._map, mmap.mmap):
            self._map.close()

    def forget(self) -> None:
        if isinstance(self._map, mmap.mmap):
            cover_with_private_memory(self._map)


class WrittenSegment(FileSegment):
    """A segment whose frames are written by `pwrite`: for file systems that no map is safe on, and for fsync."""

    writes = "written"

    def __init__(self, path: Path, log_id: bytes, stripe: int, ordinal: int, size: int, descriptor: int) -> None:
        super().__init__(path, log_id, stripe, ordinal, size)
        self._descriptor = os.dup(descriptor)
        os.set_inheritable(self._descriptor, False)

    def put(self, offset: int, end: int, payload: bytes, crc: int) -> None:
        head = pack_head(len(payload), crc)
        after = bytes(end - offset - HEAD_BYTES - len(payload)) + _ZERO
        if offset % _PAGE + end + 8 - offset <= _PAGE:  # within a page a write is there whole, or not at all
            pwrite(self._descriptor, b"".join((head, payload, after)), offset)
        else:
            pwrite(self._descriptor, payload + after, offset + HEAD_BYTES)
            pwrite(self._descriptor, head, offset)

    def put_all(self, offset: int, frames: bytes) -> None:
        """Write whole frames that follow each other, with the zero after the last one."""
        pwrite(self._descriptor, frames + _ZERO, offset)

    def _read_without_name(self, offset: int, size: int) -> bytes:
        return pread(self._descriptor, size, offset)

    def sync(self) -> None:
        sync_file(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    forget = close


FileKind = type[MappedSegment] | type[WrittenSegment]


def make_blocks(path: Path, size: int) -> int:
    """Make a file of so many real zeros under a new name, and return its descriptor; nothing is left of a failure."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        give_to_owner(path)
        for start in range(0, size, len(_ZEROS)):
            pwrite(descriptor, _ZEROS[: size - start], start)
    except BaseException:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(path)
        raise
    return descriptor


def open_new(
    kind: FileKind,
    spare: Path,
    path: Path,
    log_id: bytes,
    stripe: int,
    ordinal: int,
    size: int,
    *,
    descriptor: int | None = None,
    durable: bool = False,
) -> FileSegment:
    """Make a segment of a file of blocks: it gets its header, and then its name; with ``durable`` both are synced.

    The ``descriptor`` of a file that has just been made is closed here.
    """
    if descriptor is None:
        descriptor = os.open(spare, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        pwrite(descriptor, _header(log_id, stripe, ordinal, size) + _ZERO, 0)
        if durable:
            sync_file(descriptor)
        os.rename(spare, path)
        if durable:
            sync_folder(path.parent)
        return kind(path, log_id, stripe, ordinal, size, descriptor)
    finally:
        os.close(descriptor)


class ForeignSegmentError(ValueError):
    """A file that is no segment of this log."""


def open_existing(path: Path, log_id: bytes) -> FileSegment:
    """Return a segment that a process has left, for reading. Raises :class:`ForeignSegmentError` where it is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        header = pread(descriptor, HEADER_BYTES, 0)
    finally:
        os.close(descriptor)
    try:
        magic, log, stripe, ordinal, size = _HEADER.unpack_from(header)
        (crc,) = struct.unpack_from("<I", header, _HEADER.size)
    except struct.error as error:
        raise ForeignSegmentError(f"{path}: its header is cut off") from error
    if magic != _MAGIC or crc != crc32(header[: _HEADER.size]) or log != log_id:
        raise ForeignSegmentError(f"{path}: its header is damaged, or another log's")
    return FileSegment(path, log_id, stripe, ordinal, size)


def shorten(segment: FileSegment, end: int) -> None:
    """Cut a segment's file to its last frame, and have its header say so first."""
    size = min(end + HEAD_BYTES, segment.size)
    descriptor = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        log_id = _HEADER.unpack_from(pread(descriptor, HEADER_BYTES, 0))[1]
        pwrite(descriptor, _header(log_id, segment.stripe, segment.ordinal, size), 0)
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)
    segment.size = size


def _header(log_id: bytes, stripe: int, ordinal: int, size: int) -> bytes:
    header = _HEADER.pack(_MAGIC, log_id, stripe, ordinal, size)
    return header + struct.pack("<I", crc32(header)) + bytes(HEADER_BYTES - len(header) - 4)


def segment_name(stripe: int, ordinal: int) -> str:
    """Return the name of a segment's file."""
    return f"{stripe:03}-{ordinal:08}{SUFFIX}"


def next_size(before: int, payload_bytes: int) -> int:
    """Return the size of the segment after one of ``before`` bytes: twice as large, and enough for the payload."""
    needed = HEADER_BYTES + frame_bytes(payload_bytes) + _TAIL_BYTES
    size = min(max(before * 2, FIRST_BYTES), LARGEST_BYTES)
    return max(size, needed + (-needed % _PAGE))


def pwrite(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    if not hasattr(os, "pwrite"):  # Windows
        os.lseek(descriptor, offset, os.SEEK_SET)
        _write_all(lambda rest, done: os.write(descriptor, rest), data)
    else:
        _write_all(lambda rest, done: os.pwrite(descriptor, rest, offset + done), data)


def _write_all(write: Callable[[bytes, int], int], data: bytes) -> None:
    done = write(data, 0)
    while done < len(data):
        done += write(data[done:], done)


def pread(descriptor: int, size: int, offset: int) -> bytes:
    """Read up to ``size`` bytes from ``offset`` on; fewer only at the end of the file."""
    if not hasattr(os, "pread"):  # Windows
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)
    data = os.pread(descriptor, size, offset)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
        data += more
    return data


def sync_file(descriptor: int) -> None:
    """Have a file's content survive a power loss. On macOS only F_FULLFSYNC reaches the disk itself."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Have the names in a folder survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cover_with_private_memory(shared: mmap.mmap) -> None:
    """Put private memory in the place of a map that a forked child has inherited, so that no store reaches its parent.

    The map is not closed, as an append that the fork has interrupted goes on storing into it.
    """
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *([ctypes.c_int] * 3), ctypes.c_long]
    fixed = getattr(mmap, "MAP_FIXED", 0x10)  # the same number on Linux and macOS
    flags = fixed | mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    library.mmap(address, len(shared), mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
