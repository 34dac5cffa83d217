"""Jobs that measure one side of a call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from otel_audit_exporter import flush_audit
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from tests.benchmarks.apart import Result
from tests.benchmarks.bare import bare_emit
from tests.benchmarks.events import CALLS, pipeline_in
from tests.benchmarks.patterns import measured


def bare(directory: Path, *, pattern: str, how: dict[str, Any]) -> Result:
    """Measure the SDK's own ``Logger.emit``."""
    emit, rest = bare_emit()
    return measured(pattern, emit, rest, how)


def audited(
    directory: Path,
    *,
    pattern: str,
    how: dict[str, Any],
    options: dict[str, Any],
    away: bool = False,
    discard: bool = False,
    says: str = "usual",
) -> Result:
    """Measure ``audit_event()`` with a pipeline of these options.

    ``away``: nothing arrives, so that nothing is waited for. ``discard``: every sink takes all and does nothing.
    ``says``: the event, by its name in ``CALLS``.
    """
    pipeline = pipeline_in(directory, **options)
    if discard:
        discard_rows(pipeline)
    return measured(pattern, CALLS[says], _nothing if away else _delivered, how)


def discard_rows(pipeline: AuditPipeline) -> None:
    """Have every sink take all and do nothing."""
    for exporter in pipeline.exporters:
        exporter.channel.sink = DiscardingSink()


class DiscardingSink:
    """Takes every row and does nothing: what is left is the library's own work."""

    name = "discarding"
    target = "nowhere"

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Take them."""

    def close(self) -> None:
        """Nothing is open."""

    def renew_after_fork(self) -> None:
        """Nothing is inherited."""


def _delivered() -> None:
    assert flush_audit(_LONG_MILLIS)


def _nothing() -> None:
    """There is nothing to wait for."""


_LONG_MILLIS: Final = 60_000
