"""From an event's bytes to a row's bytes, and back: which column takes which field.

A row is one JSON object with a key for every column, whichever sink takes it. In the usual case it is cut
out of the event's fragments without parsing them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple

import orjson

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import (
    CALLER_FIELDS,
    CONTEXT_FIELDS,
    DEFAULT_COLUMNS,
    FIELDS,
    INDEX,
    JSON_FIELDS,
    REQUIRED_BY_DEFAULT,
    SURROUNDINGS,
    USUAL,
    USUAL_JSON,
)
from otel_audit_exporter.event.invalid_event import CORRECTED, correction_of
from otel_audit_exporter.event.joined import Joined
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.paths import Source, parse_source
from otel_audit_exporter.event.serialization import as_row, as_rows, row_template, split
from otel_audit_exporter.event.surroundings import GIVEN, is_inet
from otel_audit_exporter.table.folding import (
    fold,
    fold_target,
    gather,
    may_pass_for_folded,
    mentions_audit,
    scatter,
    unfold,
)

Unmapped = Literal["fold", "drop", "error"]
Surroundings = Literal["drop", "ids", "all"]

_NULL: Final = b"null"
# What identifies an event. Its time and its origin do not: they differ where a handler runs twice.
_CONTENT: Final = frozenset(
    {
        *("yacht_id", "entity_type", "action", "entity_id", "user_id", "old_values", "new_values"),
        *("outcome", "actor_type", "on_behalf_of", "signature"),
    }
)
# What a column for the whole metadata takes, too, where it has no column of its own.
_IN_METADATA: Final = ("on_behalf_of", *(name for name in SURROUNDINGS if name in CONTEXT_FIELDS))
_GIVEN_BY_EVERY_CALL: Final = REQUIRED_BY_DEFAULT | {"timestamp"}
_TRACE: Final = ("trace_id", "span_id")
_TRACE_AT: Final = frozenset(INDEX[name] for name in _TRACE)
_FOLDED_SURROUNDINGS: Final[Mapping[Surroundings, frozenset[str]]] = {
    "drop": frozenset(),
    "ids": frozenset({"request_id", *_TRACE}),
    "all": frozenset(SURROUNDINGS),
}
_SOURCE_IP: Final = INDEX["source_ip"]
_EVENT_NAME: Final = INDEX["event_name"]
_METADATA: Final = INDEX["metadata"]
_IN_DEFAULT_ROW: Final = frozenset(DEFAULT_COLUMNS.values())
_plain: Final = Encoder()


class _Foldable(NamedTuple):
    """A field that is folded where an event has another value than the usual one."""

    name: str
    position: int
    usual: bytes
    found_too: bool  # else only where the caller gave it


class _Path(NamedTuple):
    """A column that takes one value of a field's document."""

    column: str
    source: Source
    position: int


class TableMapping:
    """Make rows of one table out of events, and read the fields of a row.

    ``columns`` maps column name to its source: a field, or a path into one. ``defaults`` maps column name to the value
    that is written where the event has none (or, for a column without a source, always). ``unmapped`` decides about
    fields that the caller gave and no column takes, ``surroundings`` about what was found around the call. Raises
    :class:`AuditConfigurationError` where these do not fit.
    """

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
        unmapped: Unmapped = "fold",
        surroundings: Surroundings = "drop",
    ) -> None:
        sources = _sources(columns or DEFAULT_COLUMNS)
        self.unmapped: Unmapped = unmapped
        self.surroundings: Surroundings = surroundings
        self._defaults = {column: Encoder().value(value) for column, value in (defaults or {}).items()}
        self._fields = {column: source.field for column, source in sources.items() if not source.keys}
        self._positions, self._paths = _positions(sources)
        self.columns = (*sources, *(column for column in self._defaults if column not in sources))
        self._taken = frozenset(self._fields.values())
        self._fold_into = fold_target(self._taken)
        self._fold_at = INDEX[self._fold_into or "new_values"]
        self._metadata_parts = tuple(
            name for name in _IN_METADATA if "metadata" in self._taken and name not in self._taken
        )
        self._watched: frozenset[int] = frozenset()
        self._report: Callable[[tuple[str, ...]], None] = lambda names: None
        self._check()
        self._prepare_folding()
        self._prepare_rows()

    @classmethod
    def from_settings(cls, settings: Settings) -> TableMapping:
        """Return the mapping that these settings ask for."""
        return cls(settings.columns, settings.column_defaults, settings.unmapped, settings.surroundings)

    # --- what it asks of events, and leaves out of rows ----------------------------------------------------------

    @property
    def key_column(self) -> str:
        """The column that takes the record's id."""
        return next(column for column, field in self._fields.items() if field == "record_id")

    @property
    def json_columns(self) -> frozenset[str]:
        """The columns that take a whole JSON document."""
        return frozenset(column for column, field in self._fields.items() if field in JSON_FIELDS)

    @property
    def compared_columns(self) -> tuple[str, ...]:
        """The columns in which a row should equal the one that has its id."""
        return tuple(column for column, field in self._fields.items() if field in _CONTENT)

    @property
    def required(self) -> frozenset[str]:
        """The fields that a caller must give: those that a column without a default takes."""
        taken = {field for column, field in self._fields.items() if column not in self._defaults}
        return REQUIRED_BY_DEFAULT & (taken | {"action"})

    @property
    def unmapped_fields(self) -> tuple[str, ...]:
        """The fields that a caller may give, and that no column takes and no other setting keeps."""
        kept = _FOLDED_SURROUNDINGS[self.surroundings]
        return tuple(name for name in CALLER_FIELDS if not self._takes(name) and name not in kept)

    @property
    def refused(self) -> frozenset[str]:
        """The fields that a caller may not give, because no column takes them and ``unmapped`` is "error"."""
        # What every call gives is not refused but left out.
        return frozenset(self.unmapped_fields) - _GIVEN_BY_EVERY_CALL if self.unmapped == "error" else frozenset()

    @property
    def dropped(self) -> tuple[str, ...]:
        """The fields that a caller may give and that are left out of every row."""
        if self.unmapped == "fold":
            return ()
        return tuple(name for name in self.unmapped_fields if name not in self.refused)

    @property
    def lost_surroundings(self) -> tuple[str, ...]:
        """The surroundings that are left out of every row, unless a caller gave them."""
        kept = _FOLDED_SURROUNDINGS[self.surroundings] if self._fold_into else frozenset()
        return tuple(name for name in SURROUNDINGS if not self._takes(name) and name not in kept)

    def on_lost_surroundings(self, report: Callable[[tuple[str, ...]], None]) -> None:
        """Have ``report`` called once, with :attr:`lost_surroundings`, when an event has one of them."""
        self._report = report
        self._watched = frozenset(INDEX[name] for name in self.lost_surroundings)

    # --- rows ----------------------------------------------------------------------------------------------------

    def rows(self, bodies: Sequence[bytes]) -> Sequence[bytes]:
        """Return the rows of events, each as the bytes of one JSON object."""
        if isinstance(bodies, Joined) and self._is_default_row and not mentions_audit(bodies.text):
            rows = as_rows(bodies, traces_too=_may_lose_traces(self))
            if rows is not None:
                return rows
        return list(map(self.row, bodies))

    def row(self, body: bytes) -> bytes:
        """Return the row of an event as the bytes of one JSON object."""
        if self._is_of_default_row and not mentions_audit(body):
            row = as_row(body, traces_too=_may_lose_traces(self))
            if row is not None:
                return row if self._is_default_row else bytes(self._template % self._pick(row.split(b"\n")[1::2]))
        fragments = split(body)
        correction = correction_of(fragments) if len(fragments) > len(FIELDS) else None
        if self._watched:
            self._look_for_lost(fragments)
        values = self._path_values(fragments) if self._paths else []
        folded = self._to_fold(fragments)
        if correction is not None and self._fold_into:
            folded[CORRECTED] = correction
        for at in self._unmarked:
            fragments[at] = fragments[at].rstrip(GIVEN)
        if self._metadata_parts:
            self._gather_metadata(fragments)
        if folded or (self._fold_into and may_pass_for_folded(fragments[self._fold_at])):
            fragments[self._fold_at] = fold(fragments[self._fold_at], folded)
        if self._names_event and fragments[_EVENT_NAME] == _NULL:
            fragments[_EVENT_NAME] = _event_name(fragments)
        fragments += values
        if self._defaults:
            return self._row_with_defaults(fragments)
        return bytes(self._template % self._pick(fragments))

    def _to_fold(self, fragments: list[bytes]) -> dict[str, bytes]:
        """Return the fields of an event that are folded into its row."""
        folded: dict[str, bytes] = {}
        if self._may_fold and (self._pick_foldable is None or self._pick_foldable(fragments) != self._usual):
            for name, position, usual, found_too in self._foldable:
                fragment = fragments[position]
                if fragment not in (usual, _NULL) and (found_too or fragment.endswith(GIVEN)):
                    folded[name] = fragment
        if self._has_address and fragments[_SOURCE_IP] != _NULL and not _is_inet(fragments[_SOURCE_IP]):
            address, fragments[_SOURCE_IP] = fragments[_SOURCE_IP], _NULL
            if self._may_fold and (self.surroundings == "all" or address.endswith(GIVEN)):
                folded["source_ip"] = address
        return folded

    def _gather_metadata(self, fragments: list[bytes]) -> None:
        parts = {name: fragments[INDEX[name]] for name in self._metadata_parts if fragments[INDEX[name]] != _NULL}
        if parts:
            fragments[_METADATA] = gather(fragments[_METADATA], parts, self._metadata_parts)

    def _path_values(self, fragments: list[bytes]) -> list[bytes]:
        documents: dict[str, Any] = {}
        values = []
        for path in self._paths:
            field = path.source.field
            if field not in documents:
                documents[field] = loads_exact(fragments[INDEX[field]])
            values.append(_plain.value(path.source.find(documents[field])))
        return values

    def _row_with_defaults(self, fragments: list[bytes]) -> bytes:
        values = []
        for column in self.columns:
            at = self._positions.get(column)
            fragment = _NULL if at is None else fragments[at]
            values.append(self._defaults.get(column, _NULL) if fragment == _NULL else fragment)
        return self._template % tuple(values)

    def _look_for_lost(self, fragments: list[bytes]) -> None:
        if any(fragments[at] != _NULL and not fragments[at].endswith(GIVEN) for at in self._watched):
            self._watched = frozenset()
            self._report(self.lost_surroundings)

    # --- and back ------------------------------------------------------------------------------------------------

    def fields_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the event that a row holds, by name, each of ``FIELDS``.

        ``row`` maps column name to value. What was folded or gathered is back in its field; None: the row does not hold
        it. Where unmapped fields are folded, an ``outcome`` or ``actor_type`` that no column takes has its usual value.
        A field of which only paths have columns holds what these columns hold.
        """
        fields: dict[str, Any] = dict.fromkeys(FIELDS)
        for column, name in self._fields.items():
            if fields[name] is None:
                fields[name] = _document(row.get(column)) if name in JSON_FIELDS else row.get(column)
        if self._fold_into is not None:
            fields[self._fold_into], folded = unfold(fields[self._fold_into], fields)
            fields.update(folded)
        if self._metadata_parts:
            fields["metadata"], parts = scatter(fields["metadata"], self._metadata_parts)
            fields.update({name: value for name, value in parts.items() if fields[name] is None})
        self._fill_from_paths(fields, row)
        if self.unmapped == "fold":
            for name, usual in USUAL.items():
                if usual is not None and name not in self._taken and fields[name] is None:
                    fields[name] = usual
        return fields

    def _fill_from_paths(self, fields: dict[str, Any], row: Mapping[str, Any]) -> None:
        unknown = {path.source.field for path in self._paths if fields[path.source.field] is None}
        for path in self._paths:
            value = row.get(path.column)
            if path.source.field in unknown and value is not None:
                inner = fields[path.source.field] = fields[path.source.field] or {}
                for key in path.source.keys[:-1]:
                    inner = inner.setdefault(key, {})
                if isinstance(inner, dict):
                    inner[path.source.keys[-1]] = value

    # --- made once -----------------------------------------------------------------------------------------------

    def _takes(self, name: str) -> bool:
        return name in self._taken or (name in _IN_METADATA and "metadata" in self._taken)

    def _check(self) -> None:
        unmapped = self.unmapped_fields
        if self.unmapped == "fold" and unmapped and self._fold_into is None:
            raise AuditConfigurationError(
                f"columns: no column takes {', '.join(unmapped)}, and none takes new_values, metadata or "
                "old_values, in which they could be kept: add one of these, or leave them out with unmapped='drop' "
                "(OTEL_AUDIT_UNMAPPED)"
            )
        kept = [name for name in SURROUNDINGS if name in _FOLDED_SURROUNDINGS[self.surroundings]]
        if self._fold_into is None and not all(map(self._takes, kept)):
            raise AuditConfigurationError(
                f"surroundings='{self.surroundings}' (OTEL_AUDIT_SURROUNDINGS): no column takes new_values, metadata "
                f"or old_values, in which {', '.join(kept)} could be kept"
            )

    def _prepare_folding(self) -> None:
        self._foldable = tuple(self._foldable_fields()) if self._fold_into else ()
        self._may_fold = bool(self._foldable) or (self._fold_into is not None and self.unmapped == "fold")
        self._folds_traces = any(one.position in _TRACE_AT for one in self._foldable)
        self._usual = tuple(one.usual for one in self._foldable)
        self._pick_foldable = itemgetter(*(one.position for one in self._foldable)) if len(self._foldable) > 1 else None

    def _foldable_fields(self) -> Iterable[_Foldable]:
        kept = _FOLDED_SURROUNDINGS[self.surroundings]
        for name in self.unmapped_fields if self.unmapped == "fold" else ():
            found_too = name not in SURROUNDINGS
            yield _Foldable(name, INDEX[name], USUAL_JSON.get(name, _NULL), found_too)
        for name in SURROUNDINGS:
            if name in kept and not self._takes(name):
                yield _Foldable(name, INDEX[name], _NULL, found_too=True)

    def _prepare_rows(self) -> None:
        self._names_event = "event_name" in self._taken
        self._has_address = "source_ip" in self._taken
        self._unmarked = tuple(INDEX[name] for name in SURROUNDINGS if name in CONTEXT_FIELDS and self._takes(name))
        self._template = row_template(self.columns)
        positions = list(self._positions.values())
        self._pick = itemgetter(*positions) if len(positions) > 1 else lambda fragments: (fragments[positions[0]],)
        keeps_row = self.unmapped == "drop" or self._taken >= _IN_DEFAULT_ROW
        self._is_of_default_row = (
            self._taken <= _IN_DEFAULT_ROW and keeps_row and not self._defaults and not self._paths
        )
        self._is_default_row = self._is_of_default_row and tuple(self._fields.items()) == tuple(DEFAULT_COLUMNS.items())


def _sources(columns: Mapping[str, str]) -> dict[str, Source]:
    try:
        sources = {column: parse_source(source) for column, source in columns.items()}
    except ValueError as error:
        raise AuditConfigurationError(f"columns: {error}") from None
    keys = [column for column, source in sources.items() if source.field == "record_id"]
    if len(keys) != 1:
        raise AuditConfigurationError(
            f"columns: exactly one column must take record_id (a unique one), here {len(keys)} do"
        )
    return sources


def _positions(sources: Mapping[str, Source]) -> tuple[dict[str, int], tuple[_Path, ...]]:
    """Return where each column's value stands: in an event's fragments, or after them where a path leads to it."""
    positions: dict[str, int] = {}
    paths: list[_Path] = []
    for column, source in sources.items():
        positions[column] = len(FIELDS) + len(paths) if source.keys else INDEX[source.field]
        if source.keys:
            paths.append(_Path(column, source, positions[column]))
    return positions, tuple(paths)


def _event_name(fragments: list[bytes]) -> bytes:
    entity_type, action = fragments[INDEX["entity_type"]], fragments[INDEX["action"]]
    return (b'"audit' if entity_type == _NULL else entity_type[:-1]) + b"." + action[1:]


def _is_inet(fragment: bytes) -> bool:
    return is_inet(str(orjson.loads(fragment)))


def _document(value: Any) -> Any:
    """Return the document that a text column holds: a text whose JSON is an object or an array is stored as that."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return loads_exact(value.encode())
        except ValueError:
            return value
    return value


def _may_lose_traces(mapping: TableMapping) -> bool:
    return not mapping._folds_traces and _TRACE_AT.isdisjoint(mapping._watched)
