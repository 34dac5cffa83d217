"""Connections that are kept between requests, for as long as they can be trusted.

A process that was frozen for a while (a function between two invocations, a laptop) finds connections that the network
in between has forgotten: nothing shows this, and a request on one would wait for an answer until its time is up. So one
that was idle for long is not used again. The monotonic clock may stop while a machine sleeps. Therefore the wall clock
counts, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from otel_audit_exporter.runtime.clock import Clock

_LONGEST_IDLE_SECONDS: Final = 60.0


class LastUse:
    """When something was used last."""

    def __init__(self) -> None:
        self._monotonic, self._wall = Clock.monotonic(), Clock.wall()

    @property
    def long_ago(self) -> bool:
        """Say whether a connection may have been forgotten since, by a firewall or a gateway between."""
        idle = max(Clock.monotonic() - self._monotonic, Clock.wall() - self._wall)
        return idle > _LONGEST_IDLE_SECONDS


class Connection(Protocol):
    """What can be kept."""

    def close(self) -> None:
        """Close the connection."""


ConnectionT = TypeVar("ConnectionT", bound=Connection)


class IdleConnections(Generic[ConnectionT]):
    """The connections that nobody uses just now, the one used last first. Safe to use from any thread.

    ``forget`` is called with one that is closed because it was idle for long.
    """

    def __init__(self, forget: Callable[[ConnectionT], object] = lambda connection: None) -> None:
        self._forget = forget
        self._kept: deque[tuple[ConnectionT, LastUse]] = deque()

    def keep(self, connection: ConnectionT) -> None:
        """Keep a connection for the next request."""
        self._kept.append((connection, LastUse()))

    def take(self) -> ConnectionT | None:
        """Return a connection to use; close those that were idle for long. None: there is none."""
        while True:
            try:
                connection, last_use = self._kept.pop()
            except IndexError:
                return None
            if not last_use.long_ago:
                return connection
            self._forget(connection)
            connection.close()

    def close(self) -> None:
        """Close them all."""
        while self._kept:
            self._kept.pop()[0].close()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[ConnectionT]:
        return iter([connection for connection, _ in self._kept])
