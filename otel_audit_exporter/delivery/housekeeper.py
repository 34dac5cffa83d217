"""The housekeeper: one thread of the process that makes segments beforehand, frees them, and adopts logs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from logging import ERROR
from queue import Empty, SimpleQueue
from typing import Final

from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.outbox.stalls import processor_clock
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock, call_in_child
from otel_audit_exporter.runtime.log import RateLimitedLogger
from otel_audit_exporter.runtime.signals import leave_signals_to_uwsgi
from otel_audit_exporter.runtime.threads import Lock, Thread, new_thread

ADOPT_SECONDS: Final = 60.0
_TICK_SECONDS: Final = 0.5
_repeats: Final = RateLimitedLogger()


class Housekeeper:
    """Looks after the logs of all channels of this process. Its thread starts with the first one."""

    def __init__(self) -> None:
        self._channels: weakref.WeakSet[DeliveryChannel] = weakref.WeakSet()
        self._visits: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._begin()

    def _begin(self) -> None:
        self._thread: Thread | None = None
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._adopt_at = Clock.monotonic() + ADOPT_SECONDS
        self._visit_at = 0.0
        self._starting = Lock()
        self._adding = ForkSafeLock()

    def _all(self) -> list[DeliveryChannel]:
        with self._adding:
            return list(self._channels)

    def visit(self, visit: Callable[[], None]) -> None:
        """Have a method called soon, and every minute for as long as its object is there; it may wait."""
        with self._adding:
            self._visits = [*(one for one in self._visits if one() is not None), weakref.WeakMethod(visit)]
        self._visit_at = 0.0
        self.call()

    def look_after(self, channel: DeliveryChannel) -> None:
        """Keep house for this channel from now on."""
        with self._adding:
            self._channels.add(channel)
        channel.logs.set_on_work(self.call)
        self.start()

    def call(self) -> None:
        """Have somebody look soon. Takes no lock: a queue's put never waits."""
        self._calls.put(None)

    def start(self) -> None:
        """Start the thread, where there is none; where none can be started now, a later call tries again."""
        if (self._thread is not None and self._thread.is_alive()) or not self._starting.acquire(blocking=False):
            return
        try:
            thread = new_thread(self._run, "otel-audit-housekeeper")
            with suppress(RuntimeError):  # the interpreter is ending, or there is no room for a thread
                thread.start()
                self._thread = thread
        finally:
            self._starting.release()

    def renew_after_fork(self) -> None:
        """In a forked child: no thread yet; the first event starts one."""
        self._begin()

    def _run(self) -> None:
        leave_signals_to_uwsgi()
        calls = self._calls
        while True:
            with suppress(Empty):
                calls.get(timeout=self._pause())
            while not calls.empty():
                with suppress(Empty):
                    calls.get_nowait()
            for channel in self._all():
                self._look_at(channel)
            processor_clock.note()
            self._adopt()
            self._make_visits()

    def _make_visits(self) -> None:
        now = Clock.monotonic()
        if now < self._visit_at:
            return
        self._visit_at = now + ADOPT_SECONDS
        for one in self._visits:
            visit = one()
            if visit is not None:
                with suppress(Exception):  # whose cause is logged where it is
                    visit()

    def _pause(self) -> float:
        busy = any(channel.awake for channel in self._all())
        return _TICK_SECONDS if busy else ADOPT_SECONDS

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
            if not channel.closed and (due or channel.logs.wants_more):
                with suppress(Exception):  # whose cause is logged where it is
                    channel.adopt_orphans()
                    channel.limit_outbox()
        if due:
            self._adopt_at = now + ADOPT_SECONDS


housekeeper: Final = Housekeeper()
call_in_child(housekeeper.renew_after_fork)
