"""Faults that are waiting to strike, and how often they have."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Condition

from tests.stack.faults import Close, Delay, Fault, Hang, Place, Reset
from tests.stack.messages import Request

Predicate = Callable[[Request], bool]


class Injection:
    """One injected fault: what a test holds on to."""

    def __init__(
        self, fault: Fault, times: int | None, when: Predicate | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.fault = fault
        self.hits = 0
        self._times = times
        self._when = when
        self._loop = loop
        self._released = asyncio.Event()
        self._changed = Condition()

    def wait(self, hits: int = 1, timeout: float = 30.0) -> None:
        """Return once the fault has struck `hits` times."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.hits >= hits, timeout):
                raise TimeoutError(f"{self.fault} struck {self.hits} times, not {hits}")

    def release(self) -> None:
        """Let go of what hangs, waits or drips, now and later."""
        self._loop.call_soon_threadsafe(self._released.set)

    def remove(self) -> None:
        """Strike no more, and let go of what hangs, waits or drips."""
        with self._changed:
            self._times = 0
        self.release()

    async def pause(self, seconds: float | None = None) -> None:
        """Wait that long (None: for ever), or until released."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._released.wait(), seconds)

    def matches(self, request: Request, *, early: bool) -> bool:
        due = early == self.interrupts(Place.REQUEST_HEAD) and (self._times is None or self._times > 0)
        return due and (self._when is None or self._when(request))

    def interrupts(self, place: Place) -> bool:
        return isinstance(self.fault, Delay | Hang | Reset | Close) and self.fault.at is place

    def strike(self) -> None:
        with self._changed:
            self.hits += 1
            if self._times is not None:
                self._times -= 1
            self._changed.notify_all()
