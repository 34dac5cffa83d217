"""Where an event goes: the names of a trail and of a database, beside the event's fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from otel_audit_exporter.errors import AuditEventError

DEFAULT_TRAIL: Final = "default"
AUDIT_TRAIL: Final = "audit.trail"
AUDIT_DATABASE: Final = "audit.database"
ROUTE_FIELDS: Final = frozenset({"trail", "database"})
_LONGEST_NAME: Final = 300


class RouteName(NamedTuple):
    """The names of one destination. ``database`` is None for the one that the configuration describes."""

    trail: str = DEFAULT_TRAIL
    database: str | None = None

    @property
    def attributes(self) -> dict[str, str]:
        """The log record's attributes that say it."""
        named = {} if self.trail == DEFAULT_TRAIL else {AUDIT_TRAIL: self.trail}
        return named if self.database is None else {**named, AUDIT_DATABASE: self.database}

    def __str__(self) -> str:
        return self.trail if self.database is None else f"{self.trail}@{self.database}"


def split_route(given: Mapping[str, Any]) -> tuple[RouteName, dict[str, Any]]:
    """Return where an event goes, and its fields. Raises :class:`AuditEventError` for what is no name."""
    fields = dict(given)
    trail, database = fields.pop("trail", None), fields.pop("database", None)
    problems = route_problems(trail, database)
    if problems:
        raise AuditEventError(problems)
    return RouteName(trail or DEFAULT_TRAIL, database), fields


def route_problems(trail: object, database: object) -> dict[str, str]:
    """Return what is wrong with these names. None means that there is no name."""
    problems = {}
    for field, name in (("trail", trail), ("database", database)):
        if name is None:
            continue
        if not isinstance(name, str):
            problems[field] = f"must be a name (a string), not {type(name).__name__}"
        elif not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
            problems[field] = f"must be a name of 1 to {_LONGEST_NAME} printable characters"
    return problems
