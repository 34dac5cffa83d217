"""What rows have to fulfil, without any dialect: each source writes these in its own words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from otel_audit_exporter.event.fields import OUTCOMES, USUAL
from otel_audit_exporter.table.readers.columns import Column, ColumnReader, Place
from otel_audit_exporter.table.readers.query import EventQuery, QueryError, uuid_range
from otel_audit_exporter.table.readers.stored_event import iso

SEARCH_COLUMN: Final = "audit_search"
"""The generated column that `otel-audit schema --search` makes."""
_TRIGRAM: Final = 3


@dataclass(frozen=True)
class Compare:
    """The value at ``place`` compares so with ``value``: ``=``, ``>=``, ``<=``, ``<``."""

    place: Place
    operator: str
    value: str


@dataclass(frozen=True)
class OneOf:
    """The value at ``place`` is one of ``values``, or none of them."""

    place: Place
    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True)
class Null:
    """There is no value at ``place``, or there is one."""

    place: Place
    negated: bool = False


@dataclass(frozen=True)
class Distinct:
    """The value at ``place`` is not ``value``, be it that there is none."""

    place: Place
    value: str


@dataclass(frozen=True)
class Prefix:
    """The text at ``place`` begins with ``text``."""

    place: Place
    text: str


@dataclass(frozen=True)
class Contains:
    """The text at ``place`` has ``text`` in it, in upper or lower case; its column has a trigram index."""

    place: Place
    text: str


@dataclass(frozen=True)
class AnyOf:
    """At least one of these holds."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class AllOf:
    """All of these hold."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Beyond:
    """The row comes after this one in the order of time and id."""

    at: Column
    key: Column
    position: tuple[Any, Any]
    newest_first: bool


Condition = Compare | OneOf | Null | Distinct | Prefix | Contains | AnyOf | AllOf | Beyond


def conditions_of(
    query: EventQuery,
    columns: ColumnReader,
    *,
    ids: str,
    searchable: bool,
    is_there: Callable[[Condition], bool] = lambda condition: True,
) -> list[Condition] | None:
    """Return what the rows asked for have to fulfil; None where no row of this table can be meant.

    ``is_there`` says whether any row fulfils a condition: where a value is nowhere else than in its column, a
    database finds it by that column's index, which it often does not take for one of two.
    Raises :class:`QueryError` where a field is asked for that no column takes.
    """
    at = Column(columns.of["timestamp"])
    conditions: list[Condition] = [Null(at, negated=True)]  # what has no time has no place in the order of time
    if query.tenants is not None:
        tenant = columns.of.get("yacht_id")
        if tenant is None or not query.tenants:
            return None
        conditions.append(_among(Column(tenant), sorted(query.tenants)))
    for name, value in query.fields().items():
        conditions.append(_equal(name, value, columns, is_there))
    if query.without_actions and "action" in columns.of:
        action = Column(columns.of["action"])
        conditions.append(AnyOf((OneOf(action, tuple(sorted(query.without_actions)), negated=True), Null(action))))
    if query.since is not None:
        conditions.append(Compare(at, ">=", iso(query.since)))
    if query.until is not None:
        conditions.append(Compare(at, "<", iso(query.until)))
    if query.text is not None:
        conditions.append(_text(query.text, columns, ids=ids, searchable=searchable))
    return conditions


def _among(place: Place, values: Sequence[str]) -> Condition:
    # One of a list of one is not the same to a server: it has no use then for the order of an index.
    return Compare(place, "=", values[0]) if len(values) == 1 else OneOf(place, tuple(values))


def _equal(name: str, value: str, columns: ColumnReader, is_there: Callable[[Condition], bool]) -> Condition:
    places = columns.places(name)
    if not places:
        raise QueryError(f"columns: no column takes {name}, so it cannot be asked for")
    if value == USUAL.get(name):
        # The usual value, asked for by what it is not: nearly every row has it, and a server that keeps no statistics
        # of what is inside documents expects that of this form only.
        return AllOf(tuple(Distinct(places[0], other) for other in OUTCOMES if other != value))
    first, *more = (Compare(place, "=", value) for place in places)
    return _any([first, *filter(is_there, more)])


def _text(text: str, columns: ColumnReader, *, ids: str, searchable: bool) -> Condition:
    names = [name for name in ("action", "entity_type") if name in columns.of]
    found: list[Condition] = [Prefix(Column(columns.of[name]), text) for name in names]
    found += _ids_beginning_with(text, columns, ids)
    if searchable and len(text) >= _TRIGRAM:
        found.append(Contains(Column(SEARCH_COLUMN), text))
    if not found:
        raise QueryError("text: no column takes action, entity or user, so there is nothing to look in")
    return _any(found)


def _ids_beginning_with(text: str, columns: ColumnReader, ids: str) -> Iterator[Condition]:
    places = [Column(columns.of[name]) for name in ("entity_id", "user_id") if name in columns.of]
    if ids != "uuid":
        yield from (Prefix(place, text) for place in places)
        return
    bounds = uuid_range(text)
    if bounds is not None:
        yield from (AllOf((Compare(place, ">=", bounds[0]), Compare(place, "<=", bounds[1]))) for place in places)


def _any(conditions: list[Condition]) -> Condition:
    return conditions[0] if len(conditions) == 1 else AnyOf(tuple(conditions))
