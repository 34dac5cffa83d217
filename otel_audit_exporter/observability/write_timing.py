"""How long the writes to a sink take, and when they are slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.base import Sink

FORGET_SECONDS: Final = 300.0


class WriteTimings:
    """The writes to one sink, under way and ended; times are monotonic seconds. Safe to use from any thread.

    A write is slow that takes longer than ``limit_seconds`` (0: none is). Slowness is over when a fast write has
    ended since the slow one began, and no slow one for a given time; or when there was none at all for
    :data:`FORGET_SECONDS`.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._under_way: dict[object, float] = {}
        self._slow_seconds = 0.0
        self._slow_at = 0.0
        self._fast_at = 0.0

    def begin(self, now: float) -> object:
        """Note a write that begins."""
        write = object()
        self._under_way[write] = now
        return write

    def end(self, write: object, now: float) -> float:
        """Note its end; return how long it took."""
        seconds = now - self._under_way.pop(write)
        if 0 < self._limit < seconds:
            self._slow_seconds, self._slow_at = seconds, now
        else:
            self._fast_at = now
        return seconds

    def slow_seconds(self, now: float, calm_seconds: float) -> float:
        """Return how long the last slow write took, or takes so far; 0.0 while writes are fast."""
        longest = max((now - begun for begun in list(self._under_way.values())), default=0.0)
        if 0 < self._limit < longest:
            return longest
        over = self._fast_at > self._slow_at - self._slow_seconds and now - self._slow_at > calm_seconds
        forgotten = not self._under_way and now - max(self._slow_at, self._fast_at) > FORGET_SECONDS
        return 0.0 if over or forgotten else self._slow_seconds


class TimedSink:
    """A sink whose inserts are timed. ``on_write`` gets seconds and outcome of each: ``"success"`` or ``"failure"``."""

    def __init__(self, sink: Sink, writes: WriteTimings, on_write: Callable[[float, str], None]) -> None:
        self._sink = sink
        self._writes = writes
        self._on_write = on_write

    @property
    def name(self) -> str:
        return self._sink.name

    @property
    def target(self) -> str:
        return self._sink.target

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Insert, and note how long it took."""
        write = self._writes.begin(Clock.monotonic())
        outcome = "failure"
        try:
            self._sink.insert(rows, deadline)
            outcome = "success"
        finally:
            seconds = self._writes.end(write, Clock.monotonic())
            with suppress(Exception):  # an observer must not undo what is stored
                self._on_write(seconds, outcome)

    def close(self) -> None:
        self._sink.close()

    def renew_after_fork(self) -> None:
        self._sink.renew_after_fork()
