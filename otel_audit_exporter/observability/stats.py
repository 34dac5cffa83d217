"""The counters: what was accepted, and what happened to it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Final

from otel_audit_exporter.event.routing import RouteName
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.threads import RLock

_REMEMBERED_ERRORS: Final = 20
_HOUR: Final = 3600.0
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class AuditStats:
    """What this process accepted and what happened to it, at one instant.

    ``submitted + recovered == succeeded + failed + pending``, always. ``submitted``: events that a call of this
    process had accepted; ``recovered``: taken over from an earlier process's outbox; ``succeeded``: in the
    table; ``failed``: parked in the dead letters, or lost with an outbox file that was damaged; ``lost``: those of
    them that were lost, at least; ``pending``: in the outbox; ``held``: those of them that wait for a setting to be
    corrected or for a proof; ``retried``: rows offered to the sink again after a failure; ``rejected``: events that
    were refused at the call and are recorded nowhere; ``late``: not in the table when the response that waited for
    them (profile ``ephemeral``) reached its deadline; ``transactional``: written in the caller's own transaction.
    ``oldest_pending_seconds`` is 0.0 where nothing is pending.
    ``success_rate`` is ``100 * succeeded / (succeeded + failed + rejected)``, 100.0 while these are 0;
    ``last_success_at`` is aware and in UTC.
    ``sinks`` has the same for every sink by name, of the default trail. The top level is the total over all
    destinations, of each its first sink; ``trails`` and ``databases`` have the parts by name.
    """

    submitted: int = 0
    recovered: int = 0
    succeeded: int = 0
    failed: int = 0
    lost: int = 0
    pending: int = 0
    held: int = 0
    retried: int = 0
    rejected: int = 0
    late: int = 0
    transactional: int = 0
    oldest_pending_seconds: float = 0.0
    success_rate: float = 100.0
    last_error: str | None = None
    last_success_at: datetime | None = None
    sinks: Mapping[str, AuditStats] = field(default_factory=dict)
    trails: Mapping[str, AuditStats] = field(default_factory=dict)
    databases: Mapping[str, AuditStats] = field(default_factory=dict)


_SUMMED: Final = tuple(one.name for one in fields(AuditStats) if type(one.default) is int)


def summed(parts: Iterable[AuditStats]) -> AuditStats:
    """Return the total of several stats, each with its identity; the oldest event and the latest success are kept."""
    found = list(parts)
    if len(found) == 1:
        return found[0]
    figures = {name: sum(getattr(one, name) for one in found) for name in _SUMMED}
    times = [one.last_success_at for one in found if one.last_success_at is not None]
    return AuditStats(
        **figures,
        oldest_pending_seconds=max((one.oldest_pending_seconds for one in found), default=0.0),
        success_rate=success_rate(figures["succeeded"], figures["failed"] + figures["rejected"]),
        last_error=next((one.last_error for one in found if one.pending and one.last_error), None)
        or next((one.last_error for one in found if one.last_error), None),
        last_success_at=max(times, default=None),
    )


def by_trail(parts: Mapping[RouteName, AuditStats]) -> dict[str, AuditStats]:
    """Return the stats of destinations by trail."""
    return _grouped((name.trail, stats) for name, stats in parts.items())


def by_database(parts: Mapping[RouteName, AuditStats]) -> dict[str, AuditStats]:
    """Return the stats of destinations by named database."""
    return _grouped((name.database, stats) for name, stats in parts.items() if name.database is not None)


def _grouped(parts: Iterable[tuple[str, AuditStats]]) -> dict[str, AuditStats]:
    groups: dict[str, list[AuditStats]] = {}
    for name, stats in parts:
        groups.setdefault(name, []).append(stats)
    return {name: summed(found) for name, found in groups.items()}


@dataclass(frozen=True, slots=True)
class NotedError:
    """An error that came ``times`` times in a row; times are seconds since the epoch."""

    text: str
    first_at: float
    last_at: float
    times: int


def stats_document(stats: AuditStats) -> dict[str, Any]:
    """Return the counters as JSON has them: the keys of ``compat.get_audit_stats()``, and those of each sink."""
    return {
        "submitted": stats.submitted,
        "succeeded": stats.succeeded,
        "failed": stats.failed,
        "lost": stats.lost,
        "success_rate": shown_rate(stats.success_rate),
        "queue_size": stats.pending,
        "pending": stats.pending,
        "recovered": stats.recovered,
        "held": stats.held,
        "retried": stats.retried,
        "rejected": stats.rejected,
        "late": stats.late,
        "transactional": stats.transactional,
        "oldest_pending_seconds": stats.oldest_pending_seconds,
        "last_error": stats.last_error,
        "last_success_at": None if stats.last_success_at is None else stats.last_success_at.isoformat(),
        "sinks": {name: stats_document(of_sink) for name, of_sink in stats.sinks.items()},
        "trails": {name: stats_document(part) for name, part in stats.trails.items()},
        "databases": {name: stats_document(part) for name, part in stats.databases.items()},
    }


def success_rate(succeeded: int, unsuccessful: int) -> float:
    """Return the percentage of what succeeded; 100.0 where there is nothing yet."""
    total = succeeded + unsuccessful
    return 100.0 * succeeded / total if total else 100.0


def shown_rate(rate: float) -> str:
    """Return a rate with one decimal, rounded down: 100.0% is shown only where nothing has failed."""
    return f"{math.floor(rate * 10) / 10:.1f}%"


class DeliveryCounters:
    """The counters of one sink. Safe to use from any thread; pending is what the others leave."""

    def __init__(self, accepted: Callable[[], int] = lambda: 0) -> None:
        self._accepted = accepted  # how many events the logs of this process have taken: no call counts them
        self.lock = RLock()  # also for a signal handler that audits in the middle of a count
        self.submitted_elsewhere = 0
        self.recovered = 0
        self.succeeded = 0
        self.failed = 0
        self.retried = 0
        self.rejected = 0
        self.late = 0
        self.transactional = 0
        self.accepted_by_sink = 0  # rows: what a refusal is measured against
        self.lost = 0  # of the failed ones, those that a damaged file has swallowed
        self._noted_lost = 0
        self.last_error: str | None = None
        self.errors: deque[NotedError] = deque(maxlen=_REMEMBERED_ERRORS)
        self.parked_ever = 0  # `failed` goes down when a dead letter is retried with success; this does not
        self.last_success: float | None = None
        self._marks: deque[tuple[float, int]] = deque([(Clock.monotonic(), 0)])  # what had succeeded, every hour

    def note_error(self, text: str) -> None:
        """Keep an error as the last one, and among the latest for people to see."""
        self.last_error = text
        now = Clock.wall()
        with self.lock:
            latest = self.errors[-1] if self.errors and self.errors[-1].text == text else None
            if latest is not None:
                self.errors[-1] = replace(latest, last_at=now, times=latest.times + 1)
            else:
                self.errors.append(NotedError(text, now, now, 1))

    @property
    def latest_errors(self) -> tuple[NotedError, ...]:
        """The latest errors, the oldest first."""
        with self.lock:
            return tuple(self.errors)

    @property
    def submitted(self) -> int:
        """How many events calls of this process had accepted."""
        return self._accepted() + self.submitted_elsewhere

    def succeeded_recently(self) -> int:
        """Return how many have succeeded in the last 24 hours, to the hour."""
        with self.lock:
            now, succeeded = Clock.monotonic(), self.succeeded
            if now - self._marks[-1][0] >= _HOUR:
                self._marks.append((now, succeeded))
            while len(self._marks) > 1 and now - self._marks[1][0] > _DAY:
                self._marks.popleft()
            return max(succeeded - self._marks[0][1], 0)

    def take_unnoted_losses(self) -> int:
        """Return how many were lost since this was asked last."""
        with self.lock:
            unnoted, self._noted_lost = self.lost - self._noted_lost, self.lost
            return unnoted

    def count(
        self,
        *,
        submitted_elsewhere: int = 0,
        recovered: int = 0,
        succeeded: int = 0,
        failed: int = 0,
        lost: int = 0,
        parked_ever: int = 0,
        retried: int = 0,
        rejected: int = 0,
        late: int = 0,
        transactional: int = 0,
        accepted_by_sink: int = 0,
    ) -> None:
        """Add to several counters at one instant."""
        with self.lock:
            self.submitted_elsewhere += submitted_elsewhere
            self.recovered += recovered
            self.succeeded += succeeded
            self.failed += failed
            self.lost += lost
            self.parked_ever += parked_ever
            self.retried += retried
            self.rejected += rejected
            self.late += late
            self.transactional += transactional
            self.accepted_by_sink += accepted_by_sink

    @property
    def pending(self) -> int:
        """How many events are neither stored nor parked."""
        ended = self.succeeded + self.failed - self.recovered  # read first: an event is accepted before it ends
        return self.submitted - ended

    def stats(self, *, held: int, all_held: bool, oldest_pending_seconds: float) -> AuditStats:
        """Return the counters of one instant."""
        with self.lock:
            submitted = self.submitted
            pending = submitted + self.recovered - self.succeeded - self.failed
            at = self.last_success
            return AuditStats(
                submitted=submitted,
                recovered=self.recovered,
                succeeded=self.succeeded,
                failed=self.failed,
                lost=self.lost,
                pending=pending,
                held=pending if all_held else min(held, pending),
                retried=self.retried,
                rejected=self.rejected,
                late=self.late,
                transactional=self.transactional,
                oldest_pending_seconds=oldest_pending_seconds if pending else 0.0,
                success_rate=success_rate(self.succeeded, self.failed + self.rejected),
                last_error=self.last_error,
                last_success_at=None if at is None else datetime.fromtimestamp(at, UTC),
            )
