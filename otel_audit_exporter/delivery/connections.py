"""How many connections the sinks of a sender pool may have open, and which are closed first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock
from otel_audit_exporter.runtime.threads import get_ident

_IDLE_SECONDS: Final = 30.0


class _Use:
    """The connections of one channel's sink: one for each thread that has used it since it was closed."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.busy = 0
        self.last_at = 0.0


class OpenConnections:
    """Counts connections and closes those that were not used for longest. Safe to use from any thread."""

    def __init__(self, most: int) -> None:
        self._most = max(most, 1)
        self._begin()

    def _begin(self) -> None:
        self._lock = ForkSafeLock()
        self._uses: OrderedDict[DeliveryChannel, _Use] = OrderedDict()

    def renew_after_fork(self) -> None:
        """In a forked child: nothing is open."""
        self._begin()

    @property
    def open(self) -> int:
        """How many connections are open at most."""
        with self._lock:
            return sum(len(use.threads) for use in self._uses.values())

    @contextmanager
    def used_by(self, channel: DeliveryChannel) -> Iterator[None]:
        """Have room for one more connection to this channel's sink while it is used."""
        with self._lock:
            use = self._uses.setdefault(channel, _Use())
            use.busy += 1
            use.threads.add(get_ident())
            self._uses.move_to_end(channel)
            taken = self._too_many()
        for one in taken:
            one.sink.close()
        try:
            yield
        finally:
            with self._lock:
                use.busy -= 1
                use.last_at = Clock.monotonic()

    def _too_many(self) -> list[DeliveryChannel]:
        """Take those out that were not used for longest, until the rest is few enough."""
        total = sum(len(use.threads) for use in self._uses.values())
        taken = []
        for channel, use in list(self._uses.items()):
            if total <= self._most:
                break
            if not use.busy:
                total -= len(use.threads)
                taken.append(channel)
                del self._uses[channel]
        return taken

    def close_idle(self, now: float) -> None:
        """Close the connections that nobody has used for a while."""
        with self._lock:
            idle = [
                channel for channel, use in self._uses.items() if not use.busy and now - use.last_at > _IDLE_SECONDS
            ]
            for channel in idle:
                del self._uses[channel]
        for channel in idle:
            channel.sink.close()
