"""Which column holds which field, for reading, and a row as an event's fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import CONTEXT_FIELDS, JSON_FIELDS, SURROUNDINGS
from otel_audit_exporter.event.paths import parse_source
from otel_audit_exporter.table.folding import AUDIT_KEY, fold_target
from otel_audit_exporter.table.mapping import TableMapping

_IN_METADATA: Final = frozenset({"on_behalf_of", *SURROUNDINGS} & {"on_behalf_of", *CONTEXT_FIELDS})
# What a table often got a column for later: older rows have it where it was folded.
_FOLDED_BEFORE: Final = frozenset({"outcome", "request_id", "trace_id"})


@dataclass(frozen=True)
class Column:
    """A column."""

    name: str


@dataclass(frozen=True)
class Member:
    """A member of the JSON document in a column."""

    column: str
    path: tuple[str, ...]


Place = Column | Member


class ColumnReader:
    """Where each field is, under one mapping of columns; what another mapping knows beside it is read by that."""

    def __init__(self, columns: Mapping[str, str], beside: Mapping[str, str] | None = None) -> None:
        TableMapping(columns, unmapped="drop")  # refuses what is wrong in itself
        self.known = {**(beside or {}), **columns}
        added = {column: source for column, source in (beside or {}).items() if column not in columns}
        read = {column: source for column, source in added.items() if parse_source(source).field != "record_id"}
        self._mapping = TableMapping({**columns, **read}, unmapped="drop")
        self.of: dict[str, str] = {}
        for column, text in {**columns, **read}.items():
            source = parse_source(text)
            if not source.keys:
                self.of.setdefault(source.field, column)
        if "timestamp" not in self.of:
            raise AuditConfigurationError("columns: no column takes timestamp, so events cannot be read in order")
        self._fold_into = self.of.get(fold_target(self.of) or "")

    def places(self, name: str) -> list[Place]:
        """Return where a field's value may be, the likeliest first."""
        places: list[Place] = [Column(self.of[name])] if name in self.of else []
        if not places and name in _IN_METADATA and "metadata" in self.of:
            places.append(Member(self.of["metadata"], (name,)))
        if self._fold_into is not None and (name not in self.of or name in _FOLDED_BEFORE):
            places.append(Member(self._fold_into, (AUDIT_KEY, name)))
        return places

    def values(self, row: Mapping[str, Any], *, all_text: bool) -> dict[str, Any]:
        """Return the fields' values of a row, JSON as structures, what was folded in where it belongs.

        ``all_text``: documents that are no object or array are JSON text, too.
        """
        if not all_text:
            return self._mapping.fields_of(row)
        documents = {self.of[name]: _document(row.get(self.of[name])) for name in JSON_FIELDS & self.of.keys()}
        return self._mapping.fields_of({**row, **documents})

    def other(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of a row that no mapping knows."""
        return {column: value for column, value in row.items() if column not in self.known}


def _document(value: Any) -> Any:
    """Return what a column with JSON text holds."""
    try:
        return loads_exact(value.encode()) if isinstance(value, str) else value
    except ValueError:
        return value
