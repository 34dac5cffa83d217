"""Conditions as SQL: the same text for PostgreSQL and SQLite, except for the parts of each dialect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


class Dialect(Protocol):
    """The parts of SQL that differ between the databases."""

    holder: str

    def place(self, place: Place) -> str:
        """Write a column or a member of a document in one."""

    def distinct(self, place: str) -> str:
        """Write that the value at ``place`` is not the next one, be it that there is none."""

    def prefix(self, place: str) -> str:
        """Write that the text at ``place`` begins with the next value."""

    def prefix_value(self, text: str) -> str:
        """Return that value."""

    def contains(self, place: str) -> str:
        """Write that the text at ``place`` has the next value in it."""

    def contains_value(self, text: str) -> str:
        """Return that value."""


@dataclass(frozen=True)
class Statement:
    """SQL, and the values that go with it."""

    text: str
    values: list[Any]


def select_rows(
    dialect: Dialect, what: str, table: str, conditions: Sequence[Condition], order: Order, limit: int
) -> Statement:
    """Return the statement for the next rows."""
    writer = ConditionWriter(dialect)
    where, ordered = writer.all(conditions), _ordered(dialect, order)
    query = f"select {what} from {table} where {where} {ordered} limit {int(limit)}"  # noqa: S608  # quoted names
    return Statement(query, writer.values)


def select_count(
    dialect: Dialect, table: str, conditions: Sequence[Condition], most: int, order: Order | None = None
) -> Statement:
    """Return the statement for how many rows there are, one more than ``most`` at the most.

    ``order``: count them in this order, which indexes are in; None where there are none.
    """
    writer = ConditionWriter(dialect)
    where, ordered = writer.all(conditions), "" if order is None else _ordered(dialect, order)
    inner = f"select 1 from {table} where {where} {ordered} limit {int(most) + 1}"  # noqa: S608  # quoted names
    return Statement(f"select count(*) from ({inner}) counted", writer.values)  # noqa: S608


def _ordered(dialect: Dialect, order: Order) -> str:
    direction = "desc" if order.newest_first else "asc"
    return f"order by {dialect.place(order.at)} {direction}, {dialect.place(order.key)} {direction}"


class ConditionWriter:
    """Writes conditions, and gathers their values in ``values`` on the way."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.values: list[Any] = []

    def all(self, conditions: Sequence[Condition]) -> str:
        """Return SQL that says that all of these hold."""
        return " and ".join(map(self._write, conditions)) or "true"

    def _write(self, condition: Condition) -> str:
        match condition:
            case Compare(place, operator, value):
                return f"{self._dialect.place(place)} {operator} {self._holder(value)}"
            case OneOf(place, values, negated):
                holders = ", ".join(map(self._holder, values))
                return f"{self._dialect.place(place)} {'not in' if negated else 'in'} ({holders})"
            case Null(place, negated):
                return f"{self._dialect.place(place)} is {'not null' if negated else 'null'}"
            case Distinct(place, value):
                self.values.append(value)
                return self._dialect.distinct(self._dialect.place(place))
            case Prefix(place, text):
                self.values.append(self._dialect.prefix_value(text))
                return self._dialect.prefix(self._dialect.place(place))
            case Contains(place, text):
                self.values.append(self._dialect.contains_value(text))
                return self._dialect.contains(self._dialect.place(place))
            case AnyOf(conditions):
                return f"({' or '.join(map(self._write, conditions))})"
            case AllOf(conditions):
                return f"({self.all(conditions)})"
            case Beyond(at, key, position, newest_first):
                holders = ", ".join(map(self._holder, position))
                places = ", ".join(self._dialect.place(one) for one in (at, key))
                return f"({places}) {'<' if newest_first else '>'} ({holders})"

    def _holder(self, value: Any) -> str:
        self.values.append(value)
        return self._dialect.holder


def path_of(place: Place) -> tuple[str, ...]:
    """Return the path inside a column's document; none for the column itself."""
    return () if isinstance(place, Column) else place.path


def column_of(place: Place) -> str:
    """Return the column's name."""
    return place.name if isinstance(place, Column) else place.column
