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
from otel_audit_exporter.table.readers.narrowing import as_most_are, left_out_apart, open_columns, with_one_alternative
from otel_audit_exporter.table.readers.sql import column_of, path_of

_OPERATORS: Final = {"=": "eq", ">=": "gte", "<=": "lte", "<": "lt"}
_NO_COLUMN: Final = frozenset({"42703", "PGRST204"})
_FEW: Final = 100
_NEWEST: Final = 50  # these tell what most may be
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
            asked, left_out = self._with_left_out(key, conditions, order)
            if any(self._are_more(key, each, way, most + left_out) for each, way in self._ways(asked, order)):
                return most + 1
            # No row beside the number: for one in no order, a server may scan the table until it finds any.
            return self._rest.count(self._path, [key, *filters(conditions), ("limit", "0")]) if most else 0
        except SinkError as error:
            raise read_error(error) from None

    def _with_left_out(
        self, key: tuple[str, str], conditions: Sequence[Condition], order: Order
    ) -> tuple[Sequence[Condition], int]:
        """Return the conditions with the few rows that they leave out by a value, and how many these are.

        An index has the rows of a tenant, a user or a kind in order; for the value of another column a server would
        fetch each one.
        """
        apart = left_out_apart(conditions)
        if apart is None:
            return conditions, 0
        rest, left_out = apart
        out, in_time = [*rest, left_out], _ordered(order)
        found = len(self._get([key, ("order", in_time), ("limit", str(_FEW + 1)), *filters(out)]))
        # A server may give fewer rows than asked for, which is no end of them.
        are_many = found > _FEW or (found > 0 and self._are_more(key, out, in_time, found))
        return (conditions, 0) if are_many else (rest, found)

    def _ways(self, conditions: Sequence[Condition], order: Order) -> Iterator[tuple[Sequence[Condition], str]]:
        """Yield the conditions and narrower ones, the narrowest first, each with the order to look in."""
        in_time, columns = _ordered(order), open_columns(conditions)
        if columns:
            names = ",".join(map(name_of, columns))
            newest = [("select", names), ("order", in_time), ("limit", str(_NEWEST)), *filters(conditions)]
            rows = self._get(newest)
            if not rows:
                return
            yield as_most_are(conditions, rows), in_time
            for narrowed, alternative in with_one_alternative(conditions, rows):
                yield narrowed, f"{_first(alternative)}{in_time}"
        yield conditions, in_time

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
