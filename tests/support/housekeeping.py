"""What this process does every minute, kept away from a test."""

from __future__ import annotations

import pytest

from otel_audit_exporter.delivery.housekeeper import housekeeper
from otel_audit_exporter.runtime.clock import Clock


@pytest.fixture
def no_usual_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody look at every log a minute later: not within this test."""
    monkeypatch.setattr("otel_audit_exporter.delivery.housekeeper.ADOPT_SECONDS", 3600.0)
    monkeypatch.setattr("otel_audit_exporter.pipeline.orphans.LONGEST_SECONDS", 3600.0)
    monkeypatch.setattr(housekeeper, "_adopt_at", Clock.monotonic() + 3600)
