"""The flush and shutdown of the SDK and of other exporters, on a thread of their own.

They take as long as the exporter takes, even beyond their timeout, so no caller may run them itself. The thread is
started at configuration: in an ``atexit`` handler none can be started any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any

from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import register_renewed
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.runtime.threads import Event, new_thread
from otel_audit_exporter.runtime.uwsgi import leave_signals_to_uwsgi

Work = tuple[Iterable[Callable[[], Any]], Event]


class CallThread:
    """Runs the SDK's slow calls one after the other."""

    _work: SimpleQueue[Work | None]

    def __init__(self) -> None:
        self._start()
        register_renewed(self)

    def renew_after_fork(self) -> None:
        """In a forked child: there is no thread; the next call starts one."""
        self._ended = True
        self._work = SimpleQueue()

    def _start(self) -> None:
        self._ended = False
        self._work = SimpleQueue()
        new_thread(self._serve, "otel-audit-sdk", (self._work,)).start()

    def end(self) -> None:
        """End the thread, after what it was asked for."""
        self._ended = True
        self._work.put(None)

    def run(self, calls: Iterable[Callable[[], Any]], deadline: float) -> bool:
        """Have ``calls`` made; False where they are not through at ``deadline`` (they go on)."""
        if self._ended:
            try:
                self._start()
            except RuntimeError:  # a process that is ending: the outbox has what the SDK's queue had
                return False
        done = Event()
        self._work.put((calls, done))
        return done.wait(max(deadline - Clock.monotonic(), 0.0))

    @staticmethod
    def _serve(work: SimpleQueue[Work | None]) -> None:
        leave_signals_to_uwsgi()
        while True:
            asked = work.get()
            if asked is None:
                return
            calls, done = asked
            for call in calls:
                try:
                    call()
                except Exception as error:
                    logger.warning("audit: the SDK or an exporter raised %s in flush or shutdown", type(error).__name__)
            done.set()
