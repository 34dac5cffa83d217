"""``changed`` keeps only what differs."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from otel_audit_exporter import changed

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
ID = UUID("0f8fad5b-d9cb-469f-a165-70867728950e")


class Colour(Enum):
    RED = "red"


class Level(int, Enum):
    HIGH = 3


@dataclasses.dataclass
class Part:
    name: str
    stock: Any


class Model(BaseModel):
    name: str
    stock: Any


SAME = [
    (Decimal("12.50"), 12.5),
    (Decimal("0.1"), 0.1),
    (Decimal("3"), 3),
    (Decimal("12.50"), "12.5"),
    (3, 3.0),
    (NOON, NOON.astimezone(timezone(timedelta(hours=2)))),
    (NOON, "2026-05-01T14:00:00+02:00"),
    ("2026-05-01T12:00:00Z", NOON),
    (date(2026, 5, 1), "2026-05-01"),
    (time(12, 30), "12:30:00"),
    (ID, str(ID).upper()),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (float("nan"), float("nan")),
    (Decimal("NaN"), float("nan")),
    ((1, 2), [1, 2.0]),
    ({1, 2}, {2, 1}),
    ([Decimal("1")], [1.0]),
    (b"x", b"x"),
    (None, None),
    (Part("a", Decimal("1.0")), {"name": "a", "stock": 1}),
    (Model(name="a", stock=NOON), {"name": "a", "stock": "2026-05-01T12:00:00Z"}),
]
DIFFERENT = [
    (Decimal("12.50"), 12.51),
    (True, 1),
    (False, None),
    (0, None),
    ("", None),
    ("1", 1),
    (NOON, "2026-05-01T12:00:00"),
    (NOON, NOON + timedelta(microseconds=1)),
    (NOON, date(2026, 5, 1)),
    (ID, "0f8fad5b"),
    (2**53 + 1, float(2**53)),
    ([1, 2], [2, 1]),
    ([1], [1, 1]),
    ({}, []),
    (float("inf"), Decimal("1e400")),
    ("red", Colour),
]


@pytest.mark.parametrize(("old", "new"), SAME)
def test_values_that_mean_the_same_are_no_change(old: Any, new: Any) -> None:
    assert changed({"kept": 1, "value": old}, {"kept": 2, "value": new}) == ({"kept": 1}, {"kept": 2})
    assert changed({"value": new}, {"value": old}) == ({}, {})


@pytest.mark.parametrize(("old", "new"), DIFFERENT)
def test_values_that_differ_are_kept_on_both_sides(old: Any, new: Any) -> None:
    assert changed({"value": old, "same": 1}, {"value": new, "same": 1}) == ({"value": old}, {"value": new})
    assert changed({"value": new}, {"value": old}) == ({"value": new}, {"value": old})


def test_keys_of_one_side_only_are_kept_there_none_included() -> None:
    assert changed({"gone": None, "same": 1}, {"new": 2, "same": 1}) == ({"gone": None}, {"new": 2})


def test_nested_objects_keep_only_what_differs_in_them() -> None:
    old = {"part": {"name": "impeller", "stock": {"bin": "A1", "count": 3}}, "tags": ["a"], "same": {"x": {}}}
    new = {"part": {"name": "impeller", "stock": {"bin": "A1", "count": 2}}, "tags": ["a", "b"], "same": {"x": {}}}
    assert changed(old, new) == (
        {"part": {"stock": {"count": 3}}, "tags": ["a"]},
        {"part": {"stock": {"count": 2}}, "tags": ["a", "b"]},
    )


def test_dataclasses_and_models_are_compared_field_by_field() -> None:
    assert changed(Part("a", 1), Part("a", 2)) == ({"stock": 1}, {"stock": 2})
    assert changed(Model(name="a", stock=1), Model(name="b", stock=1)) == ({"name": "a"}, {"name": "b"})


@pytest.mark.parametrize(("old", "new"), [(None, {"a": 1}), ({"a": 1}, None), (1, 2), ({"a": 1}, "text")])
def test_what_is_no_object_on_both_sides_is_kept_whole(old: Any, new: Any) -> None:
    assert changed(old, new) == (old, new)


def test_a_circle_or_a_comparison_that_raises_is_rather_a_change() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    other: dict[str, Any] = {}
    other["self"] = other
    assert changed(circle, other) == (circle, other)

    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = object.__hash__

    one, two = Odd(), Odd()
    old, new = changed({"odd": one, "same": one}, {"odd": two, "same": one})
    assert old["odd"] is one
    assert new["odd"] is two
    assert "same" not in old


def test_the_arguments_stay_as_they_were() -> None:
    old, new = {"a": {"b": 1, "c": 1}}, {"a": {"b": 2, "c": 1}}
    changed(old, new)
    assert (old, new) == ({"a": {"b": 1, "c": 1}}, {"a": {"b": 2, "c": 1}})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.decimals() | st.datetimes() | st.uuids(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=3), values, max_size=4))
def test_nothing_differs_from_itself(value: dict[str, Any]) -> None:
    assert changed(value, dict(value)) == ({}, {})


@given(st.dictionaries(st.sampled_from("abc"), values), st.dictionaries(st.sampled_from("abc"), values))
def test_both_sides_mirror_each_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    there, back = changed(old, new), changed(new, old)
    assert (there[0] or {}).keys() == (back[1] or {}).keys()
    assert (there[1] or {}).keys() == (back[0] or {}).keys()
    assert all(key in (there[0] or {}) for key in old.keys() - new.keys())


def test_where_nothing_differs_objects_leave_empty_ones_and_anything_else_nothing() -> None:
    assert changed({"a": 1}, {"a": 1.0}) == ({}, {})
    assert changed(Part("a", 1), {"name": "a", "stock": 1}) == ({}, {})
    assert changed([1], [1]) == changed(1, 1) == changed(None, None) == (None, None)


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


class Itself:
    def model_dump(self) -> Any:
        return self


@pytest.mark.parametrize(
    ("old", "new"),
    [(10**400, 1), (10**400, 1.5), (float("inf"), 10**400), (Decimal("sNaN"), 1),
     ({Unprintable()}, {Unprintable()}), (Itself(), Itself())],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_of_any_kind_is_compared_without_raising(old: Any, new: Any) -> None:
    assert changed({"value": old, "same": 1}, {"value": new, "same": 1}) == ({"value": old}, {"value": new})
    assert changed({"value": old}, {"value": old}) == ({}, {})


def test_different_keys_with_the_same_text_are_kept_apart() -> None:
    assert changed({1: "a", "1": "b"}, {1: "c", "1": "b"}) == ({1: "a"}, {1: "c"})
