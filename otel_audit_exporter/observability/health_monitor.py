"""The watch: looks at the health of a pipeline now and then, and reports when its level has changed."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Final, NamedTuple

from otel_audit_exporter.errors import AuditError
from otel_audit_exporter.observability.health import LEVELS, AuditHealth, Level
from otel_audit_exporter.observability.stats import AuditStats
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import register_renewed
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.runtime.threads import Event, Thread, get_ident, new_thread
from otel_audit_exporter.runtime.uwsgi import leave_signals_to_uwsgi

SAMPLE_SECONDS: Final = 10.0
SAMPLES: Final = 360  # an hour of them
_LONGEST_PAUSE_SECONDS: Final = 1.0
_SHORTEST_PAUSE_SECONDS: Final = 0.05
_LAST_CALL_SECONDS: Final = 1.0
_LOG_AT: Final = {"good": logger.info, "warning": logger.warning, "critical": logger.error}

OnHealthChange = Callable[[AuditHealth], object]


class Sample(NamedTuple):
    """The worst of a few seconds, for the picture of the last hour; ``at`` in seconds since the epoch."""

    at: float
    level: Level
    pending: int
    settled: int


class HealthMonitor:
    """Looks at ``health`` on a daemon thread, several times in one export cycle.

    A change of level is logged once and ``on_change`` is called with the new health, outside of every lock and on a
    thread of its own, so that nothing waits for it. What gets worse is reported at once, what gets better when it has
    been seen twice, so that nothing flickers. The watch ends with :meth:`stop`, or when the owner of ``health`` is
    gone.
    """

    def __init__(
        self,
        health: Callable[[], AuditHealth],
        stats: Callable[[], AuditStats],
        *,
        cycle_seconds: float,
        on_change: OnHealthChange | None = None,
    ) -> None:
        self._health = weakref.WeakMethod(health)
        self._stats = weakref.WeakMethod(stats)
        self._pause = min(max(cycle_seconds / 4, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        self._on_change = on_change
        self._begin()
        register_renewed(self)

    def _begin(self) -> None:
        self._thread: Thread | None = None
        self._caller = None if self._on_change is None else _Caller(self._on_change)
        self._stopped = Event()
        self._reported: AuditHealth = AuditHealth()
        self._better_before = False
        self._problem = ""
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    def start(self) -> None:
        """Start the thread, once."""
        if self._thread is None and not self._stopped.is_set():
            thread = new_thread(self._run, "otel-audit-watch")
            with suppress(RuntimeError):  # the interpreter is ending
                thread.start()
                self._thread = thread
                if self._caller is not None:
                    self._caller.start()

    def stop(self, deadline: float) -> None:
        """End the thread; return when it has ended, or at ``deadline`` (monotonic seconds).

        A call of ``on_change`` that is under way is waited for for a second at most.
        """
        self._stopped.set()
        if self._thread is not None:
            _join(self._thread, deadline)
        if self._caller is not None:
            self._caller.end(min(deadline, Clock.monotonic() + _LAST_CALL_SECONDS))

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What was seen in the last hour, the oldest first."""
        return tuple(self._samples)

    def renew_after_fork(self) -> None:
        """In a forked child: no thread yet; the first event starts one."""
        stopped = self._stopped.is_set()
        self._begin()
        if stopped:
            self._stopped.set()

    def _run(self) -> None:
        leave_signals_to_uwsgi()
        while not self._stopped.wait(self._pause):
            try:
                if not self.look():
                    break
                self._problem = ""
            except AuditError as error:
                self._log_error(error)
            except Exception as error:  # a watch that ends reports nothing any more
                self._log_error(error)
        if self._caller is not None:
            self._caller.end(Clock.monotonic())

    def _log_error(self, error: Exception) -> None:
        if str(error) != self._problem and not self._stopped.is_set():
            self._problem = str(error)
            logger.error("audit: the health cannot be told: %s", error)

    def look(self) -> bool:
        """Look once, and report a change; False where there is nothing to look at any more."""
        health_of, stats_of = self._health(), self._stats()
        if health_of is None or stats_of is None:
            return False
        health, stats = health_of(), stats_of()
        del health_of, stats_of
        self._keep(health, stats)
        self._compare(health)
        return True

    def _compare(self, health: AuditHealth) -> None:
        before = self._reported
        change = LEVELS.index(health.level) - LEVELS.index(before.level)
        settled, self._better_before = self._better_before, change < 0
        if change > 0 or (change < 0 and settled):
            self._better_before = False
            self._reported = health
            self._notify(before, health)
        elif change == 0 and (health.slow_write_seconds > 0) != (before.slow_write_seconds > 0):
            self._reported = health
            _log_slow(health)

    def _notify(self, before: AuditHealth, health: AuditHealth) -> None:
        reasons = "; ".join(health.reasons) or "everything is delivered in time"
        _LOG_AT[health.level]("audit: health %s, was %s: %s", health.level, before.level, reasons)
        if self._caller is not None:
            self._caller.notify(health)

    def _keep(self, health: AuditHealth, stats: AuditStats) -> None:
        now, settled = Clock.wall(), stats.succeeded + stats.failed
        latest = self._samples[-1] if self._samples else None
        if latest is None or not 0 <= now - latest.at < SAMPLE_SECONDS:
            self._samples.append(Sample(now, health.level, stats.pending, settled))
            return
        level = max(latest.level, health.level, key=LEVELS.index)
        self._samples[-1] = Sample(latest.at, level, max(latest.pending, stats.pending), settled)


class _Caller:
    """Calls ``on_change`` on a daemon thread, with one change after the other."""

    def __init__(self, on_change: OnHealthChange) -> None:
        self._on_change = on_change
        self._changes: SimpleQueue[AuditHealth | None] = SimpleQueue()
        self._thread = new_thread(self._run, "otel-audit-health-change")

    def start(self) -> None:
        self._thread.start()

    def notify(self, health: AuditHealth) -> None:
        self._changes.put(health)

    def end(self, deadline: float) -> None:
        self._changes.put(None)
        _join(self._thread, deadline)

    def _run(self) -> None:
        leave_signals_to_uwsgi()
        for health in iter(self._changes.get, None):
            try:
                self._on_change(health)
            except BaseException:  # SystemExit, too: it would end the thread in silence
                logger.exception("audit: on_health_change raised")


def _join(thread: Thread, deadline: float) -> None:
    if thread.ident != get_ident() and thread.ident is not None:
        thread.join(max(deadline - Clock.monotonic(), 0.0))


def _log_slow(health: AuditHealth) -> None:
    if health.slow_write_seconds > 0:
        logger.warning("audit: writes are slow: one took %.1f s (OTEL_AUDIT_SLOW_WRITE)", health.slow_write_seconds)
    else:
        logger.info("audit: writes are fast again")
