"""Logs that somebody held are soon looked at again, then ever more rarely, and a limited number at once."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from otel_audit_exporter.outbox.held_elsewhere import AT_ONCE, HeldElsewhere
from otel_audit_exporter.runtime.clock import Clock

LOG = Path("one.log")


@pytest.fixture
def pass_seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give what lets time pass; it stands still else."""
    now = [1000.0]
    monkeypatch.setattr(Clock, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_a_log_is_due_soon_and_then_ever_more_rarely(pass_seconds: Callable[[float], None]) -> None:
    held = HeldElsewhere()
    held.note(LOG)
    for pause in (0.5, 1, 2, 4, 8, 16, 32):
        assert held.next_at == Clock.monotonic() + pause
        pass_seconds(pause - 0.1)
        held.note(LOG)  # by a look at everything, before its turn
        assert held.due() == []
        pass_seconds(0.1)
        assert held.due() == [LOG]
        held.note(LOG)
    pass_seconds(1000)
    held.note(LOG)
    assert (held.due(), held.next_at) == ([], inf)


def test_a_log_that_is_gone_is_new_when_it_is_seen_again(pass_seconds: Callable[[float], None]) -> None:
    held = HeldElsewhere()
    for forget in (held.forget, lambda path: held.keep([Path("other.log")])):
        held.note(LOG)
        pass_seconds(0.5)
        held.note(LOG)
        forget(LOG)
        assert held.next_at == inf
        held.note(LOG)
        assert held.next_at == Clock.monotonic() + 0.5
        held.keep([LOG])
        assert held.next_at < inf


def test_of_thousands_those_come_first_that_wait_for_longest(pass_seconds: Callable[[float], None]) -> None:
    held = HeldElsewhere()
    logs = [Path(f"{number}.log") for number in range(2000)]
    for log in logs:
        held.note(log)
        pass_seconds(0.0001)
    pass_seconds(10)
    seen: list[Path] = []
    while due := held.due():
        assert len(due) <= AT_ONCE
        seen += due
        for log in due:
            held.note(log)
    assert seen == logs
