"""JSON that arrives as text, read without losing a digit, a repeated key or a level of its depth."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from json.decoder import scanstring  # type: ignore[attr-defined]  # public in effect, missing in typeshed
from typing import Any

import orjson

NOT_JSON = object()
JSON_OPENERS = frozenset('{["' + " \t\n\r")  # a text that starts otherwise need not be looked at

_SHORT_INT = 18  # so many digits always fit 64 bits
_INT_SAFE_DIGITS = 640  # int(str) works up to here under the lowest sys.set_int_max_str_digits
_SPACE = " \t\n\r"
_TOKEN = re.compile(
    r"[ \t\n\r]*(?:(?P<mark>[\[\]{},:])|(?P<quote>\")|(?P<constant>NaN|-?Infinity)|(?P<word>true|false|null)"
    r"|(?P<number>-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][-+]?[0-9]+)?))"
)
_CLOSING = {"[": "]", "{": "}"}
_CLOSERS = {**_CLOSING, '"': '"'}
_WORDS = {"true": True, "false": False, "null": None}


class JsonNumber:
    """A number that Python's own types would not write back as it was given, such as 1.10 or 1e400."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class JsonObject(list[tuple[str, Any]]):
    """The members of an object whose keys repeat, all of them and in order."""

    __slots__ = ()


def parse_json(text: str, *, lenient: bool = False) -> object:
    """Return the value of a text whose JSON is an object or an array, and `NOT_JSON` for any other text.

    `lenient` is for looking for secrets: it also takes a JSON string, which is what JSON encoded twice looks
    like, and what is not JSON but often passes for it: NaN, Infinity and raw control characters.
    """
    opener = text.lstrip(_SPACE)[:1]
    if opener not in ('{["' if lenient else "{[") or text.rstrip(_SPACE)[-1:] != _CLOSERS.get(opener):
        return NOT_JSON
    decoder = _LENIENT if lenient else _STRICT
    try:
        return decoder.decode(text)
    except RecursionError:
        return _parse_deep(text, lenient)
    except ValueError:
        return NOT_JSON


def plain_json(text: str) -> object:
    """Return the value of any JSON document in Python's own types, integers of any size and any depth included.

    A number with a fraction or an exponent is a float; of repeated keys the last counts. Raises ValueError for
    what is no JSON document.
    """
    try:
        return _PLAIN.decode(text)
    except RecursionError:
        return _PlainParser(text, lenient=False).parse()


def _any_int(text: str) -> int:
    return int(text) if len(text) <= _INT_SAFE_DIGITS else int(Decimal(text))


def _exact_int(text: str) -> object:
    return int(text) if len(text) <= _SHORT_INT and text != "-0" else JsonNumber(text)


def _exact_float(text: str) -> object:
    number = float(text)
    return number if orjson.dumps(number) == text.encode() else JsonNumber(text)


def _object(pairs: list[tuple[str, Any]]) -> object:
    members = dict(pairs)
    return members if len(members) == len(pairs) else JsonObject(pairs)


def _refuse(constant: str) -> object:
    raise ValueError(constant)


def _decoder(*, strict: bool) -> json.JSONDecoder:
    return json.JSONDecoder(
        strict=strict,
        parse_int=_exact_int,
        parse_float=_exact_float,
        parse_constant=_refuse if strict else JsonNumber,
        object_pairs_hook=_object,
    )


_STRICT = _decoder(strict=True)
_LENIENT = _decoder(strict=False)
_PLAIN = json.JSONDecoder(parse_int=_any_int, parse_constant=_refuse)


def _parse_deep(text: str, lenient: bool) -> object:
    try:
        return _DeepParser(text, lenient).parse()
    except ValueError:
        return NOT_JSON


class _Level:
    """An array or an object that is not closed yet."""

    __slots__ = ("closing", "held", "key")

    def __init__(self, closing: str) -> None:
        self.closing = closing
        self.held: list[Any] = []
        self.key = ""

    def add(self, value: object) -> None:
        self.held.append((self.key, value) if self.closing == "}" else value)

    def finished(self) -> object:
        return _object(self.held) if self.closing == "}" else self.held


class _DeepParser:
    """The same language as the decoders above, without recursion: for depths that they give up on."""

    def __init__(self, text: str, lenient: bool) -> None:
        self._text = text
        self._lenient = lenient
        self._at = 0
        self._open: list[_Level] = []
        self._root: object = NOT_JSON

    def parse(self) -> object:
        """Read the whole text; a ValueError says that it is not JSON."""
        self._value(self._next())
        while self._open:
            self._step(self._open[-1])
        if self._text[self._at :].strip(_SPACE):
            raise ValueError("something follows the value")
        return self._root

    def _step(self, level: _Level) -> None:
        token = self._next()
        if token["mark"] == level.closing:
            self._open.pop()
            self._add(level.finished())
            return
        if level.held:
            self._expect(",", token)
            token = self._next()
        if level.closing == "}":
            level.key = self._string(token)
            self._expect(":", self._next())
            token = self._next()
        self._value(token)

    def _value(self, token: re.Match[str]) -> None:
        if token["mark"] in _CLOSING:
            self._open.append(_Level(_CLOSING[token["mark"]]))
        else:
            self._add(self._scalar(token))

    def _add(self, value: object) -> None:
        if self._open:
            self._open[-1].add(value)
        else:
            self._root = value

    def _scalar(self, token: re.Match[str]) -> object:
        if number := token["number"]:
            return _exact_float(number) if token["fraction"] or token["exponent"] else _exact_int(number)
        if word := token["word"]:
            return _WORDS[word]
        if constant := token["constant"]:
            return JsonNumber(constant) if self._lenient else _refuse(constant)
        return self._string(token)

    def _string(self, token: re.Match[str]) -> str:
        self._expect('"', token)
        value, self._at = scanstring(self._text, token.end(), not self._lenient)
        return str(value)

    def _expect(self, mark: str, token: re.Match[str]) -> None:
        if (token["mark"] or token["quote"]) != mark:
            raise ValueError(f"no {mark}")

    def _next(self) -> re.Match[str]:
        token = _TOKEN.match(self._text, self._at)
        if token is None:
            raise ValueError("no token")
        self._at = token.end()
        return token


class _PlainParser(_DeepParser):
    """The same for `plain_json`."""

    def _add(self, value: object) -> None:
        super()._add(dict(value) if isinstance(value, JsonObject) else value)

    def _scalar(self, token: re.Match[str]) -> object:
        if number := token["number"]:
            return float(number) if token["fraction"] or token["exponent"] else _any_int(number)
        return super()._scalar(token)
