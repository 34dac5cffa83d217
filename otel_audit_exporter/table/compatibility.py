"""Whether a table fits the settings, and which settings would fit it: pure logic on a table's description."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from otel_audit_exporter.event.fields import ACTOR_TYPES, DEFAULT_COLUMNS, JSON_FIELDS, OUTCOMES
from otel_audit_exporter.event.paths import Source, parse_source
from otel_audit_exporter.table.ddl import columns_text
from otel_audit_exporter.table.defaults import COMPUTED
from otel_audit_exporter.table.folding import fold_target
from otel_audit_exporter.table.names import field_named, is_verdict


@dataclass(frozen=True)
class Column:
    """One column as the database has it; ``filled``: by a default, an identity or a generated value.

    ``filled`` None: not known. ``any_type``: the database does not mind what is put in (SQLite). ``labels``: the only
    values that it takes (an enumeration, or ``checked``, a CHECK). ``default``: the constant that fills it,
    ``COMPUTED`` where it is none. ``references``: the column of another table that must have the value.
    """

    name: str
    type: str
    not_null: bool = False
    filled: bool | None = False
    generated: bool = False
    any_type: bool = False
    labels: tuple[str, ...] = ()
    checked: bool = False
    default: Any = COMPUTED
    references: str | None = None


@dataclass(frozen=True)
class TableDescription:
    """A table as the database has it. ``keys``: what unique constraints are on; None where that is not known."""

    columns: Sequence[Column]
    keys: Sequence[tuple[str, ...]] | None

    def column(self, name: str) -> Column | None:
        """Return the column of this name."""
        return next((column for column in self.columns if column.name == name), None)

    def without_fillers(self, names: Collection[str]) -> TableDescription:
        """Return the same table, now that these columns are known not to be filled by the database."""
        columns = [replace(one, filled=False, not_null=True) if one.name in names else one for one in self.columns]
        return replace(self, columns=columns)


@dataclass(frozen=True)
class ColumnMapping:
    """Settings that say which column takes what."""

    columns: Mapping[str, str]
    defaults: Mapping[str, Any]
    ids: str
    key_columns: tuple[str, ...] | None = None  # None: the id's column, or as the sink finds it

    @property
    def id_column(self) -> str:
        """The column that takes the record's id."""
        return next((column for column, name in self.columns.items() if name == "record_id"), "")

    def variables(self) -> dict[str, str]:
        """Return the variables that say so, without those that say the default."""
        said = {}
        if dict(self.columns) != dict(DEFAULT_COLUMNS):
            said["OTEL_AUDIT_COLUMNS"] = columns_text(self.columns)
        if self.defaults:
            said["OTEL_AUDIT_COLUMN_DEFAULTS"] = orjson.dumps(self.defaults).decode()
        if self.ids != "uuid":
            said["OTEL_AUDIT_IDS"] = self.ids
        if self.key_columns and self.key_columns != (self.id_column,):
            said["OTEL_AUDIT_KEY_COLUMNS"] = ",".join(self.key_columns)
        return said


@dataclass
class CheckReport:
    """What was found: ``faults`` would make writing fail, ``notes`` may in some cases.

    ``unfilled``: the columns that a trial insert was refused for, as they take no NULL and nothing fills them.
    """

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unfilled: list[str] = field(default_factory=list)

    def add(self, other: CheckReport) -> None:
        """Take over what another has."""
        self.faults += other.faults
        self.notes += other.notes
        self.unfilled += other.unfilled

    def said_of(self, settings: str) -> CheckReport:
        """Return the same, each finding with the settings that it is about."""
        faults, notes = ([f"{settings}: {one}" for one in found] for found in (self.faults, self.notes))
        return CheckReport(faults, notes, self.unfilled)


# --- what fits what -----------------------------------------------------------------------------------------------

UUID_TYPES: Final = frozenset({"uuid"})
TEXT_TYPES: Final = frozenset(
    {"text", "character varying", "character", "varchar", "bpchar", "citext", "name", "string"}
)
INTEGER_TYPES: Final = frozenset({"smallint", "integer", "bigint", "numeric", "int", "int4", "int8"})
TIME_TYPES: Final = frozenset({"timestamp with time zone", "timestamp without time zone", "timestamptz", "timestamp"})
_JSON: Final = frozenset({"jsonb", "json"})
ID_FIELDS: Final = ("yacht_id", "entity_id", "user_id", "on_behalf_of")
# What a column of such a name is for: what an audit is worth without it, is little.
_SAYS: Final = {
    "user_id": "who did it",
    "action": "what was done",
    "entity_type": "to what kind of thing",
    "entity_id": "on which thing",
    "timestamp": "when",
}
# The shortest text column that takes every value of the field.
_LENGTHS: Final = {"record_id": 36, "timestamp": 32, "trace_id": 32, "span_id": 16, "outcome": 7, "actor_type": 7}
# What an enumeration may hold, and of these what it has to hold.
_LABELS: Final = frozenset({"entity_type", "action", "outcome", "actor_type", "event_name"})
_CHOICES: Final = {"outcome": frozenset(OUTCOMES), "actor_type": frozenset(ACTOR_TYPES)}
# The values and marks of a made-up event.
MARK: Final = "otel_audit_check"
_MARKED: Final = frozenset({"entity_type", "action", *ID_FIELDS})
ALWAYS_GIVEN: Final = frozenset(
    {"record_id", "yacht_id", "entity_type", "action", "entity_id", "timestamp", "outcome", "actor_type"}
)


def base_type(type_: str) -> str:
    return re.sub(r"\s*\([\d, ]+\)", "", type_.lower()).strip()


def _length(type_: str) -> int | None:
    found = re.search(r"\((\d+)\)", type_)
    return int(found[1]) if found else None


def wrong_type(column: Column, name: str, ids: str) -> str | None:
    """Say why a column cannot take a field's values; None where it can."""
    if column.any_type:
        return None
    if column.labels:
        unknown = sorted(_CHOICES.get(name, frozenset()).difference(column.labels))
        return f"does not take {', '.join(unknown)}" if unknown else _no_label(name)
    base = base_type(column.type)
    if base in TEXT_TYPES:
        shortest = 36 if name in ID_FIELDS and ids == "uuid" else _LENGTHS.get(name, 0)
        room = _length(column.type)
        return f"is too short: {name} needs {shortest} characters" if room is not None and room < shortest else None
    if base in _allowed(name, ids):
        return None
    if base in INTEGER_TYPES and name in ID_FIELDS:
        return f"takes numbers, and {name} is a UUID: set OTEL_AUDIT_IDS=text to write ids as they are"
    return f"does not take {name}, which is {_kind(name, ids)}"


def _no_label(name: str) -> str | None:
    return None if name in _LABELS else f"takes no {name}: its values are an enumeration"


def _allowed(name: str, ids: str) -> frozenset[str]:
    if name == "record_id":
        return UUID_TYPES
    if name == "timestamp":
        return TIME_TYPES
    if name in JSON_FIELDS:
        return _JSON
    if name in ID_FIELDS:
        return UUID_TYPES | INTEGER_TYPES if ids == "text" else UUID_TYPES
    if name == "source_ip":
        return frozenset({"inet"})
    return UUID_TYPES if name in ("trace_id", "request_id") else frozenset()


def _kind(name: str, ids: str) -> str:
    if name in JSON_FIELDS:
        return "a JSON document"
    if name == "timestamp":
        return "a time"
    return "a UUID" if name == "record_id" or (name in ID_FIELDS and ids == "uuid") else "text"


# --- does it fit? -------------------------------------------------------------------------------------------------


def examine(
    facts: TableDescription, fit: ColumnMapping, *, finds_key: bool = False, unmapped: str = "fold"
) -> CheckReport:
    """Compare a table with settings.

    ``finds_key``: the sink looks for a key by itself where none is set. ``unmapped``: that setting.
    """
    findings = CheckReport()
    for name, said in fit.columns.items():
        _examine_column(facts.column(name), name, said, fit, findings)
    for name in fit.defaults.keys() - fit.columns.keys():
        if facts.column(name) is None:
            findings.faults.append(f'column "{name}" is missing (column_defaults names it)')
    for column in facts.columns:
        if column.name in fit.columns or column.name in fit.defaults:
            continue
        if reason := unfilled(column, fit):
            findings.faults.append(
                f'column "{column.name}" {reason}: map a field to it, set column_defaults for it, or give it a DEFAULT'
            )
        _note_verdict(column, findings)
    _examine_key(facts, fit, findings, finds_key)
    _note_unmapped(fit, unmapped, findings)
    return findings


def _note_unmapped(fit: ColumnMapping, unmapped: str, findings: CheckReport) -> None:
    taken = {source.field: column for column, text in fit.columns.items() if not (source := parse_source(text)).keys}
    missing = [name for name in DEFAULT_COLUMNS.values() if name not in taken]
    if missing:
        into = fold_target(taken) if unmapped == "fold" else None
        fate = f'kept under _audit in column "{taken[into]}"' if into else "not stored"
        findings.notes.append(f"no column takes {', '.join(missing)}: what is said of it is {fate}")


def _note_verdict(column: Column, findings: CheckReport) -> None:
    """Note a column that says how it went, by a default that knows nothing of it."""
    if column.filled and base_type(column.type) in ("boolean", "bool") and is_verdict(column.name):
        findings.notes.append(
            f'column "{column.name}" is filled by the database, whatever the outcome of an event is: drop its DEFAULT, '
            f"or say it with each event ({columns_text(by_path(column.name))})"
        )


def by_path(column: str) -> dict[str, str]:
    """Return the mapping by which a column takes a member of its own name of ``metadata``."""
    return {column: str(Source("metadata", (column,)))}


def _examine_column(column: Column | None, name: str, said: str, fit: ColumnMapping, findings: CheckReport) -> None:
    if column is None:
        findings.faults.append(f'column "{name}" is missing ({said} goes there)')
        return
    if column.generated:
        findings.faults.append(f'column "{name}" is generated by the database: nothing can be written to it')
        return
    if parse_source(said).keys:  # what a document has there may be anything, or nothing
        if column.not_null and name not in fit.defaults:
            findings.faults.append(
                f'column "{name}" is NOT NULL, and an event need not have {said}: set column_defaults for it'
            )
        return
    wrong = wrong_type(column, said, fit.ids)
    if wrong:
        findings.faults.append(f'column "{name}" of type {column.type} {wrong}')
    if column.not_null and said not in ALWAYS_GIVEN and name not in fit.defaults:
        if said == "user_id":
            findings.notes.append(f'column "{name}" is NOT NULL: events of services need a user_id, too')
        else:
            findings.faults.append(
                f'column "{name}" is NOT NULL, and an event need not have {said}: set column_defaults for it'
            )
    _note_reference(column, said, findings)
    if column.default not in (COMPUTED, None) and said not in ALWAYS_GIVEN and name not in fit.defaults:
        findings.notes.append(f'column "{name}" has a DEFAULT, which does not apply where an event has no {said}')
    if column.checked:
        allowed = ", ".join(column.labels)
        findings.notes.append(
            f'column "{name}" has a check constraint, and parks an event whose {said} is none of: {allowed}'
        )
    elif column.labels and said not in _CHOICES:
        findings.notes.append(f'column "{name}" parks an event whose {said} is none of: {", ".join(column.labels)}')
    elif said in _MARKED and _is_short(column, said):
        findings.notes.append(f'column "{name}" of type {column.type} parks an event whose {said} is longer')
    elif is_picky(column, said) or (fit.ids == "text" and said in ID_FIELDS and not _takes_any_text(column)):
        findings.notes.append(f'column "{name}" of type {column.type} parks an event whose {said} is of another kind')


def _takes_any_text(column: Column) -> bool:
    return column.any_type or base_type(column.type) in TEXT_TYPES


def is_picky(column: Column, said: str) -> bool:
    """Return whether a column refuses some of what a field may be."""
    return said == "request_id" and not _takes_any_text(column)


def unfilled(column: Column, fit: ColumnMapping) -> str | None:
    """Say why a column that has no source must not stay without one; None where it may."""
    if column.filled is not False:
        return None
    if column.not_null:
        return "is NOT NULL, and nothing fills it"
    field = field_named(column.name)
    if field in _SAYS and field not in fit.columns.values():
        return f"says {_SAYS[field]}, and nothing fills it"
    return None


def _note_reference(column: Column, said: str, findings: CheckReport) -> None:
    if column.references:
        findings.notes.append(
            f'column "{column.name}" references {column.references}: an event whose {said} is not there (yet, or no '
            "more) waits for OTEL_AUDIT_FOREIGN_KEY_GRACE and is parked; an audit table is better without"
        )


def _examine_key(facts: TableDescription, fit: ColumnMapping, findings: CheckReport, finds_key: bool) -> None:
    if facts.keys is None or facts.column(fit.id_column) is None:
        return
    wanted = fit.key_columns
    if wanted is None and not finds_key:
        wanted = (fit.id_column,)
    usable = usable_keys(facts, fit.columns, fit.id_column)
    if wanted is None:
        if not usable:
            findings.faults.append(f'no primary key or unique constraint is on "{fit.id_column}"')
        return
    if any(set(key) == set(wanted) for key in facts.keys):
        return
    shown = ", ".join(wanted)
    remedy = f"set OTEL_AUDIT_KEY_COLUMNS={','.join(usable[0])}" if usable else "make it the primary key, or unique"
    findings.faults.append(f"no primary key or unique constraint is on exactly ({shown}): {remedy}")


def usable_keys(facts: TableDescription, columns: Mapping[str, str], id_column: str) -> list[tuple[str, ...]]:
    keys = facts.keys or ()
    return sorted((key for key in keys if id_column in key and set(key) <= set(columns)), key=len)


def values_that_fit(facts: TableDescription, fit: ColumnMapping) -> dict[str, int | str]:
    """Return what a made-up event has to say where a column takes numbers, little text, or some values only."""
    columns = ((facts.column(name), said) for name, said in fit.columns.items())
    found = {said: _value_that_fits(column, said) for column, said in columns if column is not None}
    return {said: value for said, value in found.items() if value is not None}


def _value_that_fits(column: Column, said: str) -> int | str | None:
    if column.any_type or said not in _MARKED:
        return None
    if column.labels:
        return column.labels[0]
    if said in ID_FIELDS and base_type(column.type) in INTEGER_TYPES:
        return 1
    return MARK[: _length(column.type)] if _is_short(column, said) else None


def _is_short(column: Column, said: str) -> bool:
    room = _length(column.type)
    return base_type(column.type) in TEXT_TYPES and room is not None and room < (36 if said in ID_FIELDS else len(MARK))
