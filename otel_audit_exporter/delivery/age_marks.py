"""How old the pending events are, by monotonic marks. No change of the clock moves these."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from otel_audit_exporter.outbox.stripe import Stripe
from otel_audit_exporter.runtime.clock import Clock

_MOST_MARKS = 600


class AgeMarks:
    """Remembers which number was the newest at which moment. To be used by one thread at a time."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, tuple[tuple[Stripe, int], ...]]] = deque()

    def note(self, stripes: Iterable[Stripe]) -> None:
        """Note the newest numbers now."""
        self._marks.append((Clock.monotonic(), tuple((stripe, stripe.at[2]) for stripe in stripes)))
        while self._marks and _all_ended(self._marks[0][1]):
            self._marks.popleft()
        if len(self._marks) > _MOST_MARKS:
            self._marks = deque(mark for at, mark in enumerate(self._marks) if at % 2 == 0 or at > _MOST_MARKS // 2)

    def oldest_seconds(self) -> float:
        """Return the age of the oldest event that was there at a mark and has not ended; 0.0 where there is none."""
        now = Clock.monotonic()
        return next((now - at for at, numbers in list(self._marks) if not _all_ended(numbers)), 0.0)

    def count_older(self, seconds: float) -> int:
        """Return how many events wait that are older than so many seconds."""
        before = Clock.monotonic() - seconds
        numbers = next((numbers for at, numbers in reversed(list(self._marks)) if at <= before), ())
        return sum(number - stripe.ended.count_upto(number) for stripe, number in numbers)


def _all_ended(numbers: Iterable[tuple[Stripe, int]]) -> bool:
    return all(stripe.ended.upto >= number for stripe, number in numbers)
