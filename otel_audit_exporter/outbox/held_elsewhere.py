"""Logs that another process held when they were examined, and when each of them is examined again.

Most of these processes run. But one may have been killed just now, so that the system has not released its lock yet,
or may only have read the log. Therefore a log is examined again soon, and then at ever longer intervals.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from pathlib import Path
from typing import Final

from otel_audit_exporter.runtime.clock import Clock

FIRST_SECONDS: Final = 0.5
LONGEST_SECONDS: Final = 60.0  # a process examines every log that often anyway
AT_ONCE: Final = 100  # of the thousands of logs that other workers may have


class HeldElsewhere:
    """Remembers the logs that were held, and returns those that are due. Safe to use from any thread."""

    def __init__(self) -> None:
        self._pauses: dict[Path, float] = {}
        self._due_at: dict[Path, float] = {}  # without those that have reached the longest pause

    def note(self, path: Path) -> None:
        """Remember that another process holds a log. Nothing changes before the log is due."""
        now, pause = Clock.monotonic(), self._pauses.get(path)
        if pause is None:
            pause = FIRST_SECONDS
        elif now >= self._due_at.get(path, inf):
            pause *= 2
        else:
            return
        self._pauses[path] = pause
        self._due_at[path] = now + pause
        if pause >= LONGEST_SECONDS:
            self._due_at.pop(path)

    def forget(self, path: Path) -> None:
        """Forget a log that no longer exists, or that this process holds."""
        self._pauses.pop(path, None)
        self._due_at.pop(path, None)

    def keep(self, paths: Iterable[Path]) -> None:
        """Forget every log but these."""
        for path in self._pauses.keys() - set(paths):
            self.forget(path)

    def due(self) -> list[Path]:
        """Return the logs that are due, at most ``AT_ONCE`` of them, the longest due first."""
        now = Clock.monotonic()
        due = sorted((at, path) for path, at in list(self._due_at.items()) if at <= now)
        return [path for _, path in due[:AT_ONCE]]

    @property
    def next_at(self) -> float:
        """When the next log is due (monotonic seconds); infinite where there is none."""
        return min(list(self._due_at.values()), default=inf)
