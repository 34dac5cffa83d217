"""Events whose whole content follows from their id, so that a row can be checked without a copy of it."""

import hashlib
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

BAD_ACTION = "bad_action"
_START = datetime(2024, 1, 1, tzinfo=UTC)
_NAMES = uuid.UUID("6f1d1c1e-7a3b-4b58-9d38-5b6a3f0f8a11")


def arguments(record_id: str, *, bad: bool = False) -> dict[str, Any]:
    """Give the arguments of `audit_event` for an id; a `bad` one is for a table that refuses `BAD_ACTION`."""
    digest = hashlib.sha256(record_id.encode()).digest()
    return {
        "record_id": record_id,
        "action": BAD_ACTION if bad else f"act_{digest[0] % 7}",
        "entity_type": f"kind_{digest[1] % 5}",
        "entity_id": _named(record_id, "entity"),
        "yacht_id": _named(record_id, "yacht"),
        "user_id": _named(record_id, "user"),
        "timestamp": _START + timedelta(microseconds=int.from_bytes(digest[:6], "big")),
        "old_values": None if digest[2] % 3 else {"was": digest.hex()[:8], "n": digest[3]},
        "new_values": {"of": record_id, "text": f"ü\u2028{digest.hex()}", "deep": [1, {"x": None, "y": digest[4] / 8}]},
    }


def expected_row(record_id: str, *, bad: bool = False) -> dict[str, Any]:
    """Give what the default table must hold for an id, as strings and JSON values."""
    said = arguments(record_id, bad=bad)
    return {
        "id": record_id,
        "yacht_id": said["yacht_id"],
        "entity_type": said["entity_type"],
        "action": said["action"],
        "entity_id": said["entity_id"],
        "created_by": said["user_id"],
        "created_at": said["timestamp"],
        "old_values": said["old_values"],
        "new_values": said["new_values"],
    }


def plain_row(row: dict[str, Any]) -> dict[str, Any]:
    """Bring a row of any table to the form of `expected_row`."""
    return {column: _plain(column, value) for column, value in row.items()}


def _plain(column: str, value: Any) -> Any:
    if isinstance(value, uuid.UUID):
        return str(value)
    if column in ("old_values", "new_values") and isinstance(value, str):
        return json.loads(value)
    if column == "created_at" and isinstance(value, str):
        return datetime.fromisoformat(value)
    return value


def _named(record_id: str, what: str) -> str:
    return str(uuid.uuid5(_NAMES, f"{what}:{record_id}"))
