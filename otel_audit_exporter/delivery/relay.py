"""The relay: delivers what the SDK's worker does not, for as long as it takes.

The SDK's batch processor decides when fresh events are delivered. The relay's sender delivers backlogs, retries,
refused rows and what other processes have left, with helpers where there is much. Its second thread delivers events
whose receipts are waited for, before any backlog.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from otel_audit_exporter.delivery.awaited import AwaitedEvents, of_this_process
from otel_audit_exporter.delivery.backlog import BATCH_ROWS, PROBE_ROWS, BacklogSenders
from otel_audit_exporter.delivery.backoff import BackoffState
from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.delivery.housekeeper import ADOPT_SECONDS, housekeeper
from otel_audit_exporter.delivery.right_of_way import RightOfWay
from otel_audit_exporter.delivery.sender_thread import SenderThread, be_untraced, words_of
from otel_audit_exporter.outbox.stripe import EventRef
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock, register_renewed
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.runtime.threads import Event, Thread, get_ident, new_thread

_TICK_SECONDS: Final = 1.0
_COMPANIONS: Final = 20


class Relay:
    """Delivers what waits in a channel, on daemon threads, with back-off.

    Fresh events are left to the SDK's batch processor for ``idle_after_seconds``; with ``hot=False`` there is no such
    processor, and the relay delivers everything. Starts with :meth:`start`, and again in a forked child at the first
    event there.
    """

    def __init__(self, channel: DeliveryChannel, *, cold_after_seconds: float, hot: bool = True) -> None:
        self._channel = channel
        self._idle_after = cold_after_seconds
        self._gather_seconds = channel.options.schedule_delay_seconds
        self._hot = hot
        self._warned_of_idle_sdk = False
        self._begin()
        channel.wake = self.wake
        channel.start_threads = self.start
        channel.deliver_soon = self.deliver_soon
        register_renewed(self)

    def _begin(self) -> None:
        self._thread: Thread | None = None
        self._express = SenderThread(self._channel, f"otel-audit-receipts-{self._channel.name}")
        self._start_lock = ForkSafeLock()
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._called = False
        self._awaited = AwaitedEvents(self._channel)
        self._awaited_is_served = False
        self._urgent = False
        self._refused_too = False
        self._more = False
        self._more_since: float | None = None
        self._stopping = False
        self._stop_or_pause = Event()
        self._problem = ""
        self._right_of_way = RightOfWay()
        self._backlog = BacklogSenders(self._channel, self._right_of_way, self._stop_or_pause)

    # --- what others ask for ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, once; where none can be started any more, the events are the next process's."""
        with self._start_lock:
            thread = new_thread(self._run, f"otel-audit-relay-{self._channel.name}")
            if self._thread is not None or self._stopping:
                return
            self._thread = thread  # before its start: a signal handler in the middle of that starts no second one
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending, or there is no room for a thread
                self._thread = None  # a later call tries again
        housekeeper.look_after(self._channel)

    def wake(self) -> None:
        """Have the relay look at the outbox now, as far as its back-off allows. Takes no lock where its thread runs."""
        if not self._called:
            self._called = True
            self._calls.put(None)
        if self._thread is None and not self._stopping:
            self._start_again()

    def deliver_more(self) -> None:
        """Have everything that waits delivered, as more of it came than the SDK's worker takes at once."""
        if not self._more:
            self._more = True
            self.wake()

    def deliver_now(self) -> None:
        """Offer all pending events to the sink once, now, even during a back-off."""
        self._urgent = True
        self._start_if_needed()
        self.wake()

    def deliver_soon(self, refs: Sequence[EventRef]) -> None:
        """Have events offered next, on a connection of their own; those of another process are left to it."""
        waiting = of_this_process(refs)
        if not waiting:
            return
        self._start_if_needed()
        self._awaited.put(waiting)
        if not self._awaited_is_served:
            self._awaited_is_served = True
            self._awaited_is_served = not self._express.do(self._deliver_awaited).is_set() or self._awaited.is_empty

    def retry_held_now(self) -> None:
        """Do as :meth:`deliver_now` does, and offer what was refused by itself, whose own back-off may be long, too."""
        self._refused_too = True
        self.deliver_now()

    def without_hot_road(self) -> None:
        """Deliver everything: the SDK delivers nothing."""
        self._hot = False

    def stop(self, deadline: float) -> bool:
        """End the thread; False where it is busy at ``deadline`` (monotonic seconds)."""
        self._stopping = True
        self._stop_or_pause.set()
        self._called = False
        self.wake()
        thread = self._thread
        if thread is None or thread.ident == get_ident():
            return True
        try:
            thread.join(max(deadline - Clock.monotonic(), 0.0))
        except RuntimeError:  # called by a signal handler that has interrupted the thread's start
            return False
        return not thread.is_alive()

    def renew_after_fork(self) -> None:
        """In a forked child: no thread yet; the first event starts one."""
        self._begin()

    def _start_again(self) -> None:
        """Start the thread that could not be started before. If this fails again, the next event tries once more."""
        self.start()
        if self._thread is None:
            self._channel.awake = False

    def _start_if_needed(self) -> None:
        if self._thread is None:
            self.start()

    # --- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        be_untraced()
        while not self._stopping:
            try:
                with suppress(Empty):
                    self._calls.get(timeout=self._pause())
                self._called = False
                if not self._stopping:
                    self._round()
                self._problem = ""
            except BaseException as error:
                self._log_error(error)
        self._backlog.end()
        self._express.end()

    def _log_error(self, error: BaseException) -> None:
        """Log once what went wrong, and go on: nothing may end the thread that loses nothing."""
        if self._stopping:
            return
        text = words_of(error)
        if text != self._problem:
            self._problem = text
            logger.error("audit %s: delivery stumbled and goes on: %s", self._channel.name, text)
            logger.debug("audit %s: where it stumbled", self._channel.name, exc_info=error)
        self._stop_or_pause.wait(_TICK_SECONDS)

    def _pause(self) -> float:
        if self._urgent:
            return 0.0
        until_due = self._channel.sender.backoff.not_before - Clock.monotonic()
        if not self._channel.sender.backoff.is_open and until_due > 0:
            return min(until_due, _TICK_SECONDS)
        if self._more and self._more_since is not None:
            return max(self._more_since + self._gather_seconds - Clock.monotonic(), 0.0)
        # First set, then looked: an event that comes in between finds it set, and wakes this thread.
        self._channel.awake = False
        if self._channel.counters.pending <= 0:
            return ADOPT_SECONDS
        self._channel.awake = True
        return min(self._idle_after / 2, _TICK_SECONDS)

    def _round(self) -> None:
        housekeeper.start()  # where no thread could be started for it before
        channel, now = self._channel, Clock.monotonic()
        channel.marks.note(channel.logs.stripes)
        channel.parking.park_invalid()
        urgent, self._urgent = self._urgent, False
        more = self._takes_more(now)
        backoff = channel.sender.backoff
        if now < backoff.asked_until or not (urgent or backoff.allows(now)):
            return
        refused_too, self._refused_too = self._refused_too, False
        until_empty = urgent or not backoff.is_open or not self._hot or self._is_idle(now)
        if until_empty or more:  # the latter leaves what comes meanwhile
            self._deliver_everything(until_empty=until_empty)
        # Also where nothing else is left to try a closed back-off with: such a row may be the one that passes now.
        if channel.sender.backoff.is_open or channel.sender.backoff is backoff:
            channel.sender.deliver_refused(BATCH_ROWS, at_once=refused_too)
        channel.parking.park_invalid()  # those that were read only now
        channel.drop_emptied()

    def _takes_more(self, now: float) -> bool:
        """Return whether to deliver what the SDK's worker does not: once it fills a request, or has waited for others.

        A request takes as long for a few rows as for many, so a few would be all that come during the one before.
        """
        if not self._more:
            return False
        if self._more_since is None:
            self._more_since = now
        if self._channel.logs.pending < self._backlog.run_rows and now < self._more_since + self._gather_seconds:
            return False
        self._more, self._more_since = False, None
        return True

    def _is_idle(self, now: float) -> bool:
        """Return whether something waits for long, and nobody delivers."""
        channel = self._channel
        if any(held.log.pending for held in channel.logs.adopted):
            return True
        waits = channel.marks.oldest_seconds() > self._idle_after
        idle = channel.sender.delivering == 0 and now - channel.sender.last_progress > self._idle_after
        if waits and idle and self._hot and not self._warned_of_idle_sdk and channel.cursor.has_more:
            self._warn_of_idle_sdk()
        return waits and idle

    def _deliver_everything(self, *, until_empty: bool) -> None:
        channel = self._channel
        # After an outage a few events show whether it is over. With refused rows, it takes more to see that.
        is_open = channel.sender.backoff.is_open
        probe = PROBE_ROWS if channel.sender.backoff.state is BackoffState.RETRYING else BATCH_ROWS
        first = channel.cursor.take(self._backlog.run_rows if is_open else probe)
        if not first:
            return
        if not is_open:  # if the oldest are all refused, the newest may show why
            first = [*first, *channel.cursor.newest()]
        channel.sender.deliver(first)
        if channel.sender.backoff.is_open:
            self._backlog.send(until_empty=until_empty)

    def _deliver_awaited(self) -> None:
        """Offer the events whose receipts are waited for; one that somebody has in hand is left to them."""
        with self._right_of_way.taken():
            while not self._stopping and self._deliver_next_awaited():
                pass

    def _deliver_next_awaited(self) -> bool:
        self._awaited_is_served = False  # who comes from here on calls again
        entries = self._awaited.take()
        if not entries:
            return False
        channel = self._channel
        if Clock.monotonic() < channel.sender.backoff.asked_until:
            channel.sender.put_back(entries)
            return False
        # Some others beside them: where one is refused, those that pass prove that it is the row's own fault.
        channel.sender.deliver([*entries, *channel.cursor.take(_COMPANIONS)])
        return True

    def _warn_of_idle_sdk(self) -> None:
        self._warned_of_idle_sdk = True
        logger.warning(
            "audit %s: the log records do not arrive through the SDK (OTEL_SDK_DISABLED, a processor that "
            "raises, or a provider that was shut down): events are delivered from the outbox instead",
            self._channel.name,
        )
