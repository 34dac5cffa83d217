"""An event that was checked and frozen into bytes, and how those bytes are read.

The bytes are plain JSON for every reader (see ``serialization``). A row is cut out of them without parsing
(see ``table.mapping``).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson
from opentelemetry.trace import SpanContext

from otel_audit_exporter.event.fields import FIELDS
from otel_audit_exporter.event.json.parser import plain_json
from otel_audit_exporter.event.serialization import split

_long_number = re.compile(rb"[0-9]{17}|[0-9][eE]").search


class EncodedEvent(NamedTuple):
    """An event ready to be committed: its id and its bytes, and what log lines and the record need of it."""

    record_id: str
    body: bytes
    action: str
    event_name: str
    timestamp_ns: int
    span: SpanContext
    digest: bytes | None  # of what the caller gave, for events with an idempotency key


def decode(body: bytes) -> dict[str, Any]:
    """Return the values of an event's bytes by field name."""
    return dict(zip(FIELDS, map(loads_exact, split(body)), strict=False))


def loads_exact(fragment: bytes) -> Any:
    """Return the value of a JSON document, integers of any size exactly, at any depth."""
    if not _long_number(fragment):
        try:
            return orjson.loads(fragment)
        except orjson.JSONDecodeError:  # nested deeper than orjson reads
            pass
    return plain_json(fragment.decode())
