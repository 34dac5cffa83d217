"""The filter of a page, an export or a frame: what the parameters of its address say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from otel_audit_exporter.table.readers.query import EventQuery, QueryError, arguments_query, parse_moment

ACCESS_TRAIL: Final = "access"
"""The trail that exports and looks are recorded in, where there is one of this name."""
ACCESS_ACTIONS: Final = frozenset({"audit.exported", "audit.viewed"})
ASKED: Final = (
    "entity_type", "entity_id", "user", "tenant", "action", "outcome", "request_id", "trace_id", "since", "until",
    "text",
)  # fmt: skip
_ELSE: Final = ("trail", "database", "order", "access")
MAX_LENGTH: Final = 500


@dataclass(frozen=True)
class TrailFilter:
    """What was asked for, by parameter. Raises :class:`QueryError` for a parameter that cannot be meant."""

    given: Mapping[str, str]

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> TrailFilter:
        """Return the filter in an address; its other parameters are ignored."""
        given = {name: parameters[name].strip() for name in (*ASKED, *_ELSE) if parameters.get(name, "").strip()}
        too_long = [name for name, value in given.items() if len(value) > MAX_LENGTH]
        if too_long:
            raise QueryError(f"{', '.join(too_long)}: longer than {MAX_LENGTH} characters")
        if given.get("order", "newest") not in ("newest", "oldest"):
            raise QueryError("order: must be newest or oldest")
        return cls(given)

    @property
    def newest_first(self) -> bool:
        """Whether the newest events come first."""
        return self.given.get("order") != "oldest"

    @property
    def asked(self) -> dict[str, str]:
        """What events are asked for by, without the order."""
        return {name: value for name, value in self.given.items() if name in ASKED}

    @property
    def shows_access(self) -> bool:
        """Whether exports and looks are shown among the other events."""
        return "access" in self.given or self.given.get("trail") == ACCESS_TRAIL

    def query(self) -> EventQuery:
        """Return the question; who may see what is not in it yet."""
        given: dict[str, object] = dict(self.given)
        for name in ("since", "until"):
            if name in given:
                given[name] = parse_moment(name, self.given[name])
        query = arguments_query(given | {"entity": None})
        hidden = frozenset() if self.shows_access or query.action in ACCESS_ACTIONS else ACCESS_ACTIONS
        return EventQuery(
            **{
                **{name: getattr(query, name) for name in query.__dataclass_fields__},
                "entity_type": self.given.get("entity_type"),
                "entity_id": self.given.get("entity_id"),
                "without_actions": hidden,
            }
        )

    def address(self, **changes: str | None) -> str:
        """Return the parameters of the same filter with some of them changed; None takes one away."""
        changed = {**self.given, **changes}
        return "?" + urlencode({name: value for name, value in changed.items() if value is not None})

    def only(self, **parameters: str | None) -> str:
        """Return the parameters of another filter in the same trail."""
        kept = {name: value for name, value in self.given.items() if name in ("trail", "database", "access")}
        return TrailFilter(kept).address(**parameters)
