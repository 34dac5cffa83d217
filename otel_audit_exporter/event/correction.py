"""Correcting an event in the dead letters. It is checked again, and it records who has changed what, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from opentelemetry.context import Context, attach, detach

from otel_audit_exporter.errors import AuditEventError
from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import FIELD_ALIASES, FIELDS, INDEX, SURROUNDINGS
from otel_audit_exporter.event.identity import NOBODY
from otel_audit_exporter.event.invalid_event import CORRECTED, NOBODY_IN, REASONS, UNKNOWN, more_in
from otel_audit_exporter.event.routing import ROUTE_FIELDS
from otel_audit_exporter.event.serialization import assemble_with, split
from otel_audit_exporter.event.surroundings import GIVEN, Found
from otel_audit_exporter.event.validation import EventValidator

# Who looks after a trail must not change in passing whose it is, who did it, or when.
NEEDS_FORCE: Final = frozenset({"yacht_id", "user_id", "actor_type", "on_behalf_of", "timestamp"})
_FIXED: Final = frozenset({"record_id", "trace_id", "span_id"})


class Correction(NamedTuple):
    """Who corrects an event, when (ISO 8601) and why."""

    by: str
    at: str
    reason: str


def corrected_body(
    body: bytes, changes: Mapping[str, Any], correction: Correction, rules: EventValidator, *, force: bool
) -> bytes:
    """Return the bytes of an event with these changes, checked again as a call would be.

    Fields that stay are as they were recorded. Who, when, what and why stands beside them. Raises
    :class:`AuditEventError` that names every field that is wrong, or must not be changed so.
    """
    changes = {FIELD_ALIASES.get(name, name): value for name, value in changes.items()}
    if "timestamp" in changes:
        changes["timestamp"] = _moment(changes["timestamp"])
    before, known = split(body), more_in(body)
    _refuse(changes, known, force=force)
    given = _given(before, known) | changes
    token = attach(Context())  # the event's own trace, if any, and not that of who corrects it
    try:
        fragments = split(rules.compose({name: value for name, value in given.items() if value is not None}).body)
    finally:
        detach(token)
    wrong = known.get(REASONS, {})
    for name in FIELDS:
        if name not in changes and name not in wrong and len(before) > INDEX[name]:
            fragments[INDEX[name]] = before[INDEX[name]]
    entry = {
        "by": correction.by,
        "at": correction.at,
        "reason": correction.reason,
        "from": {name: _shown(before, name) for name in changes},
        "to": {name: _shown(fragments, name) for name in changes},
    }
    entries = [*_corrections(known), entry]
    return assemble_with(fragments[: len(FIELDS)], json.dumps({CORRECTED: entries}, default=str).encode())


def _refuse(changes: Mapping[str, Any], known: Mapping[str, Any], *, force: bool) -> None:
    elsewhere = ROUTE_FIELDS & dict(known.get(UNKNOWN) or {}).keys()
    if elsewhere:  # it must not land at another destination than its own
        said = "was given for another destination than this one: emit the event anew"
        raise AuditEventError(dict.fromkeys(sorted(elsewhere), said), call="correction")
    problems = {name: "is not a field of an audit event" for name in changes if name not in INDEX}
    problems |= {name: "stays as it is" for name in changes if name in _FIXED}
    if not force:
        problems |= {name: "is changed only with force" for name in changes if name in NEEDS_FORCE}
    if problems or not changes:
        raise AuditEventError(problems or {"changes": "are missing"}, call="correction")


def _given(fragments: list[bytes], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a call would have given for these bytes."""
    given: dict[str, Any] = {}
    for name, fragment in zip(FIELDS, fragments, strict=False):
        value = loads_exact(fragment)
        if name in SURROUNDINGS and isinstance(value, str) and not fragment.endswith(GIVEN):
            value = Found(value)
        if name == "timestamp":
            value = _moment(value)
        given[name] = value
    return given | dict.fromkeys(known.get(NOBODY_IN, ()), NOBODY)


def _moment(value: Any) -> Any:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value


def _shown(fragments: list[bytes], name: str) -> Any:
    return loads_exact(fragments[INDEX[name]]) if len(fragments) > INDEX[name] else None


def _corrections(known: Mapping[str, Any]) -> list[Any]:
    earlier = known.get(CORRECTED, [])
    return list(earlier) if isinstance(earlier, list) else [earlier]
