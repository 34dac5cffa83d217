"""What is asked of the trail: checked, and written as the table writes it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.fields import OUTCOMES
from otel_audit_exporter.event.json.strings import visible

ID_FIELDS: Final = ("entity_id", "user_id", "yacht_id")
ASKED_FIELDS: Final = ("yacht_id", "entity_type", "entity_id", "user_id", "action", "outcome", "request_id", "trace_id")
_HEXADECIMAL: Final = re.compile(r"[0-9a-f]{1,32}")
_UUID_DIGITS: Final = 32
_AGE: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class QueryError(AuditConfigurationError):
    """Say what is wrong with what was asked for."""


@dataclass(frozen=True, kw_only=True)
class EventQuery:
    """Which events are asked for; None asks for all. Times are aware; ``since`` is included, ``until`` is not.

    ``tenants`` is the scope of the caller: events of other tenants, and those without one, are not returned.
    ``without_actions`` leaves out events of these kinds.
    """

    entity_type: str | None = None
    entity_id: str | None = None
    user_id: str | None = None
    yacht_id: str | None = None
    action: str | None = None
    outcome: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    tenants: frozenset[str] | None = None
    without_actions: frozenset[str] = frozenset()

    def fields(self) -> dict[str, str]:
        """Return what a field has to be equal to."""
        asked = {name: getattr(self, name) for name in ASKED_FIELDS}
        return {name: value for name, value in asked.items() if value is not None}

    def normalised(self, ids: str) -> EventQuery:
        """Return the same question as the table writes it; ``ids`` is that setting.

        Raises :class:`QueryError` for what no event can be found by.
        """
        changes: dict[str, Any] = {name: visible(str(value)) for name, value in self.fields().items()}
        for name in ID_FIELDS:
            if ids == "uuid" and name in changes:
                changes[name] = _as_uuid(name, changes[name])
        if "trace_id" in changes:
            changes["trace_id"] = changes["trace_id"].lower()
        if changes.get("outcome", "success") not in OUTCOMES:
            raise QueryError(f"outcome: {changes['outcome']!r} is none; it must be one of {', '.join(OUTCOMES)}")
        if self.tenants is not None:
            changes["tenants"] = frozenset(_tenant(one, ids) for one in self.tenants)
        if self.text is not None:
            changes["text"] = visible(self.text).strip() or None
        for name in ("since", "until"):
            _check_moment(name, getattr(self, name))
        return replace(self, **changes)


def uuid_range(text: str) -> tuple[str, str] | None:
    """Return the first and the last UUID that begin with ``text``; None where none does."""
    digits = text.lower().replace("-", "")
    if not _HEXADECIMAL.fullmatch(digits):
        return None
    first, last = (str(uuid.UUID(digits.ljust(_UUID_DIGITS, fill))) for fill in "0f")
    return (first, last) if "-" not in text or first.startswith(text.lower()) else None


def arguments_query(given: Mapping[str, Any]) -> EventQuery:
    """Return the question of the arguments of ``read_events``. Raises :class:`QueryError`."""
    entity = given.get("entity")
    if entity is not None and (isinstance(entity, str) or len(tuple(entity)) != 2):
        raise QueryError("entity: must be a type and an id, such as ('part', '0192d3a4-...')")
    entity_type, entity_id = (None, None) if entity is None else (_text(one) for one in entity)
    return EventQuery(
        entity_type=entity_type,
        entity_id=entity_id,
        user_id=_text(given.get("user")),
        yacht_id=_text(given.get("tenant")),
        since=given.get("since"),
        until=given.get("until"),
        action=_text(given.get("action")),
        outcome=_text(given.get("outcome")),
        request_id=_text(given.get("request_id")),
        trace_id=_text(given.get("trace_id")),
        text=_text(given.get("text")),
    )


def parse_moment(name: str, text: str) -> datetime:
    """Return the time that a person means: ISO 8601 in UTC, or an age such as ``7d``. Raises :class:`QueryError`."""
    ago = _AGE.fullmatch(text.strip())
    try:
        if ago:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text.strip())
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise QueryError(f"{name}: give ISO 8601 (2026-03-04, 2026-03-04T05:06Z) or an age (30m, 2h, 7d)") from None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _as_uuid(name: str, text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise QueryError(
            f"{name}: {text[:60]!r} is no UUID, and ids are UUIDs here (OTEL_AUDIT_IDS=text where they are not)"
        ) from None


def _tenant(tenant: str, ids: str) -> str:
    return _as_uuid("tenants", str(tenant)) if ids == "uuid" else visible(str(tenant))


def _check_moment(name: str, moment: object) -> None:
    if moment is not None and (not isinstance(moment, datetime) or moment.tzinfo is None):
        raise QueryError(f"{name}: must be a datetime with a time zone, such as datetime(2026, 3, 4, tzinfo=UTC)")
