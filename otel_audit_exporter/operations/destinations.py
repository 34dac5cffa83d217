"""What waits and what is parked in an outbox directory, of every process, as JSON has it and in one line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from otel_audit_exporter.outbox.inspection import DestinationStatus, OutboxFileStatus


def destination_document(one: DestinationStatus, now: datetime) -> dict[str, Any]:
    """Return what one destination has pending and parked, with each of its processes, as JSON has it."""
    where, oldest = one.destination, oldest_of([one])
    return {
        "destination": str(where or one.path.name),
        "exporter": where and where.exporter,
        "place": where and where.place,
        "schema": where and where.schema,
        "table": where and where.table,
        "trail": where and where.trail,
        "database": where and where.database,
        "folder": str(one.path),
        "pending": pending_in(one),
        "oldest_pending_seconds": seconds_since(oldest, now),
        "parked": one.dead_letters,
        "live": sum(file.held for file in one.files),
        "orphaned": sum(not file.held for file in one.files),
        "processes": [_process_document(file, now) for file in one.files],
    }


def _process_document(file: OutboxFileStatus, now: datetime) -> dict[str, Any]:
    return {
        "pid": file.pid,
        "file": file.path.name,
        "live": file.held,
        "pending": file.events,
        "oldest_pending_seconds": seconds_since(file.oldest, now),
        "size_bytes": file.size_bytes,
        "problem": file.problem,
    }


def pending_in(one: DestinationStatus) -> int:
    """Return how many events wait in the files that can be read."""
    return sum(file.events or 0 for file in one.files)


def oldest_of(found: Sequence[DestinationStatus]) -> datetime | None:
    """Return when the oldest event that waits was accepted."""
    return min((file.oldest for one in found for file in one.files if file.oldest is not None), default=None)


def unreadable_in(found: Sequence[DestinationStatus]) -> int:
    """Return how many files could not be counted."""
    return sum((one.dead_letters is None) + sum(file.events is None for file in one.files) for one in found)


def seconds_since(at: datetime | None, now: datetime) -> float:
    """Return how long ago that was; 0.0 for None."""
    return 0.0 if at is None else max((now - at).total_seconds(), 0.0)
