"""The one place that brings the library's state in this process back to what it was before its first use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from otel_audit_exporter import compat
from otel_audit_exporter.pipeline import current, standalone
from otel_audit_exporter.runtime import log

_PREFIXES = ("OTEL_", "SUPABASE_", "DATABASE_URL", "STATE_DIRECTORY", "AUDIT_")


def forget_pipelines() -> None:
    """Shut down what runs, without waiting, and forget it."""
    running = current.Running.pipeline
    if running is not None:
        running.shutdown(0)
        running.let_go()
    current.Running.pipeline = current.Running.made_of = None
    current.Running.rate_limited_log = log.RateLimitedLogger()
    for left in list(standalone.STANDALONE):
        left.shutdown(0)
    compat._Built.without_client = None
    compat._Built.rejected = 0
    log.logger.removeFilter(log._named_as_before)


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave no setting but the outbox directory, and make the test's own directory the current one."""
    for name in list(os.environ):
        if name.startswith(_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_AUDIT_OUTBOX_DIR", os.fspath(tmp_path / "outbox"))
    monkeypatch.setenv("OTEL_AUDIT_HANDLE_SIGTERM", "false")
    monkeypatch.chdir(tmp_path)
