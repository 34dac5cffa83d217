"""Whether a table fits the settings, and which settings would fit it: pure logic on a table's description."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from otel_audit_exporter.event.fields import ACTOR_TYPES, DEFAULT_COLUMNS, INDEX, JSON_FIELDS, OUTCOMES
from otel_audit_exporter.event.paths import parse_source
from otel_audit_exporter.table.ddl import columns_text


@dataclass(frozen=True)
class Column:
    """One column as the database has it; ``filled``: by a default, an identity or a generated value.

    ``filled`` None: not known. ``any_type``: the database does not mind what is put in (SQLite). ``labels``: the only
    values that it takes (an enumeration).
    """

    name: str
    type: str
    not_null: bool = False
    filled: bool | None = False
    generated: bool = False
    any_type: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableDescription:
    """A table as the database has it. ``keys``: what unique constraints are on; None where that is not known."""

    columns: Sequence[Column]
    keys: Sequence[tuple[str, ...]] | None

    def column(self, name: str) -> Column | None:
        """Return the column of this name."""
        return next((column for column in self.columns if column.name == name), None)


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
    """What was found: ``faults`` would make writing fail, ``notes`` may in some cases."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: CheckReport) -> None:
        """Take over what another has."""
        self.faults += other.faults
        self.notes += other.notes


# --- what fits what -----------------------------------------------------------------------------------------------

_UUID: Final = frozenset({"uuid"})
_TEXT: Final = frozenset({"text", "character varying", "character", "varchar", "bpchar", "citext", "name", "string"})
_INTEGERS: Final = frozenset({"smallint", "integer", "bigint", "numeric", "int", "int4", "int8"})
_TIMES: Final = frozenset({"timestamp with time zone", "timestamp without time zone", "timestamptz", "timestamp"})
_JSON: Final = frozenset({"jsonb", "json"})
_ID_FIELDS: Final = ("yacht_id", "entity_id", "user_id", "on_behalf_of")
# The shortest text column that takes every value of the field.
_LENGTHS: Final = {"record_id": 36, "timestamp": 32, "trace_id": 32, "span_id": 16, "outcome": 7, "actor_type": 7}
# What an enumeration may hold, and of these what it has to hold.
_LABELS: Final = frozenset({"entity_type", "action", "outcome", "actor_type", "event_name"})
_CHOICES: Final = {"outcome": frozenset(OUTCOMES), "actor_type": frozenset(ACTOR_TYPES)}
# What a made-up event says, or marks itself with.
MARK: Final = "otel_audit_check"
_MARKED: Final = frozenset({"entity_type", "action", *_ID_FIELDS})
_ALWAYS_SAID: Final = frozenset(
    {"record_id", "yacht_id", "entity_type", "action", "entity_id", "timestamp", "outcome", "actor_type"}
)


def _base(type_: str) -> str:
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
    base = _base(column.type)
    if base in _TEXT:
        shortest = 36 if name in _ID_FIELDS and ids == "uuid" else _LENGTHS.get(name, 0)
        room = _length(column.type)
        return f"is too short: {name} needs {shortest} characters" if room is not None and room < shortest else None
    if base in _allowed(name, ids):
        return None
    if base in _INTEGERS and name in _ID_FIELDS:
        return f"takes numbers, and {name} is a UUID: set OTEL_AUDIT_IDS=text to write ids as they are"
    return f"does not take {name}, which is {_kind(name, ids)}"


def _no_label(name: str) -> str | None:
    return None if name in _LABELS else f"takes no {name}: its values are an enumeration"


def _allowed(name: str, ids: str) -> frozenset[str]:
    if name == "record_id":
        return _UUID
    if name == "timestamp":
        return _TIMES
    if name in JSON_FIELDS:
        return _JSON
    if name in _ID_FIELDS:
        return _UUID | _INTEGERS if ids == "text" else _UUID
    if name == "source_ip":
        return frozenset({"inet"})
    return _UUID if name in ("trace_id", "request_id") else frozenset()


def _kind(name: str, ids: str) -> str:
    if name in JSON_FIELDS:
        return "a JSON document"
    if name == "timestamp":
        return "a time"
    return "a UUID" if name == "record_id" or (name in _ID_FIELDS and ids == "uuid") else "text"


# --- does it fit? -------------------------------------------------------------------------------------------------


def examine(facts: TableDescription, fit: ColumnMapping, *, finds_key: bool = False) -> CheckReport:
    """Compare a table with settings. ``finds_key``: the sink looks for a key by itself where none is set."""
    findings = CheckReport()
    for name, said in fit.columns.items():
        _examine_column(facts.column(name), name, said, fit, findings)
    for name in fit.defaults.keys() - fit.columns.keys():
        if facts.column(name) is None:
            findings.faults.append(f'column "{name}" is missing (column_defaults names it)')
    for column in facts.columns:
        if column.name not in fit.columns and column.name not in fit.defaults and column.not_null:
            _examine_unfilled(column, findings)
    _examine_key(facts, fit, findings, finds_key)
    unmapped = [name for name in DEFAULT_COLUMNS.values() if name not in fit.columns.values()]
    if unmapped:
        findings.notes.append(f"no column takes {', '.join(unmapped)}: what is said of it is not stored")
    return findings


def _examine_column(column: Column | None, name: str, said: str, fit: ColumnMapping, findings: CheckReport) -> None:
    if column is None:
        findings.faults.append(f'column "{name}" is missing ({said} goes there)')
        return
    if column.generated:
        findings.faults.append(f'column "{name}" is generated by the database: nothing can be written to it')
        return
    wrong = wrong_type(column, said, fit.ids)
    if wrong:
        findings.faults.append(f'column "{name}" of type {column.type} {wrong}')
    if column.not_null and said not in _ALWAYS_SAID and name not in fit.defaults:
        if said == "user_id":
            findings.notes.append(f'column "{name}" is NOT NULL: events of services need a user_id, too')
        else:
            findings.faults.append(
                f'column "{name}" is NOT NULL, and an event need not have {said}: set column_defaults for it'
            )
    if column.labels and said not in _CHOICES:
        findings.notes.append(f'column "{name}" parks an event whose {said} is none of: {", ".join(column.labels)}')
    elif said in _MARKED and _is_short(column, said):
        findings.notes.append(f'column "{name}" of type {column.type} parks an event whose {said} is longer')
    elif _picky(column, said) or (fit.ids == "text" and said in _ID_FIELDS and not _takes_any_text(column)):
        findings.notes.append(f'column "{name}" of type {column.type} parks an event whose {said} is of another kind')


def _takes_any_text(column: Column) -> bool:
    return column.any_type or _base(column.type) in _TEXT


def _picky(column: Column, said: str) -> bool:
    """Tell whether a column refuses some of what a field may be: a client's address need not be one of the network."""
    return said in ("source_ip", "request_id") and not _takes_any_text(column)


def _examine_unfilled(column: Column, findings: CheckReport) -> None:
    if column.filled is False:
        findings.faults.append(
            f'column "{column.name}" is NOT NULL, and nothing fills it: map a field to it, set column_defaults for it, '
            "or give it a DEFAULT"
        )


def _examine_key(facts: TableDescription, fit: ColumnMapping, findings: CheckReport, finds_key: bool) -> None:
    if facts.keys is None or facts.column(fit.id_column) is None:
        return
    wanted = fit.key_columns
    if wanted is None and not finds_key:
        wanted = (fit.id_column,)
    usable = _usable_keys(facts, fit.columns, fit.id_column)
    if wanted is None:
        if not usable:
            findings.faults.append(f'no primary key or unique constraint is on "{fit.id_column}"')
        return
    if any(set(key) == set(wanted) for key in facts.keys):
        return
    shown = ", ".join(wanted)
    remedy = f"set OTEL_AUDIT_KEY_COLUMNS={','.join(usable[0])}" if usable else "make it the primary key, or unique"
    findings.faults.append(f"no primary key or unique constraint is on exactly ({shown}): {remedy}")


def _usable_keys(facts: TableDescription, columns: Mapping[str, str], id_column: str) -> list[tuple[str, ...]]:
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
    if said in _ID_FIELDS and _base(column.type) in _INTEGERS:
        return 1
    return MARK[: _length(column.type)] if _is_short(column, said) else None


def _is_short(column: Column, said: str) -> bool:
    room = _length(column.type)
    return _base(column.type) in _TEXT and room is not None and room < (36 if said in _ID_FIELDS else len(MARK))


# --- what would fit? ----------------------------------------------------------------------------------------------

_USUAL_NAMES: Final[Mapping[str, str]] = {
    "record_id": "id record_id audit_id audit_record_id event_id log_id uuid event_uuid audit_uuid uid guid",
    "yacht_id": "yacht_id tenant_id org_id organization_id organisation_id account_id workspace_id company_id team_id"
    " customer_id vessel_id boat_id ship_id site_id client_id tenant org organization yacht vessel",
    "entity_type": "entity_type resource_type table_name target_type object_type record_type subject_type"
    " auditable_type item_type model_name entity resource target object model relation table entity_name tablename",
    "action": "action event operation event_type action_type action_name verb activity op change_type operation_type"
    " audit_action kind",
    "entity_id": "entity_id resource_id target_id object_id record_id subject_id row_id auditable_id item_id"
    " entity_uuid resource_uuid record_pk row_pk pk",
    "user_id": "user_id actor_id performed_by created_by changed_by done_by author_id actor user user_uuid updated_by"
    " modified_by by_user employee_id member_id crew_id who username",
    "timestamp": "created_at timestamp occurred_at inserted_at performed_at logged_at event_time event_at recorded_at"
    " changed_at action_at created created_on event_timestamp action_tstamp time ts at date_time when",
    "old_values": "old_values old_data before old_value before_data previous_values old old_record previous old_row"
    " before_state prev before_values data_before old_state from",
    "new_values": "new_values new_data after new_value after_data new new_record new_row after_state after_values"
    " data_after new_state to changes diff payload details data changed_fields",
    "outcome": "outcome status result",
    "actor_type": "actor_type user_type actor_kind",
    "on_behalf_of": "on_behalf_of impersonated_by behalf_of",
    "metadata": "metadata meta context extra additional_data properties attributes info",
    "signature": "signature",
    "source_ip": "source_ip ip_address ip client_ip remote_addr ip_addr",
    "request_id": "request_id correlation_id",
    "user_agent": "user_agent useragent agent",
    "trace_id": "trace_id",
    "span_id": "span_id",
    "event_name": "event_name",
}
_BY_TYPE: Final[Mapping[str, Any]] = {
    **{name: {} for name in _JSON},
    **dict.fromkeys(_TEXT, ""),
    **dict.fromkeys(_INTEGERS, 0),
    **dict.fromkeys(("boolean", "bool"), False),
    **dict.fromkeys(("real", "double precision"), 0),
}


def suggest(facts: TableDescription, present: ColumnMapping, *, finds_key: bool = False) -> ColumnMapping | None:
    """Return settings that fit the table, by the usual names of columns; None where no column can be the key.

    What of the present settings fits, stays.
    """
    guess = MappingSuggester(facts, present)
    if not guess.columns:
        return None
    ids = "text" if guess.has_text_ids() else present.ids
    key = next(iter(_usable_keys(facts, guess.columns, guess.id_column)), (guess.id_column,))
    single = len(key) == 1 or (finds_key and present.key_columns is None)
    return ColumnMapping(guess.ordered(), guess.defaults(present.defaults), ids, None if single else key)


class MappingSuggester:
    """Columns given to fields one by one, the surest first."""

    def __init__(self, facts: TableDescription, present: ColumnMapping) -> None:
        self._facts = facts
        self._present = present
        self.columns: dict[str, str] = {}
        self.id_column = self._find_id(present)
        if not self.id_column:
            return
        self.columns[self.id_column] = "record_id"
        for name, said in present.columns.items():
            column = facts.column(name)
            if column is not None and said != "record_id" and name not in self.columns and self._fits(column, said):
                self.columns[name] = said
        for said in _USUAL_NAMES:
            if said not in self.columns.values():
                self._give(said)
        for column in facts.columns:
            if column.not_null and column.filled is False and column.name not in self.columns:
                self._give_again(column)

    def has_text_ids(self) -> bool:
        """Tell whether a column takes ids that need not be UUIDs."""
        types = [
            column.type
            for name, said in self.columns.items()
            if said in _ID_FIELDS and (column := self._facts.column(name)) and not column.any_type
        ]
        return any(_base(type_) in _INTEGERS | _TEXT for type_ in types)

    def ordered(self) -> dict[str, str]:
        """Return the columns in the order of the fields."""
        return dict(sorted(self.columns.items(), key=lambda pair: INDEX[parse_source(pair[1]).field]))

    def defaults(self, present: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values for NOT NULL columns that an event may leave empty."""
        found = {name: value for name, value in present.items() if self._facts.column(name) is not None}
        for column in self._facts.columns:
            said = self.columns.get(column.name)
            if said is None and column.name in self._present.columns:
                continue  # its type is wrong: a made-up value would hide that
            empty = column.filled is False if said is None else said not in _ALWAYS_SAID | {"user_id"}
            value = {} if said in JSON_FIELDS else _BY_TYPE.get(_base(column.type), "" if column.any_type else None)
            if column.not_null and empty and column.name not in found and value is not None:
                found[column.name] = value
        return found

    def _fits(self, column: Column, said: str) -> bool:
        return not column.generated and wrong_type(column, said, "text") is None

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
        # Of a key of more columns only a name tells which one is the event's.
        best = best or self._by_usual_name("record_id", self._that_take_ids({name for key in keys for name in key}))
        return best.name if best else ""

    def _that_take_ids(self, names: Collection[str]) -> list[Column]:
        return [column for column in self._facts.columns if column.name in names and self._fits(column, "record_id")]

    def _is_time_key(self, key: tuple[str, ...]) -> bool:
        """Tell whether a key is an id and the time that a table is partitioned by."""
        others = [column for name in key if (column := self._facts.column(name)) and _base(column.type) not in _UUID]
        return len(key) == 2 and len(others) == 1 and _base(others[0].type) in _TIMES

    def _give(self, said: str) -> None:
        free = [
            column
            for column in self._facts.columns
            if column.name not in self.columns and self._fits(column, said) and not _picky(column, said)
        ]
        best = self._by_usual_name(said, [column for column in free if column.not_null and column.filled is False])
        best = best or self._by_usual_name(said, free)
        if best is not None:
            self.columns[best.name] = said

    def _give_again(self, column: Column) -> None:
        """Give a column that must be filled a field that another one takes already."""
        for said in _USUAL_NAMES:
            if said != "record_id" and self._fits(column, said) and self._by_usual_name(said, [column]):
                self.columns[column.name] = said
                return
        if _base(column.type) in _TIMES:
            self.columns[column.name] = "timestamp"

    @staticmethod
    def _by_usual_name(said: str, columns: Iterable[Column]) -> Column | None:
        usual = _USUAL_NAMES[said].split()
        ranked = [(usual.index(_plain(column.name)), column) for column in columns if _plain(column.name) in usual]
        return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


def _plain(name: str) -> str:
    """Return a name as the list of usual names has it: `userId` is `user_id`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_").replace(" ", "_")
