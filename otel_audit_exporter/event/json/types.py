"""What each Python type becomes in JSON, one level deep: the table of section "How values become JSON"."""

from __future__ import annotations

import dataclasses
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson

from otel_audit_exporter.event.json.libraries import named_reader, standard_reader
from otel_audit_exporter.event.json.objects import database_object_reader, plain_members, warn_once
from otel_audit_exporter.event.json.parser import JsonNumber, JsonObject
from otel_audit_exporter.event.json.shapes import UNPRINTABLE, Binary, Items, Members, Ready, Shape, StandIn, Text
from otel_audit_exporter.event.json.strings import json_string

_PLAIN_DEPTH = 4  # of containers in a member that is plain
_STR_SAFE_BITS = 2000  # str(int) works up to here under the lowest sys.set_int_max_str_digits (640 digits)


def shape_of(value: object, *, members: bool = True) -> Shape:
    """Return the JSON shape of any value; `"<unprintable>"` where the value's own code raises.

    `members` False records an object of the application's own by its text, not by its members.
    """
    try:
        cls: type = type(value)
        reader = _reader_for(cls)
        return _described(value) if reader is _object and not members else reader(value)
    except Exception:  # the event is recorded whatever foreign code raises
        return UNPRINTABLE


def is_opaque(value: object) -> bool:
    """Return whether only the text of a value is recorded. Two different values can have the same text."""
    try:
        cls: type = type(value)
        return _reader_for(cls) in (_object, _described) and not isinstance(_object(value), Members)
    except Exception:  # as in shape_of
        return True


def key_text(key: object) -> str:
    """Return the text of an object's key, before NUL and lone surrogates are made visible."""
    if type(key) is str:
        return key
    try:
        return _text_of_key(key)
    except Exception:  # as in shape_of
        return "<unprintable>"


def scalar_text(value: object) -> str:
    """Return the text of a Decimal, datetime, date, time or UUID."""
    if isinstance(value, datetime):
        return _datetime_text(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    return str(value)


def base64_object(data: bytes, cut: int = 0) -> bytes:
    """Return `{"$base64": ...}`, with the number of bytes that were cut off, if any."""
    marker = f',"$cut":"[{cut} bytes cut]"' if cut else ""
    return b'{"$base64":"%b"%b}' % (b64encode(data), marker.encode())


def _text_of_key(key: object) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    if type(key) is int:
        return _digits(key)
    if isinstance(key, bytes):
        return repr(key)  # what str() gives, without its BytesWarning
    return "".join((str(key),))  # join: str() may return a subclass


def _digits(number: int) -> str:
    return str(number) if number.bit_length() <= _STR_SAFE_BITS else str(Decimal(number))


def _datetime_text(value: datetime) -> str:
    if value.utcoffset() is None:
        return value.isoformat()
    try:
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    except (OverflowError, ValueError):  # within an offset of year 1 or 9999: as it was given
        return value.isoformat(timespec="microseconds")


def _constant(value: object) -> Shape:
    return Ready(orjson.dumps(value))


def _integer(value: int) -> Shape:
    return Ready(_digits(int.__int__(value)).encode())


def _float(value: float) -> Shape:
    number = float.__float__(value)
    if number - number == 0:
        return Ready(orjson.dumps(number))
    return Ready(b'"NaN"' if number != number else b'"Infinity"' if number > 0 else b'"-Infinity"')


def _number(value: JsonNumber) -> Shape:
    return Ready(value.text.encode())


def _text(value: str) -> Shape:
    return Text(str.__str__(value))


def _scalar(value: object) -> Shape:
    return Ready(json_string(scalar_text(value)))


def _binary(value: bytes | bytearray | memoryview) -> Shape:
    return Binary(bytes(value))


def _enum(value: Enum) -> Shape:
    return StandIn(value.value)


def _json_object(value: JsonObject) -> Shape:
    return Members(list(value), verbatim=True)


def _dict(value: dict[object, object]) -> Shape:
    return Members(list(dict.items(value)))


def _mapping(value: Mapping[object, object]) -> Shape:
    return Members([(key, held) for key, held in value.items()])


def _list(value: list[object]) -> Shape:
    return Items(list.copy(value))


def _tuple(value: tuple[object, ...]) -> Shape:
    return Items(list(tuple.__iter__(value)))


def _deque(value: deque[object]) -> Shape:
    return Items(list(deque.__iter__(value)))


def _set(value: set[object] | frozenset[object]) -> Shape:
    return Items(list(value), unordered=True)


def _dataclass(value: Any) -> Shape:
    names = [field.name for field in dataclasses.fields(value)]
    return Members([(name, _field(value, name)) for name in names])


def _field(value: object, name: str) -> object:
    try:
        return getattr(value, name)
    except Exception:  # a slot that was never filled, a property that fails: the other fields are recorded
        return "<unprintable>"


def _model(value: Any) -> Shape:
    try:
        return StandIn(_dumped(value))
    except Exception:  # a circle, too deep a nesting, one field's serializer
        names = [name for name, said in type(value).model_fields.items() if not said.exclude]
        return Members([(name, _field(value, name)) for name in names])


def _dumped(value: Any) -> object:
    try:
        return value.model_dump(warnings=False)  # pydantic's warnings show values, secrets among them
    except TypeError:  # a model_dump of another make
        return value.model_dump()


def _old_model(value: Any) -> Shape:
    return StandIn(value.dict())


def _object(value: object) -> Shape:
    pairs = plain_members(value, _is_plain)
    if pairs is not None:
        return Members(pairs)
    warn_once(
        type(value),
        "an audit event has no more of it than its text: name its values in old_values and new_values",
    )
    return _described(value)


def _is_plain(value: object, depth: int = _PLAIN_DEPTH) -> bool:
    """Say whether a value is recorded whole: a scalar, or a container or model of scalars."""
    cls: type = type(value)
    reader = _reader_for(cls)
    if reader is _object or reader is _described:
        return False
    if not issubclass(cls, _HOLDERS):
        return True
    held = value.values() if isinstance(value, Mapping) else value
    return depth > 0 and all(_is_plain(member, depth - 1) for member in list(held))  # type: ignore[call-overload]


def _described(value: object) -> Shape:
    cls = type(value)
    return Text("".join((f"<{cls.__module__}.{cls.__qualname__}> ", str(value))))


_Reader = Callable[[Any], Shape]
_HOLDERS: tuple[type, ...] = (Mapping, list, tuple, deque, set, frozenset)

_SCALARS: tuple[tuple[type | tuple[type, ...], _Reader], ...] = (
    (JsonNumber, _number),
    (JsonObject, _json_object),
    ((type(None), bool), _constant),
    (Enum, _enum),
    (str, _text),
    (int, _integer),
    (float, _float),
    ((Decimal, datetime, date, time, UUID), _scalar),
    ((bytes, bytearray, memoryview), _binary),
)
# Of these the text is what there is to say.
_KNOWN_BY_TEXT: tuple[type, ...] = (BaseException, range)
_CONTAINERS: tuple[tuple[type | tuple[type, ...], _Reader], ...] = (
    (dict, _dict),
    (list, _list),
    (tuple, _tuple),
    (deque, _deque),
    ((set, frozenset), _set),
    (Mapping, _mapping),
)


@lru_cache(maxsize=1024)
def _reader_for(cls: type) -> _Reader:
    """Choose by the class alone, so that an object which answers to every attribute cannot mislead."""
    return (
        named_reader(cls)
        or _listed(cls, _SCALARS)
        or database_object_reader(cls)
        or _by_attributes(cls)
        or _listed(cls, _CONTAINERS)
        or standard_reader(cls)
        or (_described if issubclass(cls, _KNOWN_BY_TEXT) else _object)
    )


def _listed(cls: type, table: tuple[tuple[type | tuple[type, ...], _Reader], ...]) -> _Reader | None:
    return next((reader for bases, reader in table if issubclass(cls, bases)), None)


def _by_attributes(cls: type) -> _Reader | None:
    if dataclasses.is_dataclass(cls):
        return _dataclass
    if callable(getattr(cls, "model_dump", None)):
        return _model
    if hasattr(cls, "__fields__") and callable(getattr(cls, "dict", None)):
        return _old_model
    return None
