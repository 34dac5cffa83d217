"""Which event a log line speaks of: its action, entity type and entity id, and no values."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import INDEX
from otel_audit_exporter.event.serialization import split

_NAME_LENGTH: Final = 120


def describe(body: bytes | None) -> str:
    """Return an event's action, entity type and entity id, for a log line: none so long or odd that it is another."""
    if body is None:
        return "none"
    try:
        fragments = split(body)
        said = [loads_exact(fragments[INDEX[name]]) for name in ("action", "entity_type", "entity_id")]
    except (ValueError, IndexError):
        return "one that cannot be read"
    return " ".join(map(_name, said))


def describe_arguments(said: Mapping[str, Any]) -> str:
    """Return what :func:`describe` does, of the arguments of ``audit_event``; of a wrong one no more than its type."""
    named = [said.get(name) for name in ("action", "entity_type", "entity_id")]
    return " ".join(_name(value) if isinstance(value, str | int | uuid.UUID) else _kind(value) for value in named)


def _kind(value: object) -> str:
    return "(none)" if value is None else f"({type(value).__name__})"


def _name(value: object) -> str:
    text = str(value)
    text = text if len(text) <= _NAME_LENGTH else f"{text[:_NAME_LENGTH]}..."
    return text if text.isprintable() else ascii(text)
