"""Where the fields of one event are in the row that was stored of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import orjson

from otel_audit_exporter.event.diff import same
from otel_audit_exporter.event.paths import parse_source


def places(said: Mapping[str, Any], row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str | None]:
    """Return for each given field its place in the row, such as `new_values._audit.outcome`; None: lost.

    Looks where ``columns`` say that the field is, and inside documents under its name: an equal value anywhere else is
    another field's.
    """
    taken = {column: parse_source(source) for column, source in columns.items()}
    held = list(_values(row))

    def is_of(field: str, place: str) -> bool:
        source = taken.get(place)
        if source is not None:
            return source.field == field and not source.keys
        return "." in place and place.rpartition(".")[2] == field

    return {
        field: next((place for place, value in held if is_of(field, place) and _holds(value, wanted)), None)
        for field, wanted in said.items()
    }


def _values(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, str) and value[:1] == "{":  # a document in a column of text
        with suppress(orjson.JSONDecodeError):
            value = orjson.loads(value)
    if path:
        yield path, value
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield from _values(member, f"{path}.{key}" if path else str(key))


def _holds(value: Any, wanted: Any) -> bool:
    """Return whether a value is the given one; an object may hold more beside it, where other fields are kept."""
    if isinstance(wanted, Mapping) and isinstance(value, Mapping):
        return all(key in value and _holds(value[key], member) for key, member in wanted.items())
    return same(wanted, value) or str(value) == str(wanted) or _same_moment(wanted, value)


def _same_moment(wanted: Any, value: Any) -> bool:
    """Compare a time with one of a column that has no time zone, which is in UTC."""
    return isinstance(value, str) and len(value) >= 19 and same(wanted, f"{value}+00:00")
