"""The bytes of an event: JSON, in which the value of each field has a line of its own.

An event that the default table's columns hold completely is written as the row of that table: such rows go to the
sink as they lie in the outbox. Any other event is an array: that row, then the other fields' values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import orjson

from otel_audit_exporter.event.fields import DEFAULT_COLUMNS, FIELDS, USUAL_JSON
from otel_audit_exporter.event.joined import SEPARATOR, Joined

_NULL: Final = b"null"
_IN_ROW: Final = len(DEFAULT_COLUMNS)
_BEYOND: Final = [USUAL_JSON.get(field, _NULL) for field in FIELDS[_IN_ROW:]]


def row_template(columns: Iterable[str]) -> bytes:
    """Return what makes a row's bytes of its values' JSON (by ``%``): an object, each value on a line of its own."""
    keys = (orjson.dumps(column).replace(b"%", b"%%") for column in columns)
    return b"{" + b",".join(key + b":\n%b\n" for key in keys) + b"}"


_ROW: Final = row_template(DEFAULT_COLUMNS)
_ARRAY: Final = b"[%b,\n%b\n]" % (_ROW, b"\n,\n".join([b"%b"] * len(_BEYOND)))
_ROW_START: Final = _ROW.partition(b"%")[0]
_ARRAY_START: Final = b"[" + _ROW_START

# Where one row of joined ones ends and the next event begins; the longer it is, the sooner it is found.
_NEXT_ROW: Final = b"\n}" + SEPARATOR + _ROW_START
_NEXT_ARRAY: Final = b"\n}" + SEPARATOR + _ARRAY_START

# The end of an array that adds only a trace to its row.
_ids = b'"[0-9a-f]{32}"\n,\n"[0-9a-f]{16}"'
_before = b"\n,\n".join(_BEYOND[: FIELDS.index("trace_id") - _IN_ROW])
_after = b"".join(b"\n,\n" + value for value in _BEYOND[FIELDS.index("span_id") - _IN_ROW + 1 :])
_traced_end = re.compile(b"},\n" + re.escape(_before) + b"\n,\n" + _ids + re.escape(_after) + b"\n]")
_TRACED_END_BYTES: Final = len(_before) + len(_after) + 34 + 18 + len(b"},\n\n,\n\n,\n\n]")


def assemble(fragments: Sequence[bytes]) -> bytes:
    """Return the bytes of an event, given the JSON of each of ``FIELDS``."""
    if fragments[_IN_ROW:] == _BEYOND:
        return _ROW % tuple(fragments[:_IN_ROW])
    return _ARRAY % tuple(fragments)


def assemble_with(fragments: Sequence[bytes], more: bytes) -> bytes:
    """Return the bytes of an event that holds more than ``FIELDS``: the JSON object ``more`` comes last."""
    return b"%b,\n%b\n]" % ((_ARRAY % tuple(fragments))[:-1], more)


def more_of(fragments: Sequence[bytes]) -> bytes | None:
    """Return what :func:`assemble_with` has put last; None where there is nothing."""
    return fragments[len(FIELDS)] if len(fragments) > len(FIELDS) else None


def split(body: bytes) -> list[bytes]:
    """Return the JSON fragments of an event's bytes, in the order of ``FIELDS``; fewer where it is none."""
    if body.startswith(_ROW_START):
        return body.split(b"\n")[1::2] + _BEYOND
    if body.startswith(_ARRAY_START):
        return body.split(b"\n")[1::2]
    return body[1:-1].split(b",\n")  # a flat array, as it was written before


def as_row(body: bytes, *, traces_too: bool) -> bytes | None:
    """Return an event's row in the default table where the row holds all of the event, else None.

    ``traces_too``: the ids of a trace may be lost.
    """
    if body.startswith(_ROW_START):
        return body
    if traces_too and body.startswith(_ARRAY_START) and _traced_end.fullmatch(body, len(body) - _TRACED_END_BYTES):
        return body[1 : 1 - _TRACED_END_BYTES]
    return None


def as_rows(bodies: Joined, *, traces_too: bool) -> Joined | None:
    """Return what :func:`as_row` does for each of many events; None where it is None for any of them."""
    text, count = bodies.text, len(bodies)
    if traces_too and not _are_rows(text, count):
        text, traced = _traced_end.subn(b"}", text)
        if traced != text.startswith(_ARRAY_START) + text.count(_NEXT_ARRAY):
            return None
        text = text.replace(_NEXT_ARRAY, _NEXT_ROW).removeprefix(b"[")
    return Joined(text, count) if _are_rows(text, count) else None


def _are_rows(text: bytes, count: int) -> bool:
    return text.startswith(_ROW_START) and text.count(_NEXT_ROW) == count - 1
