"""Frames: how one event lies in a segment.

A frame begins at a multiple of 8 bytes, with a head of 8: the size of what follows, and its checksum. Then come a tag
(the kind of frame and the event's number), the time and the event's bytes. The head is stored last, in one store of
8 bytes, so a head of zero means that the frame was never accepted. The checksum is seeded with the log's id and
the segment's number: an old frame in a file that is used again never fits.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple
from zlib import crc32

HEAD_BYTES: Final = 8
META_BYTES: Final = 16
# Longer ones are summed in steps: above 5 KiB zlib gives the interpreter's lock away, and waits to have it back.
CRC_STEP: Final = 5120

# Kinds of frames, in the tag's highest byte. A kind that is not known here is kept.
EVENT: Final = 1 << 56
INVALID_EVENT: Final = 2 << 56
SEAL: Final = 255 << 56  # the last frame of a full segment: the next one has been begun
NUMBER_MASK: Final = (1 << 56) - 1
_KIND_MASK: Final = 255 << 56

pack_meta: Final = struct.Struct("<Qd").pack
pack_head: Final = struct.Struct("<II").pack
unpack_head: Final = struct.Struct("<II").unpack_from
unpack_frame: Final = struct.Struct("<IIQ").unpack_from  # the head, and the tag that follows it
unpack_beginning: Final = struct.Struct("<IIQd").unpack_from  # and the time when it was accepted


class Frame(NamedTuple):
    """One whole frame: where it begins and ends, its kind and number, when it was accepted, and its bytes."""

    offset: int
    end: int
    kind: int
    number: int
    accepted_at: float
    body: bytes


def checksum(payload: bytes, seed: int) -> int:
    """Return the checksum of a frame's payload."""
    if len(payload) <= CRC_STEP:
        return crc32(payload, seed)
    for start in range(0, len(payload), CRC_STEP):
        seed = crc32(payload[start : start + CRC_STEP], seed)
    return seed


def frame_bytes(payload_bytes: int) -> int:
    """Return the space that a frame with such a payload takes."""
    return HEAD_BYTES + (payload_bytes + 7 & ~7)


def frame_at(buffer: bytes, offset: int, seed: int) -> Frame | None:
    """Return the whole frame that begins at ``offset``; None where none does."""
    if offset + HEAD_BYTES + META_BYTES > len(buffer):
        return None
    size, crc, tag, accepted_at = unpack_beginning(buffer, offset)
    start = offset + HEAD_BYTES
    payload = buffer[start : start + size]
    if size < META_BYTES or len(payload) != size or crc32(payload, seed) != crc:
        return None
    end = offset + frame_bytes(size)
    return Frame(offset, end, tag & _KIND_MASK, tag & NUMBER_MASK, accepted_at, payload[META_BYTES:])


def size_at(buffer: bytes, offset: int) -> int:
    """Return the space that the frame at ``offset`` says it takes; 0 where there is none."""
    if offset + HEAD_BYTES > len(buffer):
        return 0
    size, crc = unpack_head(buffer, offset)
    return frame_bytes(size) if size or crc else 0


def find_frame(buffer: bytes, offset: int, seed: int, after: int) -> Frame | None:
    """Return the first whole frame from ``offset`` on whose number is above ``after``: what follows a damage."""
    for at in range(offset + (-offset % 8), len(buffer) - HEAD_BYTES - META_BYTES + 1, 8):
        size, crc = unpack_head(buffer, at)
        if META_BYTES <= size <= len(buffer) - at - HEAD_BYTES and crc:
            frame = frame_at(buffer, at, seed)
            if frame is not None and (frame.number > after or frame.kind == SEAL):
                return frame
    return None
