"""There is one housekeeper in a process, whatever interrupts its start."""

from __future__ import annotations

import threading

from otel_audit_exporter.delivery.housekeeper import housekeeper
from tests.stack.waiting import wait_until


def test_a_second_thread_that_was_started_all_the_same_ends_at_once() -> None:
    """An exception in the middle of a start may have left one that is not known."""
    housekeeper.start()
    wait_until(housekeeper._running.locked, "the first one runs")
    second = threading.Thread(target=housekeeper._run, daemon=True)
    second.start()
    second.join(30)
    assert not second.is_alive()
    assert housekeeper._running.locked()


def test_no_thread_is_started_beside_one_that_runs() -> None:
    housekeeper.start()
    wait_until(housekeeper._running.locked, "the first one runs")
    before = {thread for thread in threading.enumerate() if thread.name == "otel-audit-housekeeper"}
    assert len(before) == 1
    housekeeper.start()
    assert {thread for thread in threading.enumerate() if thread.name == "otel-audit-housekeeper"} == before
