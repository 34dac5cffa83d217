"""The logs of one channel: the one that this process appends to, and those that it has adopted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from logging import ERROR, WARNING
from math import inf
from typing import TYPE_CHECKING, Final

from otel_audit_exporter.errors import AuditConfigurationError, AuditShutdownError, OutboxError, OutboxFullError
from otel_audit_exporter.outbox.group_commit import GroupCommit
from otel_audit_exporter.outbox.held_elsewhere import HeldElsewhere
from otel_audit_exporter.outbox.log import LogOptions, OutboxLog
from otel_audit_exporter.outbox.segment import FIRST_BYTES
from otel_audit_exporter.outbox.space import Quota, SegmentSpace
from otel_audit_exporter.outbox.stripe import EventRef, Stripe
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.log import RateLimitedLogger, logger
from otel_audit_exporter.runtime.threads import Event, RLock

if TYPE_CHECKING:
    from otel_audit_exporter.outbox.directory import LockedLog, OutboxDirectory

# Each adopted log holds two descriptors and some room: a few at a time are enough to keep every sender busy.
ADOPTED_AT_ONCE: Final = 16
LEAST_QUOTA_BYTES: Final = 2**18
_CLOSING_SECONDS: Final = 1.0

Append = Callable[[bytes, int], EventRef]


class LogSet:
    """Opens, adopts and lets go of logs. ``append`` is where calls go; everything else may wait."""

    def __init__(self, name: str, directories: Sequence[OutboxDirectory], options: LogOptions, max_bytes: int) -> None:
        self._name = name
        self._directories = tuple(directories)
        self._options = options
        self.quota = Quota(max_bytes, lambda: self.pending > 0)
        self._repeats = RateLimitedLogger()
        self.append: Append | None = None  # None before a forked child's first event, and after the end
        self.own: OutboxLog | None = None
        # The number of events that released logs have accepted, and the logs that are retired but not released.
        self._earlier: tuple[int, tuple[OutboxLog, ...]] = (0, ())
        self._on_work: Callable[[], None] = lambda: None
        self._held: LockedLog | None = None
        self._adopted: list[tuple[OutboxDirectory, LockedLog]] = []
        self._left_some = False
        self._lock = RLock()

    @property
    def on_disk(self) -> bool:
        """Whether what waits survives the process."""
        return bool(self._directories)

    @property
    def directory(self) -> OutboxDirectory | None:
        """The folder of this destination; None where the outbox is in memory."""
        return self._directories[0] if self._directories else None

    @property
    def adopted(self) -> list[LockedLog]:
        """The logs of processes that have ended, which this one has taken over."""
        return [held for _, held in list(self._adopted)]

    def __iter__(self) -> Iterator[OutboxLog]:
        yield from (held.log for held in self.adopted)
        own = self.own
        if own is not None:
            yield own

    @property
    def stripes(self) -> list[Stripe]:
        """Every stripe of every log."""
        return [stripe for log in self for stripe in list(log.stripes)]

    @property
    def accepted(self) -> int:
        """How many events this process has accepted."""
        own = self.own
        before, retired = self._earlier  # replaced in one step
        return before + sum(log.accepted for log in retired) + (own.accepted if own and own not in retired else 0)

    @property
    def pending(self) -> int:
        """How many events wait."""
        return sum(log.pending for log in self)

    def open_own(self) -> OutboxLog:
        """Return the log that this process appends to; it is made where there is none."""
        with self._lock:
            if self.own is None:
                log = self._new_log()
                log.on_work, log.on_stall = self._on_work, self._log_stall
                commit = GroupCommit(log).append if self._options.durable and self.on_disk else log.append
                self.own, self.append = log, commit
            return self.own

    def _log_stall(self, seconds: float) -> None:
        message = (
            "audit %s: the volume of the outbox held up the whole process for %.0f ms (it is frozen, or dying): its "
            "next segments are written by system calls, which hold up only the call"
        )
        self._repeats.say(WARNING, "stall", message, self._name, seconds * 1000)

    def _new_log(self) -> OutboxLog:
        if not self._directories:
            log = OutboxLog(b"\0" * 16, SegmentSpace(self.quota), None, path=None)
            log.start()
            return log
        self._held = self._directories[0].create(self.quota, self._options)
        return self._held.log

    def open_after_end(self) -> OutboxLog:
        """Open a log for events that come after the end; they are the next process's to deliver."""
        if not self._directories:
            raise AuditShutdownError(
                "the audit pipeline is shut down, and its outbox is in memory: the event is not recorded"
            )
        with self._lock:
            if self.own is None:
                logger.warning(
                    "audit %s: events come after shutdown; they are kept in the outbox and delivered by the next "
                    "process",
                    self._name,
                )
            return self.open_own()

    def set_on_work(self, on_work: Callable[[], None]) -> None:
        """Have ``on_work`` called where a segment will be needed soon; it must not wait."""
        self._on_work = on_work
        for log in self:
            log.on_work = on_work

    @property
    def left_bytes(self) -> int:
        """How much room quota and disk leave."""
        own = self.own
        if own is not None and self.quota.left_bytes < FIRST_BYTES:  # what has ended may not be free yet
            own.free_segments()
        # Segments that are being made, or are empty and kept for the next use, hold no event: they count as room.
        size = sum(log.size_bytes for log in self)
        used = sum(log.used_bytes if log is own else log.size_bytes for log in self)
        left = max(self.quota.max_bytes - used, 0)
        with suppress(OSError):
            if self._directories:
                left = min(left, self._directories[0].free_bytes() + max(size - used, 0))
        return left

    def adopt(self, *, again: bool = False) -> list[LockedLog]:
        """Take over a few logs of processes that have ended, and return them.

        ``again``: examine only the logs that another process held before and that are due now.
        """
        found: list[LockedLog] = []
        left_some = again and self._left_some
        for directory in self._directories:
            with self._lock:
                room = ADOPTED_AT_ONCE - len(self._adopted)
                mine = {held.path for held in (*self.adopted, *([self._held] if self._held is not None else []))}
            try:
                for held in directory.adopt(self.quota, self._options, limit=room, mine=mine, again=again):
                    with self._lock:
                        self._adopted.append((directory, held))
                    found.append(held)
                    room -= 1
                left_some |= room <= 0  # even if some have been emptied meanwhile
            except (OutboxError, OSError) as error:
                message = "audit %s: earlier processes' logs cannot be taken over now: %s"
                self._repeats.say(ERROR, ("adopt", type(error)), message, self._name, error)
        self._left_some = left_some
        if self.look_again_at < inf:
            self._on_work()
        return found

    @property
    def look_again_at(self) -> float:
        """When to examine logs again that were left or held (monotonic seconds); infinite where there are none."""
        if self.wants_more:
            return 0.0
        if len(self._adopted) >= ADOPTED_AT_ONCE:  # the others follow when these are empty
            return inf
        return min((directory.held_elsewhere.next_at for directory in self._directories), default=inf)

    def emptied(self) -> list[LockedLog]:
        """Return the adopted logs of which every event has ended, and hold them no longer."""
        with self._lock:
            done = [pair for pair in self._adopted if pair[1].log.pending == 0]
            self._adopted = [pair for pair in self._adopted if pair not in done]
        for directory, held in done:
            self._count_for_good(held.log)
            directory.release(held)
        if done and self.wants_more:
            self._on_work()
        return [held for _, held in done]

    def retire_own(self) -> bool:
        """Let go of this process's own log, which is empty; the next event opens another. False where there is none.

        It is treated as one that was adopted: what an append that is under way has put into it is delivered.
        """
        with self._lock:
            own, held = self.own, self._held
            if own is None or held is None or own.pending:
                return False
            self._earlier = (self._earlier[0], (*self._earlier[1], own))
            self.own, self.append, self._held = None, None, None
            self._adopted.append((self._directories[0], held))
        self._wait_for_appends(own)
        return True

    def _count_for_good(self, log: OutboxLog) -> None:
        """Count what was accepted in a retired log that goes now."""
        with self._lock:
            before, retired = self._earlier
            if log in retired:
                self._earlier = (before + log.accepted, tuple(one for one in retired if one is not log))

    @property
    def wants_more(self) -> bool:
        """Whether logs were left because so many were adopted, and there is room for others now."""
        return self._left_some and len(self._adopted) < ADOPTED_AT_ONCE

    def limit_bytes(self, max_bytes: int) -> None:
        """Set how much room all logs may take, and no more than half of what the disk has free."""
        most = max(max_bytes, LEAST_QUOTA_BYTES if self._directories else 0)
        with suppress(OSError):  # the directory may be gone
            if self._directories:
                most = min(most, self.quota.used_bytes + self._directories[0].affordable_bytes())
        self.quota.max_bytes = most

    def close(self) -> None:
        """Let go of every log; what has not ended stays on disk for the next process."""
        with self._lock:
            adopted, self._adopted = self._adopted, []
            held, self._held = self._held, None
            own, self.append = self.own, None
            if self._directories:
                self.own = None
                before, retired = self._earlier
                accepted = sum(log.accepted for log in (*retired, *([own] if own is not None else ())))
                self._earlier = (before + accepted, ())
        for directory, one in adopted:
            directory.release(one)
        if held is not None:
            self._wait_for_appends(held.log)
            self._directories[0].release(held)

    @staticmethod
    def _wait_for_appends(log: OutboxLog) -> None:
        """Give who is in the middle of an append a moment; who begins one goes to the next log."""
        until = Clock.monotonic() + _CLOSING_SECONDS
        pause = Event()
        while not log.close() and Clock.monotonic() < until:
            pause.wait(0.001)

    def forget(self) -> None:
        """In a forked child: let go of the parent's logs, and begin without any."""
        held = [*self.adopted, *([self._held] if self._held is not None else [])]
        if self.own is not None:
            self.own.forget()
        for one in held:
            one.log.forget()
            one.lock.forget()
        self._adopted, self._held, self.own, self.append = [], None, None, None
        for directory in self._directories:
            directory.held_elsewhere = HeldElsewhere()
        self.quota.used_bytes = 0
        self._earlier = (0, ())
        self._lock = RLock()


def start_error(error: AuditConfigurationError) -> OutboxError:
    """Return the error for a caller where no log can be opened any more."""
    full = isinstance(error.__cause__, OutboxFullError)
    return OutboxFullError(str(error)) if full else OutboxError(str(error))
