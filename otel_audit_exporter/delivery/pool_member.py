"""One channel among those that a sender pool delivers for. It has what a relay has for others to call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from otel_audit_exporter.delivery.awaited import AwaitedEvents, of_this_process
from otel_audit_exporter.delivery.backlog import BATCH_ROWS, PROBE_ROWS, RUN_ROWS
from otel_audit_exporter.delivery.backoff import BackoffState
from otel_audit_exporter.delivery.batch import Entry
from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.delivery.housekeeper import housekeeper
from otel_audit_exporter.outbox.stripe import EventRef
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import register_renewed
from otel_audit_exporter.runtime.threads import Lock

if TYPE_CHECKING:
    from otel_audit_exporter.delivery.sender_pool import SenderPool

FIRST_SECONDS: Final = 0.25  # for the first request to a sink that has not answered in this process
_LOG_IDLE_SECONDS: Final = 60.0
_CROWDED_IDLE_SECONDS: Final = 5.0


class PoolMember:
    """Delivers what waits in one channel, when a sender or the prober of the pool comes to it."""

    def __init__(self, pool: SenderPool, channel: DeliveryChannel) -> None:
        self.channel = channel
        self._pool = pool
        self._begin()
        channel.wake = self.wake
        channel.start_threads = self.start
        channel.deliver_soon = self.deliver_soon
        register_renewed(self)
        pool.add(self)

    def _begin(self) -> None:
        self._queued = False
        self._first = Lock()  # one sender at a time for a sink that has not answered
        self._awaited = AwaitedEvents(self.channel)
        self._has_adopted = False
        self.urgent = False
        self._refused_too = False
        self.probe_seconds = FIRST_SECONDS
        self._rest_until = 0.0
        self._seen = (0, Clock.monotonic())

    # --- what others ask for ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the pool's threads, and have the logs looked after."""
        self._pool.start()
        housekeeper.look_after(self.channel)

    def wake(self) -> None:
        """Have the pool look at the channel until nothing waits in it. Takes no lock."""
        self._pool.watch(self)
        if self.channel.parking.expects_invalid:
            self.deliver_more()

    def deliver_more(self) -> None:
        """Have what waits delivered, in its turn. Takes no lock."""
        if not self._queued:
            self._queued = True
            self._pool.serve(self)

    def deliver_now(self) -> None:
        """Offer all pending events to the sink once, now, even during a back-off."""
        self.urgent = True
        self._pool.start()
        self._pool.watch(self)
        self.deliver_more()

    def retry_held_now(self) -> None:
        """Do as :meth:`deliver_now` does, and offer what was refused by itself, too."""
        self._refused_too = True
        self.deliver_now()

    def deliver_soon(self, refs: Sequence[EventRef]) -> None:
        """Have events offered to the sink next; those of another process are left to it."""
        waiting = of_this_process(refs)
        if not waiting:
            return
        self._pool.start()
        self._awaited.put(waiting)
        self._pool.serve(self)
        if not self.channel.sender.backoff.is_open:
            self.urgent = True
            self._pool.watch(self)

    def without_hot_road(self) -> None:
        """Deliver everything: the SDK delivers nothing."""
        self._pool.hot = False

    def stop(self, deadline: float) -> bool:
        """Wait until nothing of this channel is under way; the pool's threads end with the pool."""
        channel = self.channel
        channel.completions.wait_for_attempt(deadline, lambda: None, lambda: channel.sender.delivering == 0)
        return channel.sender.delivering == 0

    def renew_after_fork(self) -> None:
        """In a forked child: nothing is asked for yet."""
        self._begin()

    # --- for the senders ----------------------------------------------------------------------------------------

    def deliver(self) -> None:
        """Deliver one batch, and have the rest delivered in its turn."""
        self._queued = False
        self.channel.parking.park_invalid()  # during a back-off, too
        if self.channel.closed or not self._may_deliver():
            return
        if self._limit is None:
            self._deliver(None)
        elif self._first.acquire(blocking=False):
            try:
                self._deliver(self._limit)
            finally:
                self._first.release()

    @property
    def _limit(self) -> float | None:
        """The seconds that an attempt may take; None: the time of one export."""
        return None if self.channel.sender.has_answered else FIRST_SECONDS

    def _may_deliver(self) -> bool:
        if not self._has_adopted:  # here, as it may take its time
            self._has_adopted = True
            self.channel.adopt_orphans()
        if self.channel.sender.backoff.is_open:
            return True
        self._pool.watch(self)
        return False

    def _deliver(self, within: float | None) -> None:
        channel = self.channel
        entries = [*self._awaited.take(), *channel.cursor.take(RUN_ROWS if within is None else PROBE_ROWS)]
        if within is None and self._pool.has_free_senders and channel.cursor.has_more:
            self.deliver_more()  # somebody else goes on meanwhile
        self._offer(entries, within)
        channel.parking.park_invalid()  # those that were read only now
        if not channel.sender.backoff.is_open:
            if within is not None:
                self.probe_seconds = 2 * within
            self._pool.watch(self)
            return
        if len(channel.refusals):
            channel.sender.deliver_refused(BATCH_ROWS, at_once=self._take_refused_too())
        channel.drop_emptied()  # the housekeeper takes over those that were left for want of room
        if channel.cursor.has_more:
            self.deliver_more()

    def _offer(self, entries: list[Entry], within: float | None) -> None:
        if entries:
            with self._pool.connections.used_by(self.channel):
                self.channel.sender.deliver(entries, within=within)

    def _take_refused_too(self) -> bool:
        wanted, self._refused_too = self._refused_too, False
        return wanted

    # --- for the prober -----------------------------------------------------------------------------------------

    def still_waits(self) -> bool:
        """Return whether something waits here; else the next event wakes the pool again."""
        channel = self.channel
        channel.awake = False  # first set, then looked: an event that comes in between finds it set
        if channel.closed or channel.counters.pending <= 0:
            self.urgent = False
            return False
        channel.awake = True
        return True

    def due_at(self, now: float) -> float:
        """Return when the prober has to look at this channel again (monotonic seconds)."""
        backoff = self.channel.sender.backoff
        if self.urgent:
            return max(now, backoff.asked_until)
        return now + self._pool.cold_after / 4 if backoff.is_open else max(backoff.not_before, self._rest_until)

    def look(self, now: float) -> bool:
        """Have the channel served where its turn has come; True: the prober has to try it."""
        channel = self.channel
        channel.marks.note(channel.logs.stripes)
        if not channel.sender.backoff.is_open:
            allowed = channel.sender.backoff.allows(now) and now >= self._rest_until
            return now >= channel.sender.backoff.asked_until and (self.urgent or allowed)
        if self.urgent or len(channel.refusals) or not self._pool.hot or self._is_cold(now):
            self.urgent = False
            self.deliver_more()
        return False

    def _is_cold(self, now: float) -> bool:
        """Return whether something waits for long, and nobody delivers."""
        channel, limit = self.channel, self._pool.cold_after
        if any(held.log.pending for held in channel.logs.adopted):
            return True
        waits = channel.marks.oldest_seconds() > limit
        return waits and channel.sender.delivering == 0 and now - channel.sender.last_progress > limit

    def probe(self) -> None:
        """Try a channel that is away once, for a short time that grows with each try."""
        channel, backoff = self.channel, self.channel.sender.backoff
        self.urgent = False
        rows = PROBE_ROWS if backoff.state is BackoffState.RETRYING else BATCH_ROWS
        entries = [*self._awaited.take(), *channel.cursor.take(rows)]
        if entries:
            self._offer([*entries, *channel.cursor.newest()], self.probe_seconds)
        if channel.sender.backoff.is_open or channel.sender.backoff is backoff:
            with self._pool.connections.used_by(channel):
                channel.sender.deliver_refused(BATCH_ROWS, at_once=self._take_refused_too())
        if channel.sender.backoff is backoff:  # somebody else has everything in hand
            self._rest_until = Clock.monotonic() + FIRST_SECONDS
        longest = channel.options.export_timeout_seconds
        self.probe_seconds = FIRST_SECONDS if channel.sender.backoff.is_open else min(2 * self.probe_seconds, longest)
        if channel.sender.backoff.is_open:
            self.deliver_more()

    def tidy(self, now: float, *, crowded: bool) -> None:
        """Remove logs that are empty, this process's own once nothing has come for a while."""
        channel = self.channel
        if channel.closed:
            return
        accepted = channel.logs.accepted
        if accepted != self._seen[0] or channel.counters.pending:
            self._seen = (accepted, now)
        elif now - self._seen[1] >= (_CROWDED_IDLE_SECONDS if crowded else _LOG_IDLE_SECONDS):
            channel.logs.retire_own()
        channel.drop_emptied()
