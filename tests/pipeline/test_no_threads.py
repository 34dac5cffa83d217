"""A process that may start no more threads for a while: what is accepted stays so, and is delivered later."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from otel_audit_exporter import audit_event, configure_audit, flush_audit, get_audit_stats
from tests.support.events import arguments
from tests.support.rows import sqlite_rows
from tests.support.running import run_in_child


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_child_that_cannot_start_threads_accepts_and_delivers_later(tmp_path: Path, bare_environment: None) -> None:
    """It delivers once it can start threads."""
    configure_audit("sqlite", path=str(tmp_path / "audit.db"))

    def task() -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_thread)
            for _ in range(3):
                audit_event(**arguments())
            assert get_audit_stats().pending == 3
            assert not flush_audit(100)
        receipt = audit_event(**arguments())
        receipt.result(30)
        assert flush_audit(30_000)

    assert run_in_child(task, 90)
    assert len(sqlite_rows(tmp_path / "audit.db")) == 4


def test_without_a_receipt_the_next_event_starts_the_delivery(tmp_path: Path, bare_environment: None) -> None:
    configure_audit("sqlite", path=str(tmp_path / "audit.db"))

    def task() -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_thread)
            audit_event(**arguments())
        delivered = threading.Event()
        audit_event(**arguments())
        while get_audit_stats().pending:
            delivered.wait(0.01)

    assert run_in_child(task, 90)
    assert len(sqlite_rows(tmp_path / "audit.db")) == 2
