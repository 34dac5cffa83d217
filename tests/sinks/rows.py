"""Rows to insert, and what a refusal has to look like."""

from __future__ import annotations

import time
import traceback
from typing import Any
from uuid import uuid4

import orjson
import pytest

from otel_audit_exporter.sinks.base import Sink, SinkError

COLUMNS = (
    "id",
    "yacht_id",
    "entity_type",
    "action",
    "entity_id",
    "created_by",
    "created_at",
    "old_values",
    "new_values",
)
CREATED_AT = "2026-03-04T05:06:07.123456+00:00"
VALUE = "S3CRET-VALUE"


def new_row(**changes: Any) -> bytes:
    """Make a row that the default table takes, unless ``changes`` spoil it."""
    row = {
        "id": str(uuid4()),
        "yacht_id": str(uuid4()),
        "entity_type": VALUE,
        "action": "create",
        "entity_id": str(uuid4()),
        "created_by": str(uuid4()),
        "created_at": CREATED_AT,
        "old_values": None,
        "new_values": {"note": VALUE},
    }
    return orjson.dumps(row | changes)


def new_rows(count: int) -> list[bytes]:
    return [new_row() for _ in range(count)]


def id_of(row: bytes) -> str:
    return str(orjson.loads(row)["id"])


def soon(seconds: float = 20.0) -> float:
    """Give a deadline that a healthy sink keeps easily."""
    return time.monotonic() + seconds


def refusal(sink: Sink, *rows: bytes, seconds: float = 20.0, secrets: tuple[str, ...] = ()) -> SinkError:
    """Insert what the sink has to refuse; what it says repeats no value of a row."""
    with pytest.raises(SinkError) as caught:
        sink.insert(rows or [new_row()], soon(seconds))
    said = "".join(traceback.format_exception(caught.value))
    for secret in (VALUE, *secrets):
        assert secret not in said
        assert secret not in caught.value.verdict.remedy
        assert secret not in repr(caught.value)
        assert secret not in repr(sink)
    return caught.value
