"""Events for a trail, a second apart, and the ids in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from otel_audit_exporter import AuditPipeline, audit_event

START: Final = datetime(2026, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)
YACHTS: Final = [str(uuid4()) for _ in range(2)]
USERS: Final = [str(uuid4()) for _ in range(2)]
PARTS: Final = [str(uuid4()) for _ in range(3)]


def write(pipeline: AuditPipeline, *events: dict[str, Any]) -> list[str]:
    """Write events a second apart, and return their ids."""
    receipts = []
    for number, event in enumerate(events):
        usual: dict[str, Any] = {
            "action": "receive",
            "entity_type": "part",
            "entity_id": PARTS[0],
            "yacht_id": YACHTS[0],
            "user_id": USERS[0],
            "timestamp": START + timedelta(seconds=number),
        }
        receipts.append(audit_event(**usual | event))
    assert pipeline.force_flush(20_000)
    assert pipeline.stats().failed == 0
    return [receipt.record_id for receipt in receipts]
