"""Every test has an outbox of its own, an empty environment, and leaves no pipeline running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_audit_exporter import compat
from otel_audit_exporter.pipeline import configure, exporter
from otel_audit_exporter.runtime import log


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "SUPABASE_", "DATABASE_URL", "STATE_DIRECTORY", "AUDIT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_AUDIT_OUTBOX_DIR", os.fspath(tmp_path / "outbox"))
    monkeypatch.setenv("OTEL_AUDIT_HANDLE_SIGTERM", "false")
    monkeypatch.chdir(tmp_path)
    _forget()
    yield
    _forget()


def _forget() -> None:
    """Shut down what runs, and have the process as it was before the first call."""
    running = configure._Running.pipeline
    if running is not None:
        running.shutdown(0)
        running.let_go()
    configure._Running.pipeline = configure._Running.made_of = None
    configure._Running.repeats = log.RateLimitedLogger()
    for left in list(exporter._standalone):
        left.shutdown(0)
    compat._Built.db = compat._Built.pipeline = None
    compat._Built.told = False
    compat._Built.rejected = 0


@pytest.fixture
def outbox_dir(tmp_path: Path) -> str:
    return os.fspath(tmp_path / "outbox")
