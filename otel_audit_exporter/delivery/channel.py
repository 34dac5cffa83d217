"""A delivery channel: one sink, the logs before it, and the counters of both.

Accepting stores the event in this process's log, and takes no lock. Everything that delivers goes through
:attr:`DeliveryChannel.sender`, for every caller. An event ends only when the sink has it, or the dead letters.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from otel_audit_exporter.delivery.age_marks import AgeMarks
from otel_audit_exporter.delivery.completion import Completions
from otel_audit_exporter.delivery.cursor import DeliveryCursor
from otel_audit_exporter.delivery.event_sender import EventSender
from otel_audit_exporter.delivery.log_set import LogSet, start_error
from otel_audit_exporter.delivery.parking import Parking
from otel_audit_exporter.delivery.refusals import Refusals
from otel_audit_exporter.delivery.reporting import channel_health, channel_stats
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.observability.delivery_log import DeliveryLog
from otel_audit_exporter.observability.health import AuditHealth, HealthThresholds
from otel_audit_exporter.observability.losses import WHAT_TO_DO_WITH_DAMAGE
from otel_audit_exporter.observability.stats import AuditStats, DeliveryCounters
from otel_audit_exporter.observability.write_timing import WriteTimings
from otel_audit_exporter.outbox.dead_letter_store import DeadLetterStore
from otel_audit_exporter.outbox.ended import LOST
from otel_audit_exporter.outbox.frames import EVENT, INVALID_EVENT
from otel_audit_exporter.outbox.log import LogClosedError, LogOptions, OutboxLog, Range
from otel_audit_exporter.outbox.stripe import EventRef, Stripe
from otel_audit_exporter.runtime.fork_safety import register_renewed
from otel_audit_exporter.runtime.log import RateLimitedLogger, logger
from otel_audit_exporter.runtime.threads import RLock
from otel_audit_exporter.sinks.base import Sink

if TYPE_CHECKING:
    from otel_audit_exporter.outbox.directory import OutboxDirectory

RowsOf = Callable[[Sequence[bytes]], Sequence[bytes]]


class DeliveryOptions(NamedTuple):
    """How a channel keeps and delivers its events; sizes in bytes, times in seconds."""

    outbox: str = "disk"
    outbox_write: str = "auto"
    outbox_max_bytes: int = 2**30
    export_timeout_seconds: float = 10.0
    foreign_key_grace_seconds: float = 60.0
    schedule_delay_seconds: float = 0.2
    slow_write_seconds: float = 1.0

    @property
    def cycle_seconds(self) -> float:
        """One full export cycle: what is pending for longer is overdue."""
        return self.schedule_delay_seconds + self.export_timeout_seconds


class DeliveryChannel:
    """One sink with its logs. Safe to use from any thread, and in a forked child.

    ``rows_of`` makes the sink's rows of events' bytes. ``directories`` is empty where the outbox is in memory.
    ``identity`` distinguishes this pipeline's dead letters from those of others.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        rows_of: RowsOf,
        *,
        directories: Sequence[OutboxDirectory],
        dead_letters: DeadLetterStore,
        options: DeliveryOptions,
        identity: str,
        jitter: random.Random | None = None,
    ) -> None:
        self.name = name
        self.sink = sink
        self.rows_of = rows_of
        self.options = options
        self.dead_letters = dead_letters
        self.identity = identity
        log_options = LogOptions(options.outbox == "fsync", options.outbox_write)
        self.logs = LogSet(name, directories, log_options, options.outbox_max_bytes)
        self.wake: Callable[[], None] = lambda: None
        self.start_threads: Callable[[], None] = lambda: None
        self.deliver_soon: Callable[[Sequence[EventRef]], None] = lambda refs: None
        self.on_write: Callable[[float, str], None] = lambda seconds, outcome: None
        self._jitter = jitter or random.Random()
        self._begin()
        self.limit_outbox()
        self.cursor.add(self.logs.open_own())
        register_renewed(self)

    def _begin(self) -> None:
        self.counters = DeliveryCounters(lambda: self.logs.accepted)
        self.write_timings = WriteTimings(self.options.slow_write_seconds)
        self.delivery_log = DeliveryLog(self.name)
        self.rate_limited_log = RateLimitedLogger()
        self.closed = False
        self.awake = False  # whether the relay looks by itself soon; else the next event has to wake it
        self.completions = Completions()
        self.cursor = DeliveryCursor(self._lose)
        self.refusals = Refusals(self.options.foreign_key_grace_seconds, self._jitter, self._lose_refused)
        self.marks = AgeMarks()
        self._ending = RLock()
        self.dropped: set[str] = set()  # dead letters that were removed for good, by hand
        self.parking = Parking(self)
        self.sender = EventSender(self, self._jitter)
        self.parked_seen = 0  # in the dead letters, when they could be read last

    # --- accepting --------------------------------------------------------------------------------------------

    def accept(self, body: bytes, kind: int = EVENT) -> EventRef:
        """Store one event, and return where it lies. Takes no lock where the log is mapped or in memory.

        Raises :class:`OutboxFullError` or another :class:`OutboxError` where the outbox refuses it, and
        :class:`AuditShutdownError` after a shutdown where nothing is kept on disk.
        """
        append = self.logs.append
        try:
            ref = append(body, kind) if append is not None else self._accept_anew(body, kind)
        except LogClosedError:  # a shutdown closed the log just now
            ref = self._accept_anew(body, kind)
        if not self.awake:
            self.awake = True
            self.wake()
        return ref

    def accept_invalid(self, body: bytes) -> EventRef:
        """Store one invalid event: it goes to the dead letters, and to no sink. Raises as above."""
        ref = self.accept(body, INVALID_EVENT)
        self.parking.expect_invalid(ref)
        self.wake()
        return ref

    def _accept_anew(self, body: bytes, kind: int) -> EventRef:
        """Open a log first: in a forked child, or after the end."""
        try:
            log = self.logs.open_after_end() if self.closed else self.logs.open_own()
        except AuditConfigurationError as error:
            raise start_error(error) from error
        if not self.closed:
            self.cursor.add(log)
            self.start_threads()
        append = self.logs.append
        return log.append(body, kind) if append is None else append(body, kind)

    # --- what has ended ----------------------------------------------------------------------------------------

    def row_of(self, body: bytes) -> bytes:
        """Return the sink's row of one event's bytes."""
        return self.rows_of((body,))[0]

    def end_events(self, kind: int, ranges: Sequence[Range], count: Callable[[int], None]) -> None:
        """Note the end of events in the logs that they are in.

        They are counted first (``count`` gets how many had not ended before): code that sees the end of all events
        finds them in the figures.
        """
        with self._ending:
            count(sum(stop - start + 1 for stripe, a, b in ranges for start, stop in stripe.ended.missing(a, b)))
            for log in list(self.logs):
                mine = [one for one in ranges if one[0].log is log]
                if mine:
                    log.end(kind, mine)

    def _lose(self, log: OutboxLog, ranges: list[Range]) -> None:
        """Count events that cannot be read any more: they are parked nowhere, and never delivered."""
        message = f"the log {log.path or 'in memory'} is damaged: %d event(s) cannot be read"
        self.end_events(LOST, ranges, lambda fresh: self.count_lost(fresh, message % fresh) if fresh else None)

    def _lose_refused(self, ranges: list[Range]) -> None:
        for log in list(self.logs):
            self._lose(log, [one for one in ranges if one[0].log is log])

    def count_lost(self, lost: int, message: str) -> None:
        """Count lost events, and say so."""
        self.counters.count(failed=lost, lost=lost, parked_ever=lost)
        self.counters.note_error(message)
        logger.critical("audit %s: %s. What to do: %s", self.name, message, WHAT_TO_DO_WITH_DAMAGE)
        self.completions.notify((), settled=True)

    # --- those who wait, and those who look --------------------------------------------------------------------

    def stats(self) -> AuditStats:
        """Return the counters of this channel at one instant; they are given where the disk cannot be read, too."""
        return channel_stats(self)

    def health(self, thresholds: HealthThresholds) -> AuditHealth:
        """Return the health of this channel at one instant."""
        return channel_health(self, thresholds)

    def wait_until_settled(
        self, deadline: float, deliver_now: Callable[[], None], or_until: Callable[[], bool] = lambda: False
    ) -> bool:
        """Wait until everything accepted so far is stored or parked; False where it is not at ``deadline``.

        Nor is it where ``or_until``, which is asked after each attempt, ends the wait before.
        """
        if self.closed:
            return self.counters.pending <= 0
        marks: list[tuple[Stripe, int]] = [(stripe, stripe.at[2]) for stripe in self.logs.stripes]
        return self.completions.wait_until_ended(marks, deadline, deliver_now, or_until)

    # --- logs -------------------------------------------------------------------------------------------------

    def adopt_orphans(self, *, again: bool = False) -> int:
        """Take over a few logs of processes that have ended; return how many events were in them.

        ``again``: examine only the logs that another process held before and that are due now.
        """
        found = 0
        for held in self.logs.adopt(again=again):
            count = held.log.pending
            self.counters.count(recovered=count + held.found.lost)
            if held.found.lost:
                exactly = "" if held.found.lost_exactly else "at least "
                self.count_lost(
                    held.found.lost, f"the log {held.path} is damaged: {exactly}{held.found.lost} event(s) are lost"
                )
            for _, problem in held.found.foreign:
                logger.error("audit %s: a file of an earlier process's log was set aside: %s", self.name, problem)
            self.cursor.add(held.log)
            found += count
        if found:
            logger.info("audit %s: %d event(s) taken over from an earlier process", self.name, found)
            self.wake()
        return found

    def drop_emptied(self) -> None:
        """Remove the adopted logs that have nothing left in them."""
        for held in self.logs.emptied():
            self.cursor.remove(held.log)

    def keep_house(self) -> None:
        """Make the segments that will be needed soon, and free those that are empty. For the housekeeper."""
        for log in list(self.logs):
            log.do_work()

    def limit_outbox(self) -> None:
        """Leave the outbox what the dead letters leave of the quota, and of the disk no more than half."""
        with suppress(Exception):
            self.logs.limit_bytes(self.options.outbox_max_bytes - self.dead_letters.size_bytes())

    def close(self) -> None:
        """Let go of the outbox; what is in it stays on disk for the next process."""
        self.closed = True
        self.logs.close()
        self.sink.close()

    # --- forks ------------------------------------------------------------------------------------------------

    def renew_after_fork(self) -> None:
        """In a forked child: start again, with nothing of the parent's."""
        closed = self.closed
        self.logs.forget()
        self._begin()
        self.closed = closed
        self.identity = uuid.uuid4().hex
        self.sink.renew_after_fork()
