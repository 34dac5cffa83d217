"""Jobs that measure one side of a call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from otel_audit_exporter import get_audit_stats
from tests.benchmarks.apart import Result
from tests.benchmarks.bare import bare_emit
from tests.benchmarks.events import call, pipeline_in
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
) -> Result:
    """Measure ``audit_event()`` with a pipeline of these options.

    ``away``: nothing arrives, so that nothing is waited for. ``discard``: the sink takes all and does nothing.
    """
    pipeline = pipeline_in(directory, **options)
    if discard:
        pipeline.exporters[0].lane.sink = DiscardingSink()
    return measured(pattern, call, _nothing if away else _delivered, how)


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
    # No flush: it would have the relay deliver what the batch processor delivers in the ordinary run of things.
    while get_audit_stats().pending:
        time.sleep(_POLL_SECONDS)


def _nothing() -> None:
    """There is nothing to wait for."""


_POLL_SECONDS: Final = 0.02
