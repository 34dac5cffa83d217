"""Rows of the exporter that keeps them in memory, for tests and for development."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from otel_audit_exporter.table.readers.base import Order
from otel_audit_exporter.table.readers.columns import Column, Place
from otel_audit_exporter.table.readers.conditions import (
    AllOf,
    AnyOf,
    Beyond,
    Compare,
    Condition,
    Contains,
    Distinct,
    Null,
    OneOf,
    Prefix,
)

Row = Mapping[str, Any]


class MemorySource:
    """Reads the rows that ``rows`` returns."""

    json_is_text = False

    def __init__(self, rows: Callable[[], Iterable[Row]]) -> None:
        self._all = rows

    def rows(self, known: Sequence[str], conditions: Sequence[Condition], order: Order, limit: int) -> list[Row]:
        """Return the next rows."""

        def place(row: Row) -> tuple[str, str]:
            return str(row[order.at.name]), str(row[order.key.name])

        found = sorted(self._found(conditions), key=place, reverse=order.newest_first)
        return [{**dict.fromkeys(known), **row} for row in islice(found, limit)]

    def count(self, conditions: Sequence[Condition], order: Order, most: int) -> int:
        """Return how many rows there are, or one more than ``most``."""
        return sum(1 for _ in islice(self._found(conditions), most + 1))

    def searchable(self) -> bool:
        """Return False: there is no index for searching in values."""
        return False

    def close(self) -> None:
        """Nothing is open."""

    def _found(self, conditions: Sequence[Condition]) -> Iterable[Row]:
        return (row for row in self._all() if all(_holds(condition, row) for condition in conditions))


def _holds(condition: Condition, row: Row) -> bool:
    match condition:
        case AllOf(inner):
            return all(_holds(one, row) for one in inner)
        case AnyOf(inner):
            return any(_holds(one, row) for one in inner)
        case Beyond(at, key, position, newest_first):
            here, there = (str(row[at.name]), str(row[key.name])), tuple(map(str, position))
            return here < there if newest_first else here > there
        case Null(place, negated):
            return (_value(row, place) is None) is not negated
        case Distinct(place, other):
            return _value(row, place) != other
    value = _value(row, condition.place)
    if value is None:
        return False
    match condition:
        case Compare(_, operator, other):
            return bool({"=": value == other, "<": value < other, "<=": value <= other, ">=": value >= other}[operator])
        case OneOf(_, values, negated):
            return (value in values) is not negated
        case Prefix(_, text):
            return value.startswith(text)
        case Contains(_, text):
            return text.lower() in value.lower()


def _value(row: Row, place: Place) -> str | None:
    if isinstance(place, Column):
        value = row.get(place.name)
    else:
        value = row.get(place.column)
        for name in place.path:
            value = value.get(name) if isinstance(value, Mapping) else None
    return None if value is None else str(value)
