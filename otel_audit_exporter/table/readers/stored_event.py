"""An event as the table has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Final

from otel_audit_exporter.event.fields import FIELDS

MOST_EXACT: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """One event that was read back: every field in its place, whichever column or fold it came from.

    ``timestamp`` is in UTC; it is None where the table holds no time of a calendar (``infinity``, say), and
    ``time_text`` is then what the table holds. ``old_values``, ``new_values``, ``metadata`` and ``signature`` are
    the values as they were given. ``other`` has the columns that no mapping knows, by their own names. ``mark`` is
    where the event stands in its table: ``read_events(after=event)`` goes on behind it.
    """

    record_id: str
    action: str
    yacht_id: str | None = None
    entity_type: str | None = None
    entity_id: str | None = None
    user_id: str | None = None
    timestamp: datetime | None = None
    time_text: str = ""
    old_values: Any = field(default=None, repr=False)
    new_values: Any = field(default=None, repr=False)
    outcome: str = "success"
    actor_type: str = "user"
    on_behalf_of: str | None = None
    metadata: Any = field(default=None, repr=False)
    signature: Any = field(default=None, repr=False)
    source_ip: str | None = None
    request_id: str | None = None
    user_agent: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    event_name: str | None = None
    other: Mapping[str, Any] = field(default_factory=dict, repr=False)
    mark: str = field(default="", repr=False, compare=False)

    @property
    def tenant_id(self) -> str | None:
        """The tenant: another name of ``yacht_id``."""
        return self.yacht_id

    @property
    def actor_id(self) -> str | None:
        """Who did it: another name of ``user_id``."""
        return self.user_id

    def document(self) -> dict[str, Any]:
        """Return every field by its name, and the other columns by theirs, fit for JSON; the time as ISO 8601."""
        known = {name: getattr(self, name) for name in FIELDS}
        known["timestamp"] = self.time_text
        return {**{name: value for name, value in self.other.items() if name not in known}, **known}


@dataclass(frozen=True, slots=True)
class EventCount:
    """How many events there are: exactly, or (``exact`` is False) more than ``value``.

    Its text is ``1,234`` or ``10,000+``.
    """

    value: int
    exact: bool

    def __str__(self) -> str:
        return f"{self.value:,}{'' if self.exact else '+'}"


_TEXT_FIELDS: Final = frozenset(one.name for one in fields(StoredEvent) if "Any" not in str(one.type)) & set(FIELDS)


def stored_event(values: Mapping[str, Any], other: Mapping[str, Any], mark: str) -> StoredEvent:
    """Return the event of these fields' values; a field that the table does not hold has its usual value."""
    said = {name: value for name, value in values.items() if value is not None and name != "timestamp"}
    for name in _TEXT_FIELDS & said.keys():
        said[name] = said[name] if isinstance(said[name], str) else str(said[name])
    moment = moment_of(values.get("timestamp"))
    time_text = str(values.get("timestamp")) if moment is None else iso(moment)
    said.setdefault("record_id", "")
    said.setdefault("action", "")
    return StoredEvent(**said, timestamp=moment, time_text=time_text, other=other, mark=mark)


def moment_of(value: Any) -> datetime | None:
    """Return a time in UTC, which is what a table means that does not say otherwise; None where it is none.

    (PostgreSQL's ``infinity``, years before 1 or after 9999, and other texts in a SQLite column are not times.)
    """
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def iso(moment: datetime) -> str:
    """Return a time as the library writes times: in UTC, with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
