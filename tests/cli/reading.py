"""A table that the command reads, and what it holds."""

from __future__ import annotations

from typing import Any

from otel_audit_exporter import configure_audit
from tests.support import trail_events


def write(*events: dict[str, Any]) -> list[str]:
    """Write events a second apart to the table that the environment names, and return their ids."""
    with configure_audit(outbox="memory") as pipeline:
        written = trail_events.write(pipeline, *events)
        assert pipeline.stats().succeeded == len(events)
    return written


def ids(lines: list[dict[str, Any]]) -> list[str]:
    """Return the ids of events as the command prints them."""
    return [line["record_id"] for line in lines]
