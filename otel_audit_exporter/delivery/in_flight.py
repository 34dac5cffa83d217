"""Which events are being offered to the sink just now, so that nobody else offers them too."""

from __future__ import annotations

import threading
from collections.abc import Sequence

Numbers = range | frozenset[int]


class Claims:
    """Numbers of events, each claimed by at most one. Safe to use from any thread.

    Batches are nearly always runs of consecutive numbers, and are kept as such.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, list[Numbers]] = {}

    def take(self, owner: object, numbers: Sequence[int]) -> Numbers:
        """Claim those of ``owner``'s ``numbers`` that are free, and return them; to be given back."""
        wanted = _compact(numbers)
        with self._lock:
            held = self._held.setdefault(id(owner), [])
            for other in held:
                if _meet(other, wanted):
                    wanted = frozenset(wanted).difference(other)
            held.append(wanted)
        return wanted

    def give_back(self, owner: object, numbers: Numbers) -> None:
        """Let go of what :meth:`take` returned."""
        with self._lock:
            held = self._held[id(owner)]
            held.remove(numbers)
            if not held:
                del self._held[id(owner)]

    def __len__(self) -> int:
        with self._lock:
            return sum(len(numbers) for held in self._held.values() for numbers in held)


def as_run(numbers: Sequence[int]) -> range | None:
    """Return the range of these different numbers, in whatever order they are; None where it has gaps."""
    first, last = min(numbers, default=0), max(numbers, default=-1)
    return range(first, last + 1) if last - first == len(numbers) - 1 else None


def _compact(numbers: Sequence[int]) -> Numbers:
    if isinstance(numbers, range):
        return numbers
    run = as_run(numbers)
    return frozenset(numbers) if run is None else run


def _meet(one: Numbers, other: Numbers) -> bool:
    if isinstance(one, range) and isinstance(other, range):
        return one.start < other.stop and other.start < one.stop
    return not frozenset(one).isdisjoint(other)
