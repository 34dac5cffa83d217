"""Rows of PostgreSQL through PostgREST."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.supabase.id_lookup import quoted_list
from otel_audit_exporter.table.readers.base import NO_RIGHT, NO_SUCH_VALUE, Order, no_such_value, read_error
from otel_audit_exporter.table.readers.columns import Place
from otel_audit_exporter.table.readers.conditions import (
    SEARCH_COLUMN,
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
from otel_audit_exporter.table.readers.sql import column_of, path_of

_OPERATORS: Final = {"=": "eq", ">=": "gte", "<=": "lte", "<": "lt"}
_NO_COLUMN: Final = frozenset({"42703", "PGRST204"})
_FEW: Final = 4  # each costs a question of its own
_SPECIAL: Final = re.compile(r"([^\w\s]|_)", re.ASCII)

Parameters = list[tuple[str, str]]


class PostgRESTSource:
    """Reads through PostgREST, over connections that stay open until it is closed."""

    json_is_text = False

    def __init__(self, settings: Settings) -> None:
        from otel_audit_exporter.sinks.supabase.rest_client import RestClient

        self._rest = RestClient(settings.url or "", settings.key or "", token=settings.token, schema=settings.schema)
        self._path = settings.table
        self._searchable: bool | None = None

    def rows(
        self, known: Sequence[str], conditions: Sequence[Condition], order: Order, limit: int
    ) -> list[Mapping[str, Any]]:
        """Return the next rows, with every column that this role may read; a server may give fewer than asked for."""
        parameters = [("order", _ordered(order)), ("limit", str(limit)), *filters(conditions)]
        try:
            return self._get([("select", "*"), *parameters])
        except SinkError as error:
            if error.code != NO_RIGHT:
                raise
        try:  # a role that may read these columns and no others
            return self._get([("select", ",".join(map(_in_quotes, known))), *parameters])
        except SinkError as error:
            raise read_error(error) from None

    def count(self, conditions: Sequence[Condition], order: Order, most: int) -> int:
        """Return how many rows there are, or one more than ``most``: more are not counted."""
        key = ("select", name_of(order.key))
        try:
            narrower = ((part, f"{_first(one)}{_ordered(order)}") for part, one in _narrower(conditions))
            if any(self._are_more(key, part, way, most) for part, way in narrower):
                return most + 1
            if self._are_more(key, conditions, _ordered(order), most):
                return most + 1
            # No row beside the number: for one in no order, a server may scan the table until it finds any.
            return self._rest.count(self._path, [key, *filters(conditions), ("limit", "0")]) if most else 0
        except SinkError as error:
            raise read_error(error) from None

    def _are_more(self, key: tuple[str, str], conditions: Sequence[Condition], ordered: str, most: int) -> bool:
        beyond = [("order", ordered), ("offset", str(most)), ("limit", "1")]
        return bool(self._get([key, *filters(conditions), *beyond]))

    def searchable(self) -> bool:
        """Return whether the table has the column for searching in values."""
        if self._searchable is None:
            try:
                self._get([("select", SEARCH_COLUMN), ("limit", "0")])
                self._searchable = True
            except SinkError as error:
                if error.code not in _NO_COLUMN | {NO_RIGHT}:
                    raise
                self._searchable = False
        return self._searchable

    def close(self) -> None:
        """Close the connections."""
        self._rest.close()

    def _get(self, parameters: Parameters) -> list[Mapping[str, Any]]:
        try:
            rows: list[Mapping[str, Any]] = self._rest.get(self._path, parameters)
            return rows
        except SinkError as error:
            if error.code in NO_SUCH_VALUE:
                raise no_such_value() from None
            raise


def _narrower(conditions: Sequence[Condition]) -> Iterator[tuple[list[Condition], Condition]]:
    """Yield the conditions with one alternative each, and which: a tenant of a few, a beginning that a text may be.

    Where it alone has more rows than are counted, all have. Its rows are found, and are in order, inside one index:
    for several together a server may fetch every row.
    """
    for at, one in enumerate(conditions):
        for part in _alternatives(one):
            yield [*conditions[:at], part, *conditions[at + 1 :]], part


def _alternatives(condition: Condition) -> Sequence[Condition]:
    match condition:
        case AnyOf(parts) if any(isinstance(part, Prefix) for part in parts):
            return parts
        case OneOf(place, values, negated=False) if len(values) <= _FEW:
            return [Compare(place, "=", value) for value in values]
    return ()


def _first(alternative: Condition) -> str:
    """Return what comes before the time in the order of the index that has a range of ids; nothing for others."""
    match alternative:
        case AllOf((Compare(place, _, _), *_)):
            return f"{name_of(place)}.asc,"
    return ""


def filters(conditions: Sequence[Condition]) -> Parameters:
    """Return the conditions as parameters, all of which have to hold."""
    parameters: Parameters = []
    for condition in conditions:
        match condition:
            case AnyOf(inner):
                parameters.append(("or", f"({','.join(map(_in_logic, inner))})"))
            case AllOf(inner):
                parameters += filters(inner)
            case Beyond():
                parameters += _beyond(condition)
            case _:  # what follows the operator is the value, as it is
                parameters.append(_compared(condition, str))
    return parameters


def _ordered(order: Order) -> str:
    direction = "desc" if order.newest_first else "asc"
    return ",".join(f"{name_of(place)}.{direction}" for place in (order.at, order.key))


def _beyond(condition: Beyond) -> Parameters:
    """Return what comes after a row; its first part is there for the index, which an `or` has no use for."""
    at, key = name_of(condition.at), name_of(condition.key)
    moment, last = (_in_quotes(str(value)) for value in condition.position)
    than = "lt" if condition.newest_first else "gt"
    after = f"({at}.{than}.{moment},and({at}.eq.{moment},{key}.{than}.{last}))"
    return [(at, f"{than}e.{condition.position[0]}"), ("or", after)]


def _in_logic(condition: Condition) -> str:
    """Return a condition as it stands inside `or`, every value in quotes."""
    match condition:
        case AnyOf(conditions):
            return f"or({','.join(map(_in_logic, conditions))})"
        case AllOf(conditions):
            return f"and({','.join(map(_in_logic, conditions))})"
        case Beyond():
            return f"and({','.join(f'{name}.{rest}' for name, rest in _beyond(condition))})"
        case _:
            return ".".join(_compared(condition, _in_quotes))


def _compared(
    condition: Compare | OneOf | Null | Distinct | Prefix | Contains, written: Callable[[str], str]
) -> tuple[str, str]:
    """Return the name of a column, and what it is compared with."""
    match condition:
        case Compare(place, operator, value):
            return name_of(place), f"{_OPERATORS[operator]}.{written(value)}"
        case OneOf(place, values, negated):
            return name_of(place), f"{_not(negated)}in.({','.join(map(_in_quotes, values))})"
        case Null(place, negated):
            return name_of(place), f"{_not(negated)}is.null"
        case Distinct(place, value):
            return name_of(place), f"isdistinct.{written(value)}"
        case Prefix(place, text):  # not `like`, in which PostgREST takes every asterisk for a wildcard
            return name_of(place), f"match.{written('^' + _as_pattern(text))}"
        case Contains(place, text):
            return name_of(place), f"imatch.{written(_as_pattern(text))}"


def _not(negated: bool) -> str:
    return "not." if negated else ""


def _as_pattern(text: str) -> str:
    """Return a regular expression that means this text."""
    return _SPECIAL.sub(r"\\\1", text)


def name_of(place: Place) -> str:
    """Return a place as PostgREST has it."""
    *inner, last = [_in_quotes(column_of(place)), *path_of(place)]
    return f"{'->'.join(inner)}->>{last}" if inner else last


def _in_quotes(text: str) -> str:
    return quoted_list([text])
