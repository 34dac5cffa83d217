"""From an event's bytes to a row's bytes: which column takes which field.

A row is one JSON object with a key for every column, whichever sink takes it. In the usual case it is cut
out of the event's fragments without parsing them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, Literal

import orjson

from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import (
    DEFAULT_COLUMNS,
    FIELDS,
    INDEX,
    JSON_FIELDS,
    REQUIRED_BY_DEFAULT,
    USUAL_JSON,
)
from otel_audit_exporter.event.joined import Joined
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.serialization import as_row, as_rows, row_template, split

Unmapped = Literal["fold", "drop", "error"]

_NULL: Final = b"null"

# Said by the caller: kept under `_audit` where no column takes them. The value is what nobody has to say.
_SAID: Final = {
    field: USUAL_JSON.get(field, _NULL) for field in ("outcome", "actor_type", "on_behalf_of", "metadata", "signature")
}
UNSAID: Final[Mapping[str, str | None]] = {field: orjson.loads(value) for field, value in _SAID.items()}
# Known from the surroundings: into the metadata column where there is one, else left out.
_SURROUNDINGS: Final = ("source_ip", "request_id", "user_agent")
_TRACE: Final = ("trace_id", "span_id")

_TRACE_AT: Final = frozenset(INDEX[field] for field in _TRACE)


class TableMapping:
    """Make rows of one table out of events.

    ``columns`` maps column name to field name; ``defaults`` maps column name to the value that is written
    where the event has none (or, for a column that no field fills, always). ``unmapped`` says what becomes of
    what the caller said and no column takes. Raises :class:`AuditConfigurationError` where these do not fit.
    """

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
        unmapped: Unmapped = "fold",
    ) -> None:
        self._fields = dict(columns or DEFAULT_COLUMNS)
        _check_columns(self._fields)
        self._defaults = {column: Encoder().value(value) for column, value in (defaults or {}).items()}
        self.columns = (*self._fields, *(column for column in self._defaults if column not in self._fields))
        self.unmapped: Unmapped = unmapped
        taken = set(self._fields.values())
        self._foldable = _positions(field for field in _SAID if not self._takes(field, taken))
        self._folds = unmapped == "fold" and "new_values" in taken
        self._metadata_parts = tuple(
            field for field in ("on_behalf_of", *_SURROUNDINGS) if "metadata" in taken and field not in taken
        )
        self._names_event = "event_name" in taken
        self._watched: tuple[int, ...] = ()
        self._on_left_out: Callable[[str], None] = lambda field: None
        self.lost = frozenset(field for field in self._may_lose() if not self._takes(field, taken))
        around = ("timestamp", *_SURROUNDINGS, *_TRACE)
        self.left_out = self.lost.union(field for field in around if not self._takes(field, taken))
        self._usual = tuple(_SAID[FIELDS[position]] for position in self._foldable)
        self._pick = itemgetter(*self._foldable) if len(self._foldable) > 1 else None
        self._template, self._indexes = self._compile()
        in_row = frozenset(DEFAULT_COLUMNS.values())
        self._of_row = taken <= in_row and not self._defaults and self.left_out.isdisjoint(in_row)
        self._is_row = self._of_row and tuple(self._fields.items()) == tuple(DEFAULT_COLUMNS.items())

    @property
    def key_column(self) -> str:
        """The column that takes the record's id."""
        return next(column for column, field in self._fields.items() if field == "record_id")

    @property
    def json_columns(self) -> frozenset[str]:
        """The columns whose values are JSON documents."""
        return frozenset(column for column, field in self._fields.items() if field in JSON_FIELDS)

    @property
    def required(self) -> frozenset[str]:
        """The fields that a caller must give: those that a column without a default takes."""
        taken = {field for column, field in self._fields.items() if column not in self._defaults}
        return REQUIRED_BY_DEFAULT & (taken | {"action"})

    @property
    def refused(self) -> frozenset[str]:
        """The fields that a caller may not say, because no column takes them and ``unmapped`` is "error"."""
        if self.unmapped != "error":
            return frozenset()
        return frozenset(FIELDS[position] for position in self._foldable)

    def tell_left_out(self, tell: Callable[[str], None]) -> None:
        """Have ``tell`` called, once for each field that an event has and that is left out of its row."""
        self._on_left_out = tell
        self._watched = _positions(self.left_out)

    def rows(self, bodies: Sequence[bytes]) -> Sequence[bytes]:
        """Return the rows of events, each as the bytes of one JSON object."""
        if isinstance(bodies, Joined) and self._is_row:
            rows = as_rows(bodies, traces_too=self._loses_traces())
            if rows is not None:
                return rows
        return list(map(self.row, bodies))

    def row(self, body: bytes) -> bytes:
        """Return the row of an event as the bytes of one JSON object."""
        if self._of_row:
            row = as_row(body, traces_too=self._loses_traces())
            if row is not None:
                return row if self._is_row else bytes(self._template % self._indexes(row.split(b"\n")[1::2]))
        fragments = split(body)
        for at in self._watched:
            if fragments[at] not in (_NULL, _SAID.get(FIELDS[at])):
                self._watched = tuple(other for other in self._watched if other != at)
                self._on_left_out(FIELDS[at])
        if self._is_unusual(fragments):
            self._fold(fragments)
        if self._metadata_parts:
            self._gather_metadata(fragments)
        if self._names_event and fragments[INDEX["event_name"]] == _NULL:
            fragments[INDEX["event_name"]] = _event_name(fragments)
        if self._defaults:
            return self._row_with_defaults(fragments)
        return bytes(self._template % self._indexes(fragments))

    def _loses_traces(self) -> bool:
        return _TRACE_AT.isdisjoint(self._watched)

    def _may_lose(self) -> Iterable[str]:
        """Return what a caller may say and lose without having asked for it."""
        if self.unmapped == "drop":
            return ()
        folded = self._folds or self.unmapped == "error"
        said = (field for field in DEFAULT_COLUMNS.values() if field != "timestamp")
        return (*said, *(() if folded else _SAID))

    def _takes(self, field: str, taken: set[str]) -> bool:
        in_metadata = field in ("on_behalf_of", *_SURROUNDINGS)
        return field in taken or (in_metadata and "metadata" in taken)

    def _is_unusual(self, fragments: list[bytes]) -> bool:
        if not self._folds:
            return False
        if self._pick is not None:
            return bool(self._pick(fragments) != self._usual)
        return any(fragments[at] != usual for at, usual in zip(self._foldable, self._usual, strict=True))

    def _fold(self, fragments: list[bytes]) -> None:
        said = {
            FIELDS[at]: orjson.Fragment(fragments[at])
            for at, usual in zip(self._foldable, self._usual, strict=True)
            if fragments[at] not in (usual, _NULL)
        }
        at = INDEX["new_values"]
        fragments[at] = _with_audit_key(fragments[at], orjson.dumps(said))

    def _gather_metadata(self, fragments: list[bytes]) -> None:
        at = INDEX["metadata"]
        parts = {
            field: orjson.Fragment(fragments[INDEX[field]])
            for field in self._metadata_parts
            if fragments[INDEX[field]] != _NULL
        }
        if not parts:
            return
        if _says_any(fragments[at], parts):  # neither is lost, and what a caller's document says passes for no field
            fragments[at] = b'{"metadata":' + fragments[at] + b"}"
        fragments[at] = _merged(orjson.dumps(parts), fragments[at])

    def _row_with_defaults(self, fragments: list[bytes]) -> bytes:
        values = []
        for column in self.columns:
            field = self._fields.get(column)
            fragment = _NULL if field is None else fragments[INDEX[field]]
            values.append(self._defaults.get(column, _NULL) if fragment == _NULL else fragment)
        return self._template % tuple(values)

    def _compile(self) -> tuple[bytes, Any]:
        template, positions = row_template(self.columns), [INDEX[field] for field in self._fields.values()]
        if len(positions) == 1:
            return template, lambda fragments: (fragments[positions[0]],)
        return template, itemgetter(*positions)


def _check_columns(columns: Mapping[str, str]) -> None:
    unknown = sorted({field for field in columns.values() if field not in INDEX})
    if unknown:
        raise AuditConfigurationError(
            f"columns: no field is called {', '.join(unknown)}; fields are {', '.join(FIELDS)}"
        )
    keys = [column for column, field in columns.items() if field == "record_id"]
    if len(keys) != 1:
        raise AuditConfigurationError(
            f"columns: exactly one column must take record_id (a unique one), here {len(keys)} do"
        )


def _positions(names: Iterable[str]) -> tuple[int, ...]:
    return tuple(INDEX[name] for name in names)


def _event_name(fragments: list[bytes]) -> bytes:
    entity_type, action = fragments[INDEX["entity_type"]], fragments[INDEX["action"]]
    return (b'"audit' if entity_type == _NULL else entity_type[:-1]) + b"." + action[1:]


def _with_audit_key(new_values: bytes, said: bytes) -> bytes:
    if new_values == _NULL:
        return b'{"_audit":' + said + b"}"
    if not new_values.startswith(b"{") or _says_audit(new_values):
        return b'{"value":' + new_values + b',"_audit":' + said + b"}"
    return _merged(new_values, b'{"_audit":' + said + b"}")


def _says_audit(new_values: bytes) -> bool:
    return b'"_audit":' in new_values and "_audit" in loads_exact(new_values)


def _says_any(metadata: bytes, names: Iterable[str]) -> bool:
    mentioned = [name for name in names if b'"%b":' % name.encode() in metadata]
    return bool(mentioned) and not loads_exact(metadata).keys().isdisjoint(mentioned)


def _merged(document: bytes, more: bytes) -> bytes:
    """Return the object ``document`` with the members of the object ``more`` after its own."""
    if document in (_NULL, b"{}"):
        return more
    if more in (_NULL, b"{}"):
        return document
    return document[:-1] + b"," + more[1:]
