"""How values become JSON."""

from __future__ import annotations

import copy
import json
import math
import sys
import threading
import uuid
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, NoReturn
from unittest.mock import MagicMock

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_audit_exporter.event.json.encoder import Encoder, quick_json
from otel_audit_exporter.event.json.fallback_encoder import ValueWalk
from otel_audit_exporter.event.json.parser import (
    NOT_JSON,
    JsonNumber,
    JsonObject,
    _DeepParser,
    _PlainParser,
    parse_json,
    plain_json,
)
from otel_audit_exporter.event.redaction import REDACTED, Redactor

SECRET = "hunter2-hunter2"
ENCODER = Encoder(Redactor())
USUAL = {"status": "received", "quantity": 3, "notes": "ok", "unit_price": 1.5, "tags": ["a", "b"]}


def encoded(value: object) -> Any:
    return json.loads(ENCODER.value(value))


def walked(value: object, redactor: Redactor | None = None) -> bytes:
    return ValueWalk(redactor or Redactor(), None).run(value)


class Broken:
    """Every way of looking at it raises."""

    def __str__(self) -> NoReturn:
        raise RuntimeError("broken")

    __iter__ = __str__

    def __repr__(self) -> str:
        return "Broken()"


class Colour(Enum):
    RED = "red"
    LIST = ("a", Decimal("1.10"))


class Level(IntEnum):
    HIGH = 3


class Kind(StrEnum):
    PART = "part"


@dataclass
class Part:
    name: str
    price: Decimal = Decimal("1.10")
    _internal: int = 7
    password: str = field(default=SECRET, repr=False)


@dataclass(slots=True)
class Slotted:
    filled: int
    empty: int = field(init=False, repr=False)


Point = namedtuple("Point", "x y")


class Model:
    def __init__(self, dumped: object) -> None:
        self._dumped = dumped

    def model_dump(self) -> object:
        if isinstance(self._dumped, Exception):
            raise self._dumped
        return self._dumped


class OldModel:
    __fields__ = ("a",)

    def dict(self) -> dict[str, object]:
        return {"a": date(2026, 1, 2)}


class BrokenMapping(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise RuntimeError("broken")

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1

    def __str__(self) -> str:
        return f"password={SECRET}"


class Text(str):
    __slots__ = ()

    def __str__(self) -> NoReturn:
        raise RuntimeError("broken")


class Number(int):
    def __str__(self) -> NoReturn:
        raise RuntimeError("broken")

    __int__ = __str__


class Ratio(float):
    def __str__(self) -> NoReturn:
        raise RuntimeError("broken")

    __float__ = __str__


class Members(dict[str, Any]):
    def items(self) -> NoReturn:
        raise RuntimeError("broken")


class Row(list[Any]):
    def __iter__(self) -> NoReturn:
        raise RuntimeError("broken")


class BrokenZone(tzinfo):
    def utcoffset(self, _: datetime | None) -> NoReturn:
        raise RuntimeError("broken")

    tzname = dst = utcoffset


class Thing:
    def __str__(self) -> str:
        return "a thing"


ID = uuid.UUID("018f0000-0000-7000-8000-000000000001")
NOON = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
THING = f"<{__name__}.Thing> a thing"


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (None, None),
        (True, True),
        (0, 0),
        ("text", "text"),
        ("", ""),
        (1.5, 1.5),
        (Decimal("1.10"), "1.10"),
        (Decimal("NaN"), "NaN"),
        (Decimal("sNaN"), "sNaN"),
        (NOON, "2026-07-01T10:00:00.000000+00:00"),
        (NOON.replace(tzinfo=UTC, microsecond=5), "2026-07-01T12:00:00.000005+00:00"),
        (datetime(2026, 7, 1, 12), "2026-07-01T12:00:00"),
        (datetime.min.replace(tzinfo=NOON.tzinfo), "0001-01-01T00:00:00.000000+02:00"),
        (date(2026, 7, 1), "2026-07-01"),
        (time(12, 30), "12:30:00"),
        (ID, str(ID)),
        (Colour.RED, "red"),
        (Colour.LIST, ["a", "1.10"]),
        (Level.HIGH, 3),
        (Kind.PART, "part"),
        ({Kind.PART: 1, Level.HIGH: 2, Colour.RED: 3}, {"part": 1, "3": 2, "Colour.RED": 3}),
        (Part("bolt"), {"name": "bolt", "price": "1.10", "_internal": 7, "password": REDACTED}),
        (Slotted(1), {"filled": 1, "empty": "<unprintable>"}),
        (Point(1, Decimal(2)), [1, "2"]),
        (Model({"at": NOON, "token": SECRET}), {"at": "2026-07-01T10:00:00.000000+00:00", "token": REDACTED}),
        (Model([1, {2}]), [1, [2]]),
        (OldModel(), {"a": "2026-01-02"}),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(int, a=1), {"a": 1}),
        (UserDict(a={"b": 1}), {"a": {"b": 1}}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ((1, 2), [1, 2]),
        (deque([1, 2]), [1, 2]),
        ({"b", "a", "a b"}, ["a", "a b", "b"]),
        (frozenset({2, 10, 1}), [1, 10, 2]),
        ({"b", 1, ("c", 2)}, [1, ["c", 2], "b"]),
        (b"\x00\xff", {"$base64": "AP8="}),
        (bytearray(b"a"), {"$base64": "YQ=="}),
        (memoryview(b"abcd")[::2], {"$base64": "YWM="}),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (2**70, 2**70),
        (-(2**63), -(2**63)),
        ({1: "a", None: "b", 2.5: "c", False: "d"}, {"1": "a", "None": "b", "2.5": "c", "False": "d"}),
        ({(1, "x"): 1, ID: 2}, {"(1, 'x')": 1, str(ID): 2}),
        ("a\x00b\ud800c", "a\\u0000b\\ud800c"),
        ({"k\x00\udfff": "v"}, {"k\\u0000\\udfff": "v"}),
        (Thing(), THING),
        (Broken(), "<unprintable>"),
        ({Broken(): 1}, {"<unprintable>": 1}),
        (BrokenMapping(), "<unprintable>"),
        (Model(ValueError("no")), "<unprintable>"),
        (datetime(2026, 7, 1, tzinfo=BrokenZone()), "<unprintable>"),
        (timedelta(days=1), "P1D"),
        (range(3), "<builtins.range> range(0, 3)"),
        (Part, f"<builtins.type> {Part}"),
        (Text("text"), "text"),
        (Number(7), 7),
        (Ratio(1.5), 1.5),
        (Ratio("nan"), "NaN"),
        (Members(a=1), {"a": 1}),
        (Row([1]), [1]),
        ({Text("k"): 1, Number(7): 2}, {"k": 1, "<unprintable>": 2}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_value_is_recorded_as_the_design_has_it(value: object, recorded: object) -> None:
    assert encoded(value) == recorded
    assert encoded({"a": [value]}) == {"a": [recorded]}


def test_the_json_is_compact_utf_8() -> None:
    assert ENCODER.value({"a": ["é", 1.0, None]}) == '{"a":["é",1.0,null]}'.encode()


def test_ordinary_values_use_the_quick_encoder() -> None:
    at = {"id": ID, "at": NOON, "price": Decimal("1.10"), "nested": [{"a": (1, 2)}]}
    for value in (USUAL, at, [USUAL], json.loads(json.dumps(USUAL))):
        assert quick_json(value, Redactor()) == walked(value) == ENCODER.value(value)


def test_a_short_text_becomes_a_json_string_that_postgresql_takes() -> None:
    assert ENCODER.text('a"\n') == b'"a\\"\\n"'
    assert ENCODER.text("\x00\ud800") == b'"\\\\u0000\\\\ud800"'
    assert ENCODER.text('{"a":1}') == b'"{\\"a\\":1}"'
    assert ENCODER.text("\\u0000") == b'"\\\\u0000"'


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('{"a": 1}', '{"a":1}'),
        (" \n[1,\r\n2]\t", "[1,2]"),
        ("[1.10, 2.0, 1e400, 1E5, -0, -0.0, 0.1]", "[1.10,2.0,1e400,1E5,-0,-0.0,0.1]"),
        (f"[{2**70}, {'9' * 5000}]", f"[{2**70},{'9' * 5000}]"),
        ('{"a": 1, "a": 2.50}', '{"a":1,"a":2.50}'),
        ('["\\u0000", "\\ud800"]', '["\\\\u0000","\\\\ud800"]'),
        ('["\\ud83d\\ude00"]', '["\U0001f600"]'),
        (
            '{"token": "x", "b": "{\\"token\\": 1}"}',
            '{"token":"[REDACTED]","b":"{\\"token\\":\\"[REDACTED]\\"}"}',
        ),
        ('{"token": null}', '{"token":null}'),
        ("{}", "{}"),
        ("[]", "[]"),
    ],
)
def test_text_holding_a_json_object_or_array_is_stored_as_json(text: str, written: str) -> None:
    assert ENCODER.value(text) == written.encode()
    assert ENCODER.value(Text(text)) == written.encode()


@pytest.mark.parametrize(
    "text",
    ["1", "null", "true", '"a"', "", " ", "{", "[1,]", "{'a': 1}", "[NaN]", '{"a": -Infinity}', '["\n"]',
     "[1] x", "{1: 2}", "[01]", "\ufeff[]", "\xa0[]", '{"a" 1}', "[1 2]", "]"],
)  # fmt: skip
def test_any_other_text_is_a_json_string(text: str) -> None:
    assert encoded(text) == text


def test_a_nested_text_stays_a_text_whatever_it_holds() -> None:
    assert encoded({"a": '{"b": 1}', "c": ["[1.10]"]}) == {"a": '{"b": 1}', "c": ["[1.10]"]}


def test_a_cycle_is_marked_but_a_repeated_value_is_not() -> None:
    twice = ["x"]
    cycle: dict[str, Any] = {"twice": [twice, twice]}
    cycle["self"] = {"again": (cycle,)}
    part: Any = Part("a")
    part.name = [part]
    model: Any = Model({})
    model._dumped = {"self": model}
    assert encoded(cycle) == {"twice": [["x"], ["x"]], "self": {"again": ["<cycle>"]}}
    assert encoded(part)["name"] == ["<cycle>"]
    assert encoded(model) == {"self": "<cycle>"}


def test_a_model_that_stands_for_itself_is_no_endless_loop() -> None:
    model = Model(None)
    model._dumped = model
    assert encoded(model) == "<unprintable>"


def test_an_integer_beyond_the_limit_of_python_is_a_number() -> None:
    number = 10**5000 + 7
    assert ENCODER.value([number, -number]) == b"[1%b7,-1%b7]" % (b"0" * 4999, b"0" * 4999)
    assert ENCODER.value({number: 1}).startswith(b'{"1000')


def test_integers_are_numbers_even_with_pythons_lowest_digit_limit() -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert ENCODER.value(10**700) == b"1" + b"0" * 700
    finally:
        sys.set_int_max_str_digits(before)


def test_different_keys_with_the_same_text_are_all_kept() -> None:
    assert encoded({1: "a", "1": "b", "1 #2": "c"}) == {"1": "a", "1 #3": "b", "1 #2": "c"}
    assert encoded({"\x00": "a", "\\u0000": "b"}) == {"\\u0000": "a", "\\u0000 #2": "b"}
    assert encoded({1: "a", "token": SECRET, Text("1"): "b"}) == {"1": "a", "token": REDACTED, "1 #2": "b"}


def test_any_depth_is_recorded() -> None:
    value: Any = "end"
    for index in range(50_000):
        value = {"a": value} if index % 2 else [value]
    written = ENCODER.value(value)
    assert written == b'{"a":[' * 25_000 + b'"end"' + b"]}" * 25_000


@pytest.mark.parametrize("depth", [10, 500, 2_000, 20_000])
def test_json_text_of_any_depth_is_stored_as_json_and_redacted(depth: int) -> None:
    text = '[{"a": ' * depth + f'{{"password": "{SECRET}", "n": [1.10, -3, "x", true]}}' + "}]" * depth
    inner = b'{"password":"[REDACTED]","n":[1.10,-3,"x",true]}'
    written = ENCODER.value(text)
    assert written == b'[{"a":' * depth + inner + b"}]" * depth
    assert SECRET not in ENCODER.value({"a": text}).decode()


def test_deep_text_that_is_no_json_after_all_is_a_string() -> None:
    for text in (
        "[" * 50_000,
        "[" * 50_000 + "]" * 50_001,
        '{"a":' * 50_000,
        "[" * 50_000 + "," + "]" * 50_000,
    ):
        assert ENCODER.value(text) == orjson.dumps(text)


def test_the_result_is_a_snapshot() -> None:
    value: dict[str, Any] = {"a": [1], "b": bytearray(b"x")}
    written = ENCODER.value(value)
    before = bytes(written)
    value["a"].append(2)
    value.clear()
    assert written == before == b'{"a":[1],"b":{"$base64":"eA=="}}'


def test_the_input_is_left_as_it_was() -> None:
    value = {"password": SECRET, "a": [{"token": SECRET}], "t": f'{{"token": "{SECRET}"}}', "s": {1, 2}}
    before = copy.deepcopy(value)
    ENCODER.value(value)
    assert value == before


def test_a_value_that_another_thread_changes_meanwhile_is_still_recorded() -> None:
    value: dict[str, Any] = {str(index): index for index in range(200)}
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            value["more"] = 1.0
            value.pop("more", None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            assert encoded(value)["199"] == 199
            assert json.loads(walked(value))["199"] == 199
    finally:
        over.set()
        thread.join()


def test_an_object_that_has_every_attribute_is_judged_by_its_class() -> None:
    assert encoded(MagicMock(name="db")).startswith("<unittest.mock.MagicMock> <MagicMock name='db'")
    assert encoded(MagicMock(spec=dict)).startswith("<unittest.mock.MagicMock>")


def test_json_of_a_users_own_making_cannot_be_smuggled_in() -> None:
    assert encoded([orjson.Fragment(b'broken\n"')])[0].startswith("<orjson.Fragment>")


def test_an_unfilled_uuid_does_not_crash_the_process() -> None:
    assert encoded({"a": object.__new__(uuid.UUID)}) == {"a": "<unprintable>"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_swallowed(error: type[BaseException]) -> None:
    class Interrupting:
        def __str__(self) -> NoReturn:
            raise error

    with pytest.raises(error):
        ENCODER.value(Interrupting())


def test_pydantic_models_are_objects_and_their_fields_are_redacted() -> None:
    pydantic = pytest.importorskip("pydantic")

    class User(pydantic.BaseModel):  # type: ignore[misc,name-defined]  # a module found at run time
        name: str
        password: str
        at: datetime
        card: pydantic.SecretStr  # type: ignore[name-defined]  # the same

    user = User(name="a", password=SECRET, at=NOON, card="4111")
    assert encoded({"users": [user]}) == {
        "users": [
            {
                "name": "a",
                "password": REDACTED,
                "at": "2026-07-01T10:00:00.000000+00:00",
                "card": "<pydantic.types.SecretStr> **********",
            }
        ]
    }


def test_a_cyclic_or_unserializable_pydantic_model_keeps_its_fields() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Node(pydantic.BaseModel):  # type: ignore[misc,name-defined]  # a module found at run time
        name: str
        token: str = SECRET
        hidden: int = pydantic.Field(default=1, exclude=True)
        inside: list[Node] = pydantic.Field(default_factory=list)

        @pydantic.field_serializer("name")  # type: ignore[untyped-decorator]  # the same
        def _name(self, name: str) -> str:
            return name + 1 if name == "bad" else name  # type: ignore[operator]  # the point of the test

    node = Node(name="a")
    node.inside.append(node)
    assert encoded(node) == {"name": "a", "token": REDACTED, "inside": ["<cycle>"]}
    assert encoded([Node(name="bad")]) == [{"name": "bad", "token": REDACTED, "inside": []}]


@pytest.mark.filterwarnings("error")
def test_a_pydantic_model_with_a_mistyped_value_gives_no_warning() -> None:
    """A warning would show the value."""
    pydantic = pytest.importorskip("pydantic")

    class User(pydantic.BaseModel):  # type: ignore[misc,name-defined]  # a module found at run time
        password: str

    user = User(password="x")
    user.password = 12345  # type: ignore[assignment]  # what goes wrong in applications
    assert encoded({"user": user}) == {"user": {"password": REDACTED}}


@pytest.mark.parametrize(
    "value",
    [
        {"password": SECRET},
        {"password": {"a": [SECRET]}, "b": 1},
        [{"a": ({"X-Api-Key": SECRET},)}],
        {b"authorization": SECRET},
        {Kind.PART: {"user": MappingProxyType({"cookie": SECRET})}},
        Part("bolt"),
        {Point(1, 2): {Colour.RED: Model({"apiKey": SECRET})}},
        json.dumps({"password": SECRET}),
        {"body": json.dumps({"a": [{"password": SECRET}]})},
        {"body": "  " + json.dumps([{"body": json.dumps({"body": json.dumps({"password": SECRET})})}])},
        {"body": f'{{"password": "{SECRET}", "password": null}}'},
        f'{{"password": "{SECRET}", "password": null}}',
        f'{{"password": "{SECRET}", "rate": NaN}}',
        {"body": f'{{"password": "{SECRET}", "rate": [Infinity, -Infinity, NaN]}}'},
        {"body": f'{{"note": "a\nb", "password": "{SECRET}"}}'},
        {"body": json.dumps(json.dumps({"password": SECRET}))},
        {"password\x00": SECRET},
        {1: 1, "1": {"token": SECRET}},
        {"password": Broken()},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_secret_is_redacted_wherever_its_key_stands(value: object) -> None:
    written = ENCODER.value(value).decode()
    assert REDACTED in written
    assert SECRET not in written


def test_a_text_with_json_is_rewritten_only_where_something_was_redacted() -> None:
    text = '{ "token_count": 1.10, "a": "\\u00e9" }'
    assert encoded({"a": text}) == {"a": text}
    assert encoded({"a": '"a quoted {word}"'}) == {"a": '"a quoted {word}"'}
    secret = '{ "token": "x", "n": 1.10, "r": NaN }'
    assert encoded({"a": secret}) == {"a": '{"token":"[REDACTED]","n":1.10,"r":NaN}'}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 300_000 + "]" * 300_000,
        "[" * 300_000,
        "[" + ",".join(["[]"] * 300_000) + "]",
        json.dumps([{"name": "x", "count": number, "tags": [1.5, None]} for number in range(50_000)]),
    ],
    ids=["nested", "never closed", "lists", "objects"],
)
def test_a_text_with_json_that_hides_nothing_is_walked_by_nobody(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("walked")

    expected = orjson.dumps([text])
    walk = ValueWalk(Redactor(), None)
    monkeypatch.setattr("otel_audit_exporter.event.json.fallback_encoder.ValueWalk", refuse)
    assert walk.run([text]) == expected


def test_nothing_under_a_hidden_key_is_shown_as_nothing() -> None:
    assert encoded({"password": None, "token": ""}) == {"password": None, "token": REDACTED}


def test_without_a_redactor_or_with_an_empty_list_nothing_is_hidden() -> None:
    value = {"password": "x", "body": '{"token": "x"}', 1: 2}
    plain = {"password": "x", "body": '{"token": "x"}', "1": 2}
    assert json.loads(Encoder().value(value)) == json.loads(Encoder(Redactor(())).value(value)) == plain


def test_the_hook_sees_every_unredacted_value_with_its_path() -> None:
    seen: list[tuple[tuple[str, ...], object]] = []

    def hook(path: tuple[str, ...], value: object) -> object:
        seen.append((path, value))
        return "****" if value == "4111" else value

    value = {"card": ["4111"], "token": "4111", "body": '{"n": [1.10, "4111"]}', "last": Colour.RED}
    assert json.loads(Encoder(Redactor(hook=hook)).value(value)) == {
        "card": ["****"],
        "token": REDACTED,
        "body": '{"n":[1.10,"****"]}',
        "last": "red",
    }
    assert [(path, shown) for path, shown in seen if not isinstance(shown, (dict, list))] == [
        (("card",), "4111"),
        (("body",), '{"n": [1.10, "4111"]}'),
        (("body", "n"), Decimal("1.10")),
        (("body", "n"), "4111"),
        (("last",), Colour.RED),
    ]
    assert seen[0] == ((), value)


def test_the_hook_sees_a_bare_text_and_text_inside_json() -> None:
    encoder = Encoder(Redactor(hook=lambda path, value: "****" if value == "4111" else value))
    assert encoder.value("4111") == b'"****"'
    assert encoder.value('{"a": "4111", "n": 1.10, "big": 1e99999999999999999999}') == (
        b'{"a":"****","n":1.10,"big":1e99999999999999999999}'
    )


def test_what_the_hook_returns_is_recorded_without_asking_again() -> None:
    encoder = Encoder(Redactor(hook=lambda path, value: {"was": value, "token": SECRET} if path else value))
    assert json.loads(encoder.value({"a": [1]})) == {"a": {"was": [1], "token": REDACTED}}


def test_a_hook_that_raises_loses_the_value_and_keeps_the_event() -> None:
    def hook(path: tuple[str, ...], value: object) -> object:
        if path == ("a",):
            raise ValueError(value)
        return value

    assert json.loads(Encoder(Redactor(hook=hook)).value({"a": SECRET, "b": 1})) == {"a": REDACTED, "b": 1}


def test_a_value_over_the_limit_is_cut_and_says_how_much() -> None:
    encoder = Encoder(Redactor(), max_value_bytes=10)
    assert encoder.value("a" * 10) == b'"aaaaaaaaaa"'
    assert encoder.value("a" * 25) == b'"aaaaaaaaaa[15 bytes cut]"'
    assert json.loads(encoder.value({"a": ["é" * 10 + "x"]})) == {"a": ["ééééé[11 bytes cut]"]}
    assert json.loads(encoder.value("aaaaaaaaaé")) == "aaaaaaaaa[2 bytes cut]"
    assert json.loads(encoder.value(b"x" * 12)) == {"$base64": "eHh4eHh4eHh4eA==", "$cut": "[2 bytes cut]"}
    assert json.loads(encoder.value({"password": "x", "n": 10**20})) == {"password": REDACTED, "n": 10**20}
    assert json.loads(encoder.value({"body": f'{{"password":"{SECRET}"}}'})) == {"body": '{"password[15 bytes cut]'}


def test_without_a_limit_nothing_is_cut() -> None:
    assert encoded({"a": "x" * 1_000_000}) == {"a": "x" * 1_000_000}


# -- properties ---------------------------------------------------------------------------------------------

any_text = st.text(st.characters(exclude_categories=())) | st.sampled_from(["{", '["a"]', '{"token": 1}', " [1.10]"])
storable_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
finite = st.floats(allow_nan=False, allow_infinity=False)
json_native = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | finite | storable_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(storable_text, inner, max_size=4),
    max_leaves=20,
)
odd = [*Colour, *Level, *Kind, Thing(), Broken(), 10**1000, Text("[1]"), Number(1), Ratio("inf")]
hashables = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), any_text, st.binary(), st.decimals(allow_nan=False),
    st.uuids(), st.dates(), st.times(), st.datetimes(), st.datetimes(timezones=st.timezones()),
    st.sampled_from(odd),
)  # fmt: skip
keys = any_text | st.sampled_from(["password", "apiKey", "token_count"]) | hashables
anything = st.recursive(
    hashables | st.builds(Part, any_text) | st.sampled_from([BrokenMapping(), Slotted(1), bytearray(b"a")]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(keys, inner, max_size=4)
    | st.lists(inner, max_size=4).map(tuple)
    | st.lists(inner, max_size=4).map(deque)
    | st.sets(hashables, max_size=4)
    | st.dictionaries(keys, inner, max_size=4).map(MappingProxyType)
    | st.builds(Part, inner, inner)
    | st.builds(Model, inner)
    | json_native.map(json.dumps),
    max_leaves=20,
)  # fmt: skip


def no_constants(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


@settings(max_examples=400)
@given(anything, st.booleans(), st.none() | st.integers(0, 50))
def test_whatever_comes_becomes_one_line_of_valid_json(value: object, redacted: bool, limit: int | None) -> None:
    written = Encoder(Redactor() if redacted else None, limit).value(value)
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        json.loads(written.decode("utf-8"), parse_constant=no_constants)
    finally:
        sys.set_int_max_str_digits(before)
    assert b"\n" not in written
    assert b"\r" not in written
    assert b"\\u0000" not in written.replace(b"\\\\", b"")
    assert b"\\ud" not in written.replace(b"\\\\", b"")


@given(any_text)
def test_any_text_becomes_one_line_of_valid_json(text: str) -> None:
    for written in (ENCODER.text(text), ENCODER.value([text])):
        json.loads(written.decode("utf-8"))
        assert b"\n" not in written


@given(json_native)
def test_what_json_knows_comes_back_as_it_was(value: object) -> None:
    plain = Encoder()
    if not isinstance(value, str):
        assert json.loads(plain.value(value)) == value
    assert json.loads(plain.value([value])) == [value]


@settings(max_examples=400)
@given(anything | json_native, st.booleans())
def test_both_roads_write_the_same_bytes(value: object, redacted: bool) -> None:
    redactor = Redactor() if redacted else Redactor(())
    quick = quick_json(value, redactor)
    assert quick is None or quick == walked(value, redactor)
    assert quick_json([value], redactor) in (None, walked([value], redactor))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_written_with_its_shortest_digits_on_both_roads(number: float) -> None:
    assert ENCODER.value([number]) == walked([number])
    assert json.loads(ENCODER.value([number])) == [number]


@given(st.lists(st.sampled_from([0, 1, 4]), max_size=8), st.lists(st.integers(2, 8), max_size=8))
def test_redaction_leaves_no_secret_at_any_depth(inside: list[int], outside: list[int]) -> None:
    value: Any = {"user_password": SECRET}
    for how in inside:
        value = json.dumps(value) if how == 1 else {"a": value} if how == 0 else [value]
    wrappers: dict[int, Any] = {
        2: Part, 3: lambda held: {1: held}, 4: lambda held: [held], 5: lambda held: (1, held),
        6: lambda held: deque([held]), 7: lambda held: Model({"m": held}), 8: lambda held: UserDict(u=held),
    }  # fmt: skip
    for how in outside:
        value = wrappers[how](value)
    written = ENCODER.value(value).decode()
    assert SECRET not in written
    assert REDACTED in written


@given(json_native | st.lists(st.floats()))
def test_text_is_parsed_the_same_at_any_depth(value: object) -> None:
    text = json.dumps([value, {"a": 1.5}], indent=1)
    for lenient in (False, True):
        parsed = parse_json(text, lenient=lenient)
        if parsed is not NOT_JSON:
            assert shape(_DeepParser(text, lenient).parse()) == shape(parsed)
        else:
            with pytest.raises(ValueError, match=r".+"):
                _DeepParser(text, lenient).parse()


@given(json_native | st.integers() | st.lists(finite))
def test_a_document_parses_as_with_pythons_own_decoder_at_any_depth(value: object) -> None:
    text = json.dumps([value, {"a": 1, "a ": 1.5}], indent=1)
    repeated = text.replace('"a "', '"a"')
    for said in (text, repeated):
        expected = json.loads(said)
        assert plain_json(said) == _PlainParser(said, lenient=False).parse() == expected
        assert repr(plain_json(said)) == repr(expected)


def test_documents_of_any_depth_with_huge_integers_are_read() -> None:
    number = 10**5000 + 7
    value = plain_json("[" * 20_000 + ENCODER.value(number).decode() + "]" * 20_000)
    for _ in range(20_000):
        [value] = value  # type: ignore[misc]  # a list
    assert value == number
    for wrong in ("", "[", "NaN", "[1] 2", "[" * 20_000):
        with pytest.raises(ValueError, match=r".+"):
            plain_json(wrong)


@given(st.text('[]{}",:0123456789.-+eEtruefalsnNIy \n\\', max_size=12).map(lambda text: f"[{text}]"))
def test_the_parser_for_any_depth_agrees_with_the_usual_one(text: str) -> None:
    for lenient in (False, True):
        usual = parse_json(text, lenient=lenient)
        try:
            deep = _DeepParser(text, lenient).parse()
        except ValueError:
            deep = NOT_JSON
        assert shape(deep) == shape(usual)


def shape(value: object) -> object:
    if isinstance(value, JsonNumber):
        return ("number", value.text)
    if isinstance(value, JsonObject):
        return ("object", [(key, shape(held)) for key, held in value])
    if isinstance(value, dict):
        return {key: shape(held) for key, held in value.items()}
    return [shape(held) for held in value] if isinstance(value, list) else value
