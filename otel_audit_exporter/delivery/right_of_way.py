"""Right of way: the senders of a backlog let the events pass whose receipts are waited for.

Beside four senders with 1,000 rows each a request takes ten times as long as alone: database, network and this
interpreter are shared. So while receipts are waited for, and for a moment after the last one, only one sender goes
on, with few rows at a time and a pause after each batch. Where the sink is far away the senders are not what a
receipt waits for, and nothing changes for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.threads import Event

FEW_ROWS: Final = 200  # a database near by takes some 3 ms for them
LONGEST_PAUSE_SECONDS: Final = 0.01
QUIET_SECONDS: Final = 0.05  # who waits for one receipt after the other is back sooner
_LONGEST_SECONDS: Final = 0.25  # a request that hangs holds the backlog up no longer
_FAR_SECONDS: Final = 0.02  # few rows take so long only where most of it is the way there
_FAR_IN_A_ROW: Final = 3  # the first ones may have met the large batches that were still under way
_FAR_FOR_SECONDS: Final = 1.0


class RightOfWay:
    """Tells the senders of a backlog when to give way. Safe to use from any thread."""

    def __init__(self) -> None:
        self._has_passed = Event()
        self._has_passed.set()
        self._until = 0.0  # monotonic seconds, as is the next one
        self._far_until = 0.0
        self._far = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have the backlog give way during this block."""
        self._until = Clock.monotonic() + _LONGEST_SECONDS
        self._has_passed.clear()
        try:
            yield
        finally:
            self._until = Clock.monotonic() + QUIET_SECONDS
            self._has_passed.set()

    @property
    def is_free(self) -> bool:
        """Whether the backlog may have all of the road."""
        now = Clock.monotonic()
        return now >= self._until or now < self._far_until

    def let_pass(self) -> None:
        """Wait until the events that are waited for have passed, but not for long."""
        self._has_passed.wait(LONGEST_PAUSE_SECONDS)

    def note_few(self, seconds: float) -> None:
        """Note how long a request with few rows took."""
        self._far = self._far + 1 if seconds > _FAR_SECONDS else 0
        if self._far >= _FAR_IN_A_ROW:
            self._far, self._far_until = 0, Clock.monotonic() + _FAR_FOR_SECONDS
