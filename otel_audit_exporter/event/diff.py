"""What differs between two states."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from uuid import UUID

import uuid_utils

from otel_audit_exporter.event.json.shapes import Items, Members, StandIn
from otel_audit_exporter.event.json.types import is_opaque, key_text, scalar_text, shape_of

_NOTHING: Final = object()
_SCALARS: Final = (str, bytes, int, float, Decimal, date, time, UUID)
_STAND_INS: Final = 16  # as in the walk: more than anyone means


def changed(old: Any, new: Any) -> tuple[Any, Any]:
    """Return ``(old, new)`` with only what differs, to be recorded as ``old_values`` and ``new_values``.

    For two objects (mappings, dataclasses, models, rows of an ORM), the result has the keys whose values differ, inside
    nested objects too, and the keys that only one of them has. The members that an event records are compared, not the
    objects themselves: two objects of one row are equal to Django, even with different values. Lists are values: they
    are kept whole where anything in them differs. Values are compared by what they mean, so that these are no change: a
    Decimal and its float or text, a datetime and its ISO text in another zone, a date or time and its text, a UUID and
    its text, an Enum and its value, NaN and NaN. ``None`` and a key that is missing differ, as do ``True`` and ``1``.
    Where nothing differs, two objects leave ``({}, {})``, and anything else ``(None, None)``. Never raises for a
    value's sake; what cannot be compared is a change. The arguments are not changed, and values not copied.

    ::

        old, new = changed(before, after)
        audit_event("update_part", entity_type="part", entity_id=part_id, old_values=old, new_values=new)
    """
    try:
        difference = _difference(old, new)
    except RecursionError:  # nested too deep, or in a circle: recorded whole
        return old, new
    if difference is not None:
        return difference
    return (None, None) if _members(old) is None else ({}, {})


def same(one: Any, other: Any) -> bool:
    """Return whether two values mean the same."""
    return _difference(one, other) is None


def _difference(old: Any, new: Any) -> tuple[Any, Any] | None:
    """Return what differs on either side; None where nothing does."""
    if old is new:
        return None
    before, after = _members(old), _members(new)
    if before is not None and after is not None:
        return _difference_of_members(before, after) if before or after else None
    return None if _means_the_same(old, new) else (old, new)


def _difference_of_members(
    before: dict[Any, Any], after: dict[Any, Any]
) -> tuple[dict[Any, Any], dict[Any, Any]] | None:
    old: dict[Any, Any] = {}
    new: dict[Any, Any] = {}
    for key in [*before, *(key for key in after if key not in before)]:
        was, is_now = before.get(key, _NOTHING), after.get(key, _NOTHING)
        difference = (was, is_now) if was is _NOTHING or is_now is _NOTHING else _difference(was, is_now)
        if difference is None:
            continue
        for side, value in zip((old, new), difference, strict=True):
            if value is not _NOTHING:
                side[key] = value
    return (old, new) if old or new else None


def _members(value: Any) -> dict[Any, Any] | None:
    """Return an object's members by their recorded keys; None for what is no object."""
    if value is None or isinstance(value, _SCALARS):
        return None
    shape = shape_of(_plain(value))
    if not isinstance(shape, Members):
        return None
    members: dict[Any, Any] = {key_text(key): member for key, member in shape.pairs}
    return members if len(members) == len(shape.pairs) else dict(shape.pairs)  # 1 and "1" have one text, and differ


def _plain(value: Any) -> Any:
    """Return the value that is recorded in place of another: an Enum's, a model's fields."""
    for _ in range(_STAND_INS):
        shape = shape_of(value)
        if not isinstance(shape, StandIn):
            break
        value = shape.value
    return value


def _means_the_same(one: Any, other: Any) -> bool:
    try:
        return _compared(one, other)
    except RecursionError:
        raise
    except Exception:  # foreign code may raise anything: one change too many is better than one too few
        return False


def _compared(one: Any, other: Any) -> bool:
    one, other = _plain(one), _plain(other)
    for kind, compare in _COMPARISONS:
        if isinstance(one, kind) or isinstance(other, kind):
            return compare(one, other)
    items, others = _items(one), _items(other)
    if items is not None and others is not None:
        return len(items) == len(others) and all(map(same, items, others))
    if is_opaque(one) or is_opaque(other):  # its own word on equality may be about a key only
        return one is other
    return bool(one == other)


def _items(value: Any) -> Sequence[Any] | None:
    if isinstance(value, str | bytes):
        return None
    shape = shape_of(value)
    if not isinstance(shape, Items):
        return None
    return sorted(shape.values, key=str) if shape.unordered else shape.values


def _booleans(one: Any, other: Any) -> bool:
    return one is other


def _numbers(one: Any, other: Any) -> bool:
    if isinstance(one, Decimal) and isinstance(other, str):
        return _numbers(other, one)
    if isinstance(one, str) and isinstance(other, Decimal):
        try:
            return _numbers(Decimal(one), other)
        except InvalidOperation:
            return False
    if not isinstance(one, int | float | Decimal) or not isinstance(other, int | float | Decimal):
        return False
    if _is_nan(one) or _is_nan(other):
        return _is_nan(one) and _is_nan(other)
    if isinstance(one, int) or isinstance(other, int) or isinstance(one, float) == isinstance(other, float):
        return one == other
    return one == other or (float(one) == float(other) and math.isfinite(one) and math.isfinite(other))


def _is_nan(number: int | float | Decimal) -> bool:
    return number.is_nan() if isinstance(number, Decimal) else number != number


def _moments(one: Any, other: Any) -> bool:
    one, other = _as(datetime, one), _as(datetime, other)
    return isinstance(one, datetime) and isinstance(other, datetime) and one == other


def _dates(one: Any, other: Any) -> bool:
    one, other = _as(date, one), _as(date, other)
    return isinstance(one, date) and isinstance(other, date) and one == other


def _times(one: Any, other: Any) -> bool:
    one, other = _as(time, one), _as(time, other)
    return isinstance(one, time) and isinstance(other, time) and one == other


def _as(kind: Any, value: Any) -> Any:
    if isinstance(value, str):
        with suppress(ValueError):
            return kind.fromisoformat(value)
    return value


def _uuids(one: Any, other: Any) -> bool:
    try:
        return UUID(scalar_text(one)) == UUID(scalar_text(other))
    except ValueError:
        return False


_Comparison = Callable[[Any, Any], bool]
# The first kind that either side is of decides: the special ones first, as bool is an int and datetime a date.
_COMPARISONS: Final[tuple[tuple[type | tuple[type, ...], _Comparison], ...]] = (
    (bool, _booleans),
    ((int, float, Decimal), _numbers),
    ((UUID, uuid_utils.UUID), _uuids),
    (datetime, _moments),
    (date, _dates),
    (time, _times),
)
