"""A batch: events that one sender offers to the sink together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from otel_audit_exporter.event.joined import SEPARATOR, Joined
from otel_audit_exporter.outbox.log import Range
from otel_audit_exporter.outbox.segment import Segment
from otel_audit_exporter.outbox.stripe import Stripe

Entry = tuple[Stripe, int, Segment, int, bytes]
"""One event: where it lies (an ``EventRef``), and its bytes."""


class Batch(Sequence[Entry]):
    """Events that lie one after the other in their stripes. Entries are made where one is asked for."""

    def __init__(self) -> None:
        self._parts: list[tuple[Stripe, Segment, list[int], list[int]]] = []  # with numbers and offsets
        self.bodies: list[bytes] = []
        self._entries: list[Entry] | None = None

    def add(self, stripe: Stripe, segment: Segment, numbers: list[int], offsets: list[int]) -> None:
        """Add events of one segment; their bytes are to be added to ``bodies``."""
        self._parts.append((stripe, segment, numbers, offsets))

    def _all(self) -> list[Entry]:
        if self._entries is None:
            refs = (
                (stripe, number, segment, offset)
                for stripe, segment, numbers, offsets in self._parts
                for number, offset in zip(numbers, offsets, strict=True)
            )
            self._entries = [(*ref, body) for ref, body in zip(refs, self.bodies, strict=True)]
        return self._entries

    def __len__(self) -> int:
        return len(self.bodies)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._all())

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> list[Entry]: ...
    def __getitem__(self, at: int | slice) -> Entry | list[Entry]:
        return self._all()[at]

    def ranges(self) -> list[Range]:
        """Return the ranges of numbers that these events have."""
        return [one for stripe, _, numbers, _ in self._parts for one in _runs(stripe, numbers)]


def ranges_of(entries: Sequence[Entry]) -> list[Range]:
    """Return the ranges of numbers that these events have."""
    if isinstance(entries, Batch):
        return entries.ranges()
    by_stripe: dict[int, tuple[Stripe, list[int]]] = {}
    for stripe, number, *_ in entries:
        by_stripe.setdefault(id(stripe), (stripe, []))[1].append(number)
    return [one for stripe, numbers in by_stripe.values() for one in _runs(stripe, sorted(numbers))]


def _runs(stripe: Stripe, numbers: Sequence[int]) -> Iterator[Range]:
    if not numbers:
        return
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        yield stripe, numbers[0], numbers[-1]
        return
    first = before = numbers[0]
    for number in numbers[1:]:
        if number != before + 1:
            yield stripe, first, before
            first = number
        before = number
    yield stripe, first, before


def bodies_of(entries: Sequence[Entry]) -> Sequence[bytes]:
    """Return the bytes of these events; of a batch also as one text."""
    if isinstance(entries, Batch):
        return Joined(SEPARATOR.join(entries.bodies), len(entries.bodies))
    return [entry[4] for entry in entries]
