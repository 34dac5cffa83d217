"""Losses as health and people see them: what was rejected, lost or parked in the last day, why, and what to do."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.observability.causes import Cause
from otel_audit_exporter.outbox.dead_letter_store import DeadLetterStore, ParkedSince
from otel_audit_exporter.outbox.loss_file import LossStore
from otel_audit_exporter.outbox.loss_records import KEPT_SECONDS, SEVERAL_CAUSES, Loss, LossKind, LossRecords
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import register_renewed
from otel_audit_exporter.runtime.threads import RLock

WHAT_TO_DO_WITH_PARKED: Final = (
    "see `otel-audit dead-letters list`, correct the cause, then `otel-audit dead-letters retry`"
)
WHAT_TO_DO_WITH_DAMAGE: Final = (
    "see the disk, and who else writes to the outbox directory; what could be read is delivered"
)
_LOOK_SECONDS: Final = 0.2  # for another process that parks just now
_HOUR: Final = 3600.0
_GRAIN_SECONDS: Final = 60.0
_CAUSES_AT_ONCE: Final = 50


class RecentLosses(NamedTuple):
    """What was lost in the last 24 hours and nobody has acknowledged, retried or dropped.

    ``parked`` are in the dead letters. ``newest_seconds``: how long ago the newest loss was. ``succeeded``: what
    this process has brought to the table in the same time, to measure them against.
    """

    parked: int = 0
    rejected: int = 0
    lost: int = 0
    newest_seconds: float = 0.0
    succeeded: int = 0
    causes: tuple[tuple[str, Cause], ...] = ()  # the kind of loss, and its newest cause

    @property
    def total(self) -> int:
        """All of them."""
        return self.parked + self.rejected + self.lost

    @property
    def fresh(self) -> bool:
        """Whether the newest one is less than an hour old."""
        return self.newest_seconds < _HOUR


class LossLedger:
    """The losses of one destination. Safe to use from any thread, and in a forked child.

    The first loss of a cause is written down at once, what follows within a second, by :meth:`write`. What cannot be
    written now is written later, and seen by this process meanwhile.
    """

    def __init__(
        self, store: LossStore, dead_letters: DeadLetterStore, clock: Callable[[], float] = Clock.wall
    ) -> None:
        self._store = store
        self._dead_letters = dead_letters
        self._clock = clock
        self._lock = RLock()  # also for a signal handler that audits in the middle of a call
        self._writing = RLock()
        self._noted: set[tuple[str, str]] = set()
        self._unwritten = LossRecords()
        register_renewed(self)

    def note(self, kind: LossKind, cause: Cause, example: str, count: int = 1) -> None:
        """Note events that are kept nowhere."""
        now = self._clock()
        with self._lock:
            first = (kind, cause.text) not in self._noted and len(self._noted) < _CAUSES_AT_ONCE
            if not first and len(self._unwritten.losses) >= _CAUSES_AT_ONCE:
                cause = Cause(SEVERAL_CAUSES, cause.remedy)
            if first:
                self._noted.add((kind, cause.text))
            loss = Loss(kind, cause.text, cause.remedy, example, count, now, now)
            self._unwritten = self._unwritten.added([loss], now)
        if first:
            self.write()

    def write(self) -> None:
        """Write down what was noted."""
        if not self._unwritten.losses or not self._writing.acquire(blocking=False):
            return
        try:
            with self._lock:
                taken, self._unwritten = self._unwritten, LossRecords()
            try:
                self._store.change(lambda known: known.added(taken.losses, self._clock()))
            except OutboxError:  # another process is at it, or the disk: the next second
                with self._lock:
                    self._unwritten = self._unwritten.added(taken.losses, self._clock())
        finally:
            self._writing.release()

    def records(self) -> LossRecords:
        """Return what is written down and what is not yet. Raises :class:`OutboxError` where it cannot be read."""
        now = self._clock()
        with self._lock:
            return self._store.read().added(self._unwritten.losses, now)

    def parked(self, records: LossRecords) -> ParkedSince:
        """Return what was parked in the last 24 hours and after the last acknowledgement in ``records``."""
        return self._parked_since(self._clock(), records.acknowledged_at)

    def _parked_since(self, now: float, acknowledged_at: float) -> ParkedSince:
        a_day_ago = (now - KEPT_SECONDS) // _GRAIN_SECONDS * _GRAIN_SECONDS  # so that it need not be read each second
        return self._dead_letters.waiting(_LOOK_SECONDS).parked_since(max(a_day_ago, acknowledged_at))

    def recent(self, succeeded: int) -> RecentLosses:
        """Return what health judges. Raises :class:`OutboxError` where it cannot be read."""
        now, records = self._clock(), self.records()
        parked = self._parked_since(now, records.acknowledged_at)
        times = [loss.last_at for loss in records.losses] + ([parked.newest_at] if parked.count else [])
        causes: list[tuple[str, float, Cause]] = [
            (loss.kind, loss.last_at, Cause(loss.cause, loss.remedy)) for loss in records.losses
        ]
        if parked.count:
            causes.append(("parked", parked.newest_at, Cause(parked.error, WHAT_TO_DO_WITH_PARKED)))
        latest = {kind: cause for kind, _, cause in sorted(causes, key=lambda one: one[1])}
        return RecentLosses(
            parked=parked.count,
            rejected=records.count("rejected"),
            lost=records.count("lost"),
            newest_seconds=max(now - max(times, default=now), 0.0),
            succeeded=succeeded,
            causes=tuple(latest.items()),
        )

    def acknowledge(self, reason: str, by: str | None = None) -> int:
        """Record that somebody has seen all losses so far; return how many, parked events included.

        Raises ValueError where ``reason`` is empty, and :class:`OutboxError` where it cannot be written.
        """
        if not str(reason or "").strip():
            raise ValueError("reason: say why the losses are acknowledged")
        parked = self.parked(self.records()).count
        self.write()
        with self._lock:
            unwritten, self._unwritten = self._unwritten, LossRecords()
            self._noted.clear()
        now, by = self._clock(), by or whoami()
        changed = self._store.change(
            lambda known: known.added(unwritten.losses, now).acknowledged(now, by, reason.strip())
        )
        return changed.acknowledgements[-1].count + parked

    def renew_after_fork(self) -> None:
        """In a forked child: what the parent has noted, the parent writes down."""
        self._lock, self._writing = RLock(), RLock()
        self._noted.clear()
        self._unwritten = LossRecords()


def whoami() -> str:
    """Return who runs this process, for a record of who has done something."""
    import getpass  # for a command of somebody's; no event comes here

    name = f"uid {os.getuid()}" if hasattr(os, "getuid") else "somebody"
    with suppress(Exception):  # no entry of that user in this container
        name = getpass.getuser()
    return f"{name}@{socket.gethostname()}"
