"""Values to JSON bytes, once, at the call."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from otel_audit_exporter.event.json.fallback_encoder import ValueWalk
from otel_audit_exporter.event.json.parser import JSON_OPENERS, NOT_JSON, JsonNumber, parse_json
from otel_audit_exporter.event.json.strings import json_string, may_hold_nul
from otel_audit_exporter.event.json.types import scalar_text
from otel_audit_exporter.event.redaction import Redactor

_QUICK_DEPTH = 32
_QUICK_LEAVES = frozenset({int, bool, type(None), Decimal, datetime, date, time, JsonNumber})
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


class Encoder:
    """Turn any Python value into compact JSON that PostgreSQL's jsonb takes, with no newline byte in it.

    Never raises for a value's sake: what JSON has no word for is recorded as the design's section 5 has it.
    The result is a snapshot. Safe to share between threads.

    Args:
        redactor: hides the values of secret keys, at any depth; None hides nothing.
        max_value_bytes: longer strings and bytes are cut there, and say how much was cut; None cuts nothing.
        members: record an object of the application's own by its members; False: by its text.
    """

    __slots__ = ("_is_quick", "_max_value_bytes", "_members", "_redactor")

    def __init__(
        self, redactor: Redactor | None = None, max_value_bytes: int | None = None, *, members: bool = True
    ) -> None:
        self._members = members
        self._redactor = redactor or Redactor(keys=())
        self._max_value_bytes = max_value_bytes
        self._is_quick = self._redactor.hook is None

    def value(self, value: object) -> bytes:
        """Return the JSON of a value; a `str` whose JSON is an object or an array becomes that JSON."""
        if value is None:
            return b"null"
        if isinstance(value, str):
            return self._text_value(value)
        return self._any_value(value)

    def text(self, value: str) -> bytes:
        """Return the JSON string of a short text, neither parsed nor redacted nor cut."""
        return json_string(value)

    def _text_value(self, value: str) -> bytes:
        content = str.__str__(value)
        inside = parse_json(content) if content[:1] in JSON_OPENERS else NOT_JSON
        if inside is not NOT_JSON:
            return self._any_value(inside)
        is_plain = content[:1] not in JSON_OPENERS and self._redactor.text(content) is content
        if not is_plain or not self._is_quick or self._max_value_bytes is not None:
            return self._walk(content)
        return json_string(content)

    def _any_value(self, value: object) -> bytes:
        if self._is_quick:
            written = quick_json(value, self._redactor)
            limit = self._max_value_bytes
            if written is not None and (limit is None or len(written) <= limit):
                return written
        return self._walk(value)

    def _walk(self, value: object) -> bytes:
        return ValueWalk(self._redactor, self._max_value_bytes, members=self._members).run(value)


def quick_json(value: object, redactor: Redactor) -> bytes | None:
    """Return the JSON of an ordinary dict, list or tuple; None where anything in it needs the walk.

    What it does return is byte for byte what the walk would.
    """
    texts: list[str] = []
    try:
        if not _are_plain((value,), redactor, texts, _QUICK_DEPTH):
            return None
        if not redactor.clears_texts(texts):
            return None
        written = orjson.dumps(value, _quick_leaf, _OPTIONS)
    except Exception:  # a huge int, a surrogate, a change by another thread: for the walk
        return None
    return None if may_hold_nul(written) else written


def _are_plain(values: Iterable[Any], redactor: Redactor, texts: list[str], depth: int) -> bool:
    """Say whether orjson writes all of these values as the walk would; one pass, no lookups by class.

    The texts among them are added to `texts`, to be looked through together.
    """
    if depth < 0:
        return False
    for value in values:
        kind = type(value)
        if kind is str:
            if value and value[0] in JSON_OPENERS:
                return False
            texts.append(value)
        elif kind in _QUICK_LEAVES:
            continue
        elif kind is float:
            if value - value != 0:  # NaN and Infinity, which orjson would turn into null
                return False
        elif kind is dict:
            if not (redactor.clears(value) and _are_plain(value.values(), redactor, texts, depth - 1)):
                return False
        elif kind is list or kind is tuple:
            if _may_be_secret_pair(value, redactor) or not _are_plain(value, redactor, texts, depth - 1):
                return False
        elif kind is not UUID or not hasattr(value, "int"):  # without it orjson takes the process down
            return False
    return True


def _may_be_secret_pair(value: list[Any] | tuple[Any, ...], redactor: Redactor) -> bool:
    return len(value) == 2 and type(value[0]) is str and redactor.is_secret_name(value[0])


def _quick_leaf(value: object) -> object:
    return orjson.Fragment(value.text) if type(value) is JsonNumber else scalar_text(value)
