"""Jobs that measure one side of a call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otel_audit_exporter import flush_audit
from tests.benchmarks.apart import Result
from tests.benchmarks.bare import bare_emit
from tests.benchmarks.events import call, pipeline_in
from tests.benchmarks.patterns import measured


def bare(directory: Path, *, pattern: str, how: dict[str, Any]) -> Result:
    """Measure the SDK's own ``Logger.emit``."""
    emit, rest = bare_emit()
    return measured(pattern, emit, rest, how)


def audited(directory: Path, *, pattern: str, how: dict[str, Any], options: dict[str, Any], away: bool = False) -> Result:
    """Measure ``audit_event()`` with a pipeline of these options; ``away``: nothing arrives, so nothing is waited for."""
    pipeline_in(directory, **options)
    return measured(pattern, call, _nothing if away else _delivered, how)


def _delivered() -> None:
    assert flush_audit(60_000)


def _nothing() -> None:
    """There is nothing to wait for."""
