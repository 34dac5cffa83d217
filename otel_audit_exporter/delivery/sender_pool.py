"""The sender pool: a few threads that deliver for many channels.

A sender takes the next channel that has something, delivers one batch of it, and puts it back behind the others. What
is away must not keep senders from the rest: a channel whose back-off is closed is tried by the prober only, one
short attempt at a time.
"""

from __future__ import annotations

from contextlib import suppress
from logging import ERROR
from queue import Empty, SimpleQueue
from typing import Final

from otel_audit_exporter.delivery.connections import OpenConnections
from otel_audit_exporter.delivery.pool_member import PoolMember
from otel_audit_exporter.delivery.sender_thread import be_untraced, words_of
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock, register_renewed
from otel_audit_exporter.runtime.log import RateLimitedLogger
from otel_audit_exporter.runtime.threads import Thread, get_ident, new_thread

SENDERS: Final = 6  # with the prober and one thread that resolves names: eight more than one destination has
_TICK_SECONDS: Final = 0.5
_HOUSE_SECONDS: Final = 5.0
_repeats: Final = RateLimitedLogger()


class SenderPool:
    """Delivers for all channels that are its members, with at most ``SENDERS`` senders and one prober.

    ``max_connections``: how many sinks of members may be connected at once, a connection for each sender that used
    one. Fresh events are left to the SDK's batch processor for ``cold_after_seconds``; with ``hot=False`` there is
    none. The threads start with :meth:`start`, and again in a forked child at the first event there.
    """

    def __init__(self, *, max_connections: int, cold_after_seconds: float, hot: bool = True) -> None:
        self.cold_after = cold_after_seconds
        self.hot = hot
        self.connections = OpenConnections(max_connections)
        self._members: list[PoolMember] = []
        self._begin()
        register_renewed(self)

    def _begin(self) -> None:
        self._lock = ForkSafeLock()
        self._ready: SimpleQueue[PoolMember | None] = SimpleQueue()
        self._calls: SimpleQueue[PoolMember | None] = SimpleQueue()
        self._watched: set[PoolMember] = set()
        self._senders: list[Thread] = []
        self._prober: Thread | None = None
        self._house_at = Clock.monotonic() + _HOUSE_SECONDS
        self.at_work = 0  # senders that have a channel in hand
        self.stopping = False

    def add(self, member: PoolMember) -> None:
        """Deliver for this channel, too."""
        self._members = [*self._members, member]

    # --- what others ask for ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the prober and the first sender, where they do not run; the others start as there is work."""
        with self._lock:
            if self.stopping or self._prober is not None:
                return
            self._prober = new_thread(self._probe, "otel-audit-prober")
            try:
                self._prober.start()
            except (
                RuntimeError
            ):  # the interpreter is ending, or there is no room for a thread: a later call tries again
                self._prober = None
                return
        self._start_sender()

    def _start_sender(self) -> None:
        with self._lock:
            if self.stopping or len(self._senders) >= SENDERS:
                return
            name = f"otel-audit-pool-{len(self._senders) + 1}"
            thread = new_thread(self._send, name)
            with suppress(RuntimeError):
                thread.start()
                self._senders.append(thread)

    def serve(self, member: PoolMember) -> None:
        """Have a sender look at this channel, in its turn. Takes no lock."""
        self._ready.put(member)

    def watch(self, member: PoolMember) -> None:
        """Have the prober look at this channel now and until nothing waits in it. Takes no lock."""
        self._calls.put(member)

    @property
    def has_free_senders(self) -> bool:
        """Whether at least half of the senders have nothing to do."""
        return self.at_work <= SENDERS // 2

    def stop(self, deadline: float) -> None:
        """End the threads; one that is busy beyond ``deadline`` (monotonic seconds) is left to itself."""
        self.stopping = True
        self._calls.put(None)
        for _ in self._senders:
            self._ready.put(None)
        for thread in (*self._senders, self._prober):
            if thread is not None and thread.ident != get_ident():
                with suppress(RuntimeError):  # called by a signal handler that has interrupted the thread's start
                    thread.join(max(deadline - Clock.monotonic(), 0.0))

    def renew_after_fork(self) -> None:
        """In a forked child: no thread yet; the first event starts one."""
        stopping = self.stopping
        self._begin()
        self.stopping = stopping
        self.connections.renew_after_fork()

    # --- the senders ------------------------------------------------------------------------------------------

    def _send(self) -> None:
        be_untraced()
        while not self.stopping:
            member = self._ready.get()
            if member is None:
                return
            if not self._ready.empty():
                self._start_sender()
            self.at_work += 1
            try:
                member.deliver()
            except BaseException as error:  # nothing may end the thread that loses nothing
                self._log_error(member, error)
            finally:
                self.at_work -= 1

    @staticmethod
    def _log_error(member: PoolMember, error: BaseException) -> None:
        name = member.channel.name
        _repeats.say(ERROR, (name, type(error)), "audit %s: delivery stumbled and goes on: %s", name, words_of(error))

    # --- the prober -------------------------------------------------------------------------------------------

    def _probe(self) -> None:
        be_untraced()
        while not self.stopping:
            self._take_calls()
            due = [member for member in list(self._watched) if self._look_at(member)]
            if due and not self.stopping:
                self._try(min(due, key=lambda member: (not member.urgent, member.probe_seconds)))
            self._keep_house()

    def _take_calls(self) -> None:
        """Wait for somebody's call, no longer than until the next channel is due."""
        with suppress(Empty):
            member = self._calls.get(timeout=self._pause())
            while member is not None:
                self._watched.add(member)
                member = self._calls.get_nowait()

    def _pause(self) -> float:
        if not self._watched:
            return _HOUSE_SECONDS
        now = Clock.monotonic()
        due = min((member.due_at(now) for member in self._watched), default=now)
        return min(max(due - now, 0.0), _TICK_SECONDS)

    def _look_at(self, member: PoolMember) -> bool:
        """Have a channel served, or report that it is due for an attempt by the prober."""
        try:
            if not member.still_waits():
                self._watched.discard(member)
                return False
            return member.look(Clock.monotonic())
        except Exception as error:
            self._log_error(member, error)
            return False

    def _try(self, member: PoolMember) -> None:
        try:
            member.probe()
        except BaseException as error:
            self._log_error(member, error)

    def _keep_house(self) -> None:
        now = Clock.monotonic()
        if now < self._house_at:
            return
        self._house_at = now + _HOUSE_SECONDS
        for member in self._members:
            with suppress(Exception):  # whose cause is logged where it is
                member.tidy(now, crowded=len(self._members) > CROWD)
        self.connections.close_idle(now)


CROWD: Final = 64  # with more channels than this, empty logs are let go of sooner
