"""Narrower conditions: where these alone have more rows than are counted, those that they are made of have, too.

The rows of a narrow condition are found, and are in order, inside one index. For several alternatives together, and
for texts that begin alike, a server may fetch every row to put them in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from otel_audit_exporter.table.readers.columns import Column
from otel_audit_exporter.table.readers.conditions import AllOf, AnyOf, Compare, Condition, Null, OneOf, Prefix


def open_columns(conditions: Sequence[Condition]) -> list[Column]:
    """Return in which columns rows that fulfil the conditions may differ: the tenant, and what a text is found in."""
    return [column for one in conditions for column in _open_columns(one)]


def left_out_apart(conditions: Sequence[Condition]) -> tuple[list[Condition], OneOf] | None:
    """Return the conditions without the one that leaves out some values of a column, and what has these values."""
    for at, one in enumerate(conditions):
        match one:
            case AnyOf((OneOf(place, values, negated=True), Null(_, negated=False))):
                return [*conditions[:at], *conditions[at + 1 :]], OneOf(place, values)
    return None


def as_most_are(conditions: Sequence[Condition], rows: Sequence[Mapping[str, Any]]) -> list[Condition]:
    """Return the conditions as most of these rows fulfil them: with the value that they have in an open column."""
    [(narrowed, _)] = Counter(tuple(_as_in(row, one) for one in conditions) for row in rows).most_common(1)
    return list(narrowed)


def with_one_alternative(
    conditions: Sequence[Condition], rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[list[Condition], Condition]]:
    """Yield the conditions with one alternative in the place of one choice each time: that which most rows fulfil.

    That is a tenant of several, or a beginning that a text may be; it comes beside the conditions.
    """
    for at, one in enumerate(conditions):
        found = Counter(part for row in rows if (part := _alternative_of(row, one)) is not None).most_common(1)
        yield from (([*conditions[:at], part, *conditions[at + 1 :]], part) for part, _ in found)


def _open_columns(condition: Condition) -> list[Column]:
    match condition:
        case AnyOf(parts):
            return [column for part in parts for column in _open_columns(part)]
        case OneOf(Column() as column, _, negated=False) | Prefix(Column() as column):
            return [column]
        case AllOf((Compare(Column() as column, ">="), Compare(_, "<="))):
            return [column]
    return []


def _as_in(row: Mapping[str, Any], condition: Condition) -> Condition:
    match condition:
        case AnyOf(parts):
            return next((one for part in parts if (one := _as_in(row, part)) is not part), condition)
        case OneOf(Column(name) as column, _, negated=False):
            return Compare(column, "=", row[name])
        case Prefix(Column(name) as column, text) if (row[name] or "").startswith(text):
            return Compare(column, "=", row[name])
        case AllOf((Compare(Column(name) as column, ">=", low), Compare(_, "<=", high))) if row[name] is not None:
            return Compare(column, "=", row[name]) if low <= row[name] <= high else condition
    return condition


def _alternative_of(row: Mapping[str, Any], condition: Condition) -> Condition | None:
    match condition:
        case OneOf():
            one = _as_in(row, condition)
            return None if one is condition else one
        case AnyOf(parts):
            return next((part for part in parts if _as_in(row, part) is not part), None)
    return None
