"""What tests say in their events, and what has to be in the table for it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid4

YACHT = "0191a000-0000-7000-8000-000000000001"
ENTITY = "0191a000-0000-7000-8000-000000000002"
USER = "0191a000-0000-7000-8000-000000000003"
RECORD = "0191a000-0000-7000-8000-000000000004"


def arguments(**changes: Any) -> dict[str, Any]:
    """Give the arguments of a good event about a new thing, with ``changes``."""
    return {
        "action": "create_receiving",
        "entity_type": "receiving",
        "entity_id": str(uuid4()),
        "yacht_id": YACHT,
        "user_id": USER,
        "new_values": {"lines": [1, "ü"]},
    } | changes


def said(**changes: Any) -> dict[str, Any]:
    """Give the arguments of a good event, with ``changes``; those that are ``...`` are left out."""
    arguments = {
        "action": "create_receiving",
        "entity_type": "receiving",
        "entity_id": ENTITY,
        "yacht_id": YACHT,
        "user_id": USER,
    } | changes
    return {name: value for name, value in arguments.items() if value is not ...}


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Part:
    number: str
    price: Decimal
    made: date


class Odd:
    def __str__(self) -> str:
        return "an odd one"


def _cycle() -> dict[str, Any]:
    ring: dict[str, Any] = {"name": "ring"}
    ring["self"] = ring
    return ring


def _deep(levels: int) -> Any:
    value: Any = "bottom"
    for level in range(levels):
        value = {"level": level, "inside": [value]}
    return value


_MOMENT = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=timezone(timedelta(hours=2)))
_ID = UUID("0191a000-0000-7000-8000-0000000000ff")
_LONG = "zwölf Boxkämpfer " * 6000  # beyond 100 kB
_LINE = {"part": "P", "qty": 2, "dims": [1.5, 2.5]}
_ODD = f"<{Odd.__module__}.Odd> an odd one"

# What is said, what is stored, and of which type that is in jsonb (None: SQL NULL).
SHAPES: list[tuple[Any, Any, str | None]] = [
    (None, None, None),
    ({}, {}, "object"),
    ([], [], "array"),
    ("", "", "string"),
    (0, 0, "number"),
    (-17, -17, "number"),
    (2**53 + 1, 2**53 + 1, "number"),
    (2**70, 2**70, "number"),
    (0.1, 0.1, "number"),
    (-2.5e-7, -2.5e-7, "number"),
    (True, True, "boolean"),
    (False, False, "boolean"),
    (float("nan"), "NaN", "string"),
    (float("-inf"), "-Infinity", "string"),
    ("text", "text", "string"),
    ("null", "null", "string"),
    ("5", "5", "string"),
    ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}, "object"),
    ("[1, 2.5]", [1, 2.5], "array"),
    ("[not json", "[not json", "string"),
    (Decimal("1.10"), "1.10", "string"),
    ({"price": Decimal("99999999999999999999.99")}, {"price": "99999999999999999999.99"}, "object"),
    ({"at": _MOMENT}, {"at": "2026-03-04T03:06:07.000089+00:00"}, "object"),
    ({"at": datetime(2026, 3, 4, 5, 6)}, {"at": "2026-03-04T05:06:00"}, "object"),
    ({"on": date(2026, 3, 4), "at": time(5, 6)}, {"on": "2026-03-04", "at": "05:06:00"}, "object"),
    ({"id": _ID, "ids": [_ID]}, {"id": str(_ID), "ids": [str(_ID)]}, "object"),
    ([Colour.RED, Level.HIGH], ["red", 3], "array"),
    (Part("P-1", Decimal("2.5"), date(2026, 1, 1)), {"number": "P-1", "price": "2.5", "made": "2026-01-01"}, "object"),
    (Point(1, 2), [1, 2], "array"),
    ((1, (2, 3)), [1, [2, 3]], "array"),
    ({"tags": {"b", "a", "c"}}, {"tags": ["a", "b", "c"]}, "object"),
    ({"raw": b"\x00\xff"}, {"raw": {"$base64": "AP8="}}, "object"),
    ({3: "int", None: "none", True: "true"}, {"3": "int", "None": "none", "True": "true"}, "object"),
    ({2: "two", 2.5: "float"}, {"2": "two", "2.5": "float"}, "object"),
    ({"nul": "a\0b"}, {"nul": "a\\u0000b"}, "object"),
    ({"half": "a\ud83d"}, {"half": "a\\ud83d"}, "object"),
    (_cycle(), {"name": "ring", "self": "<cycle>"}, "object"),
    ({"odd": Odd()}, {"odd": _ODD}, "object"),
    ({"long": _LONG}, {"long": _LONG}, "object"),
    ([_LONG[:50_000], {"more": _LONG[:50_000]}], [_LONG[:50_000], {"more": _LONG[:50_000]}], "array"),
    (_deep(30), _deep(30), "object"),
    (list(range(500)), list(range(500)), "array"),
    ({f"key {n}": n for n in range(200)}, {f"key {n}": n for n in range(200)}, "object"),
    ({"日本語": "🚢⚓", "عربي": "ελληνικά"}, {"日本語": "🚢⚓", "عربي": "ελληνικά"}, "object"),
    ({"quotes": "\"'\\`", "lines": "a,\nb\r\n\u2028\t"}, {"quotes": "\"'\\`", "lines": "a,\nb\r\n\u2028\t"}, "object"),
    ({"": "empty key", "a.b": 1, "$ref": 2, "50%": 3}, {"": "empty key", "a.b": 1, "$ref": 2, "50%": 3}, "object"),
    ({"sql": "'; drop table x; --", "nothing": None}, {"sql": "'; drop table x; --", "nothing": None}, "object"),
    ({"user_password": "hunter2", "token_count": 3}, {"user_password": "[REDACTED]", "token_count": 3}, "object"),
    ([None, [None], {"a": None}], [None, [None], {"a": None}], "array"),
    ({"lines": [_LINE] * 3}, {"lines": [_LINE] * 3}, "object"),
]  # fmt: skip


@dataclasses.dataclass
class SaidEvent:
    """One event of the ten thousand, and when it was said."""

    number: int
    arguments: dict[str, Any]
    record_id: str = ""
    before: datetime = datetime.min
    after: datetime = datetime.min

    @property
    def shape(self) -> tuple[Any, Any, str | None]:
        return SHAPES[self.number % len(SHAPES)]

    def check(self, row: Mapping[str, Any]) -> None:
        """Compare with the row in the table, its documents decoded."""
        said = self.arguments
        counter = {"n": self.number}
        old, new = (self.shape[1], counter) if self._swapped else (counter, self.shape[1])
        assert {name: row[name] for name in row if name != "created_at"} == {
            "id": self.record_id,
            "yacht_id": YACHT,
            "entity_type": said["entity_type"],
            "action": said["action"],
            "entity_id": str(said["entity_id"]),
            "created_by": USER,
            "old_values": old,
            "new_values": new,
        }
        assert self.before <= row["created_at"] <= self.after

    @property
    def _swapped(self) -> bool:
        return self.number // len(SHAPES) % 2 == 1

    @property
    def types(self) -> dict[str, str | None]:
        """The types of both documents in jsonb."""
        old, new = ("object", self.shape[2])
        return {"old_values": new, "new_values": old} if self._swapped else {"old_values": old, "new_values": new}


def ten_thousand(count: int = 10_000) -> list[SaidEvent]:
    """Give events in which every shape comes as often, as new values and as old ones."""
    events = []
    for number in range(count):
        event = SaidEvent(number, {})
        documents = {"new_values": event.shape[0], "old_values": {"n": number}}
        if event._swapped:
            documents = {"new_values": {"n": number}, "old_values": event.shape[0]}
        event.arguments = arguments(action=f"action_{number % 7}", entity_id=uuid4(), **documents)
        events.append(event)
    return events


def check_all(events: Iterable[SaidEvent], rows: Iterable[Mapping[str, Any]]) -> None:
    """Compare what was said with the whole table."""
    by_id = {row["id"]: row for row in rows}
    events = list(events)
    assert len(by_id) == len(events)
    for event in events:
        event.check(by_id[event.record_id])


def now() -> datetime:
    return datetime.now(UTC)
