"""The housekeeper: one thread of the process that makes segments beforehand, frees them, and adopts logs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from logging import ERROR
from math import inf
from queue import Empty, SimpleQueue
from typing import Final

from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.outbox.stalls import processor_clock
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock, call_in_child
from otel_audit_exporter.runtime.log import RateLimitedLogger
from otel_audit_exporter.runtime.threads import Lock, new_thread
from otel_audit_exporter.runtime.uwsgi import leave_signals_to_uwsgi

ADOPT_SECONDS: Final = 60.0
_TICK_SECONDS: Final = 0.5
_repeats: Final = RateLimitedLogger()


Visit = Callable[[], float]


@dataclass
class _Visit:
    method: weakref.WeakMethod[Visit]
    due_at: float = 0.0


class Housekeeper:
    """Looks after the logs of all channels of this process. Its thread starts with the first one."""

    def __init__(self) -> None:
        self._channels: weakref.WeakSet[DeliveryChannel] = weakref.WeakSet()
        self._visits: list[_Visit] = []
        self._begin()

    def _begin(self) -> None:
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._adopt_at = Clock.monotonic() + ADOPT_SECONDS
        self._starting = Lock()
        self._running = Lock()  # held by the thread for as long as it lives: there is one, whatever interrupts a start
        self._adding = ForkSafeLock()
        for one in self._visits:
            one.due_at = 0.0

    def _all(self) -> list[DeliveryChannel]:
        with self._adding:
            return list(self._channels)

    def visit(self, visit: Visit) -> None:
        """Call a method soon, and again as long as its object exists; it may wait.

        It returns after how many seconds it is called next; that is a minute at most.
        """
        with self._adding:
            left = (one for one in self._visits if one.method() is not None)
            self._visits = [*left, _Visit(weakref.WeakMethod(visit))]
        self.call()

    def look_after(self, channel: DeliveryChannel) -> None:
        """Keep house for this channel from now on."""
        with self._adding:
            self._channels.add(channel)
        channel.logs.set_on_work(self.call)
        self.start()
        if channel.logs.look_again_at < inf:
            self.call()

    def call(self) -> None:
        """Have somebody look soon. Takes no lock: a queue's put never waits."""
        self._calls.put(None)

    def start(self) -> None:
        """Start the thread, where there is none; where none can be started now, a later call tries again."""
        if self._running.locked() or not self._starting.acquire(blocking=False):
            return
        try:
            thread = new_thread(self._run, "otel-audit-housekeeper")
            with suppress(RuntimeError):  # the interpreter is ending, or there is no room for a thread
                thread.start()
        finally:
            self._starting.release()

    def renew_after_fork(self) -> None:
        """In a forked child: no thread yet; the first event starts one."""
        self._begin()

    def _run(self) -> None:
        running = self._running
        if not running.acquire(blocking=False):
            return
        try:
            leave_signals_to_uwsgi()
            while True:
                self._wait()
                self._keep_house()
        finally:
            running.release()

    def _wait(self) -> None:
        calls = self._calls
        with suppress(Empty):
            calls.get(timeout=self._pause())
        while not calls.empty():
            with suppress(Empty):
                calls.get_nowait()

    def _keep_house(self) -> None:
        for channel in self._all():
            self._look_at(channel)
        processor_clock.note()
        self._adopt()
        self._make_visits()

    def _make_visits(self) -> None:
        for one in self._visits:
            visit = one.method()
            if visit is None or Clock.monotonic() < one.due_at:
                continue
            seconds = ADOPT_SECONDS
            with suppress(Exception):  # whose cause is logged where it is
                seconds = min(visit(), ADOPT_SECONDS)
            one.due_at = Clock.monotonic() + seconds

    def _pause(self) -> float:
        channels = [channel for channel in self._all() if not channel.closed]
        if any(channel.awake for channel in channels):
            return _TICK_SECONDS
        due = [self._adopt_at, *(one.due_at for one in self._visits if one.method() is not None)]
        due += (channel.logs.look_again_at for channel in channels)
        return max(min(due) - Clock.monotonic(), _TICK_SECONDS)

    @staticmethod
    def _look_at(channel: DeliveryChannel) -> None:
        try:
            channel.keep_house()
        except Exception as error:
            _repeats.say(ERROR, ("keep house", type(error)), "audit %s: %s", channel.name, type(error).__name__)

    def _adopt(self) -> None:
        now = Clock.monotonic()
        due = now >= self._adopt_at
        for channel in self._all():
            again = not due and not channel.logs.wants_more
            if channel.closed or (again and now < channel.logs.look_again_at):
                continue
            with suppress(Exception):  # whose cause is logged where it is
                if channel.adopt_orphans(again=again) or not again:
                    channel.limit_outbox()
        if due:
            self._adopt_at = now + ADOPT_SECONDS


housekeeper: Final = Housekeeper()
call_in_child(housekeeper.renew_after_fork)
