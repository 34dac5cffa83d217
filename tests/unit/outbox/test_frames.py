"""Frames: a torn or altered one is never taken for an event."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit_exporter.outbox.frames import (
    CRC_STEP,
    EVENT,
    SEAL,
    Frame,
    checksum,
    find_frame,
    frame_at,
    frame_bytes,
    pack_head,
    pack_meta,
    size_at,
)

SEED = 12345


def frame(number: int, body: bytes, kind: int = EVENT, seed: int = SEED) -> bytes:
    """Return one frame's bytes, with what fills it up to a multiple of 8."""
    payload = pack_meta(kind | number, 1.5) + body
    return pack_head(len(payload), checksum(payload, seed)) + payload + bytes(-len(payload) % 8)


def frames_in(buffer: bytes, offset: int = 0) -> Iterator[Frame]:
    """Yield the whole frames from ``offset`` on, up to the first place where none begins."""
    while (found := frame_at(buffer, offset, SEED)) is not None:
        yield found
        offset = found.end


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_frames_are_read_as_they_were_written(bodies: list[bytes]) -> None:
    buffer = b"".join(frame(number, body) for number, body in enumerate(bodies, 1)) + bytes(32)
    found = list(frames_in(buffer))
    assert [(one.number, one.kind, one.accepted_at, one.body) for one in found] == [
        (number, EVENT, 1.5, body) for number, body in enumerate(bodies, 1)
    ]
    assert all(one.end - one.offset == frame_bytes(16 + len(one.body)) for one in found)


@pytest.mark.parametrize("before", [0, 2])
def test_a_frame_that_is_torn_at_any_byte_is_none(before: int) -> None:
    whole = b"".join(frame(number, b"body %d" % number * 9) for number in range(1, before + 2))
    start = len(whole) * before // (before + 1)
    for cut in range(start, len(whole) - 8):  # the last bytes may only fill it up
        torn = whole[:cut] + bytes(64)
        assert [one.number for one in frames_in(torn)] == list(range(1, before + 1)), cut


def test_a_body_without_its_head_is_none() -> None:
    whole = frame(1, b"body")
    assert frame_at(bytes(8) + whole[8:], 0, SEED) is None
    assert size_at(bytes(8) + whole[8:], 0) == 0


def test_a_bit_that_is_flipped_anywhere_never_makes_a_wrong_event() -> None:
    whole = [frame(number, b"body %d" % number * number) for number in (1, 2, 3)]
    buffer = b"".join(whole) + bytes(32)
    right = {(one.number, one.body) for one in frames_in(buffer)}
    for bit in range(len(buffer) * 8):
        flipped = bytearray(buffer)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        for start in (0, len(whole[0]), len(whole[0]) + len(whole[1])):
            assert {(one.number, one.body) for one in frames_in(bytes(flipped), start)} <= right


def test_many_flipped_bits_never_make_a_wrong_event() -> None:
    chance = Random(1)
    buffer = b"".join(frame(number, chance.randbytes(50)) for number in range(1, 9)) + bytes(32)
    right = {(one.number, one.body) for one in frames_in(buffer)}
    for _ in range(300):
        flipped = bytearray(buffer)
        for _ in range(chance.randrange(1, 40)):
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        at: int | None = 0
        while at is not None:
            found = find_frame(bytes(flipped), at, SEED, 0)
            assert found is None or (found.number, found.body) in right
            at = None if found is None else found.end


def test_a_frame_of_another_log_or_segment_does_not_fit() -> None:
    assert frame_at(frame(1, b"body", seed=SEED + 1), 0, SEED) is None


@given(st.integers(0, 4 * CRC_STEP), st.integers(0, 2**32 - 1))
def test_the_checksum_in_steps_is_that_of_the_whole(size: int, seed: int) -> None:
    payload = Random(size).randbytes(size)
    assert checksum(payload, seed) == crc32(payload, seed)


def test_what_follows_a_damage_is_found_with_a_higher_number_only() -> None:
    old, new = frame(3, b"old"), frame(7, b"new")
    buffer = b"\xff" * 24 + old + b"\xff" * 16 + new + bytes(32)
    assert number_of(find_frame(buffer, 8, SEED, after=0)) == 3
    assert number_of(find_frame(buffer, 8, SEED, after=3)) == 7
    assert find_frame(buffer, 8, SEED, after=7) is None
    assert number_of(find_frame(buffer + frame(7, b"", SEAL), 8, SEED, after=7)) == 7


def number_of(found: Frame | None) -> int | None:
    return None if found is None else found.number


@given(st.binary(max_size=400))
def test_garbage_raises_nothing_and_is_no_frame(garbage: bytes) -> None:
    assert list(frames_in(garbage)) == []
    assert find_frame(garbage, 0, SEED, 0) is None
