"""Which settings would fit a table, by the names and types of its columns. Nothing is made up.

A column that an event cannot fill becomes a TODO and never gets an invented value: a false, an empty text or a zero in
an audit table reads like evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from otel_audit_exporter.event.fields import INDEX
from otel_audit_exporter.event.paths import parse_source
from otel_audit_exporter.table.compatibility import (
    ALWAYS_GIVEN,
    ID_FIELDS,
    INTEGER_TYPES,
    TEXT_TYPES,
    TIME_TYPES,
    UUID_TYPES,
    Column,
    ColumnMapping,
    TableDescription,
    base_type,
    by_path,
    is_picky,
    unfilled,
    usable_keys,
    wrong_type,
)
from otel_audit_exporter.table.ddl import columns_text
from otel_audit_exporter.table.defaults import COMPUTED
from otel_audit_exporter.table.names import USUAL_NAMES, is_of_the_event, plain_name

_NEW_KEYS: Final = ("audit_id", "audit_record_id", "audit_event_id")


@dataclass(frozen=True)
class Suggestion:
    """Settings that fit as far as is known. ``todo``: what is left to decide, by column.

    ``new_key``: the column for the record's id, where the table has none yet that takes it.
    """

    fit: ColumnMapping
    todo: dict[str, str]
    new_key: str | None = None


def suggest(facts: TableDescription, present: ColumnMapping, *, finds_key: bool = False) -> Suggestion:
    """Return settings for the table, by the usual names of columns. What of the present settings fits, stays."""
    guess = MappingSuggester(facts, present)
    ids = "text" if guess.has_text_ids() else present.ids
    key = next(iter(usable_keys(facts, guess.columns, guess.id_column)), (guess.id_column,))
    single = len(key) == 1 or (finds_key and present.key_columns is None)
    defaults = guess.defaults()
    fit = ColumnMapping(guess.ordered(), defaults, ids, None if single else key)
    return Suggestion(fit, guess.todo(fit), guess.id_column if guess.lacks_key else None)


class MappingSuggester:
    """Columns given to fields one by one, the surest first."""

    def __init__(self, facts: TableDescription, present: ColumnMapping) -> None:
        self._facts = facts
        self._present = present
        self.id_column = self._find_id(present)
        self.lacks_key = not self.id_column
        if self.lacks_key:
            self.id_column = next(name for name in (*_NEW_KEYS, present.id_column) if facts.column(name) is None)
        self.columns: dict[str, str] = {self.id_column: "record_id"}
        for name, field in present.columns.items():
            column = facts.column(name)
            if column is not None and field != "record_id" and name not in self.columns and self._fits(column, field):
                self.columns[name] = field
        for field in USUAL_NAMES:
            if field not in self.columns.values():
                self._give(field)
        for column in facts.columns:
            if self._must_be_filled(column) and base_type(column.type) in TIME_TYPES and is_of_the_event(column.name):
                self.columns[column.name] = "timestamp"

    def has_text_ids(self) -> bool:
        """Return whether a column takes ids that need not be UUIDs."""
        types = [
            column.type
            for name, field in self.columns.items()
            if field in ID_FIELDS and (column := self._facts.column(name)) and not column.any_type
        ]
        return any(base_type(type_) in INTEGER_TYPES | TEXT_TYPES for type_ in types)

    def ordered(self) -> dict[str, str]:
        """Return the columns in the order of the fields."""
        return dict(sorted(self.columns.items(), key=lambda pair: INDEX[parse_source(pair[1]).field]))

    def defaults(self) -> dict[str, Any]:
        """Return the present defaults, and the database's own constants, which a NULL of ours would override."""
        found = {name: value for name, value in self._present.defaults.items() if self._facts.column(name) is not None}
        for name, field in self.columns.items():
            column = self._facts.column(name)
            if column is not None and field not in ALWAYS_GIVEN and column.default not in (COMPUTED, None):
                found.setdefault(name, column.default)
        return found

    def todo(self, fit: ColumnMapping) -> dict[str, str]:
        """Return the columns that no field of an event can fill, with what to do."""
        found = {}
        for column in self._facts.columns:
            field = fit.columns.get(column.name)
            if column.name in fit.defaults:
                continue
            if field is None and (reason := unfilled(column, fit)):
                found[column.name] = f"{reason}: map a field or a path to it ({columns_text(by_path(column.name))})"
            elif field is not None and column.not_null and field not in ALWAYS_GIVEN | {"user_id"}:
                found[column.name] = f"is NOT NULL, and an event need not have {field}"
        return {
            name: f"{reason}, name a value in OTEL_AUDIT_COLUMN_DEFAULTS, or give it a DEFAULT"
            for name, reason in found.items()
        }

    def _fits(self, column: Column, field: str) -> bool:
        source = parse_source(field)
        return not column.generated and (bool(source.keys) or wrong_type(column, source.field, "text") is None)

    def _must_be_filled(self, column: Column) -> bool:
        return column.not_null and column.filled is False and column.name not in self.columns

    def _find_id(self, present: ColumnMapping) -> str:
        keys = self._facts.keys
        if keys is None:
            keys = [(column.name,) for column in self._facts.columns]
        unique = {name for key in keys for name in key if len(key) == 1 or self._is_time_key(key)}
        usable = self._that_take_ids(unique)
        if present.id_column in (column.name for column in usable):
            return present.id_column
        best = self._by_usual_name("record_id", usable)
        if best is None and self._facts.keys is not None and len(usable) == 1:
            best = usable[0]
        # In a key of several columns, only a name shows which one is the event's.
        best = best or self._by_usual_name("record_id", self._that_take_ids({name for key in keys for name in key}))
        return best.name if best else ""

    def _that_take_ids(self, names: Collection[str]) -> list[Column]:
        return [column for column in self._facts.columns if column.name in names and self._fits(column, "record_id")]

    def _is_time_key(self, key: tuple[str, ...]) -> bool:
        """Return whether a key is an id and the time that a table is partitioned by."""
        others = [
            column for name in key if (column := self._facts.column(name)) and base_type(column.type) not in UUID_TYPES
        ]
        return len(key) == 2 and len(others) == 1 and base_type(others[0].type) in TIME_TYPES

    def _give(self, field: str) -> None:
        free = [
            column
            for column in self._facts.columns
            if column.name not in self.columns and self._fits(column, field) and not self._fills_itself(column, field)
        ]
        best = self._by_usual_name(field, [column for column in free if column.not_null and column.filled is False])
        best = best or self._by_usual_name(field, free)
        if best is not None:
            self.columns[best.name] = field

    @staticmethod
    def _fills_itself(column: Column, field: str) -> bool:
        """Return whether a column is better left to the database: a NULL of ours would stand for what it computes."""
        if is_picky(column, field):
            return True
        return bool(column.filled) and column.default is COMPUTED and field not in ALWAYS_GIVEN | {"user_id"}

    @staticmethod
    def _by_usual_name(field: str, columns: Iterable[Column]) -> Column | None:
        usual = USUAL_NAMES[field]
        ranked = [
            (usual.index(plain_name(column.name)), column) for column in columns if plain_name(column.name) in usual
        ]
        return min(ranked, key=lambda pair: pair[0])[1] if ranked else None
