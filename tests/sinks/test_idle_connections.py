"""Connections that were idle for long, as after a freeze, are not used again."""

from __future__ import annotations

import pytest

from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.idle_connections import IdleConnections


class Connection:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_the_connection_that_was_used_last_is_taken_first() -> None:
    idle: IdleConnections[Connection] = IdleConnections()
    first, second = Connection(), Connection()
    idle.keep(first)
    idle.keep(second)
    assert [idle.take(), idle.take(), idle.take()] == [second, first, None]


@pytest.mark.parametrize("clock", ["wall", "monotonic"])
def test_one_that_was_idle_for_long_by_either_clock_is_closed(clock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    idle: IdleConnections[Connection] = IdleConnections()
    old = Connection()
    idle.keep(old)
    now = getattr(Clock, clock)()
    monkeypatch.setattr(Clock, clock, staticmethod(lambda: now + 61))
    assert idle.take() is None
    assert old.closed
