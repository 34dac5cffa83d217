"""JSON lines, one audit event each: read in bounded memory, and each fault in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Final

from otel_audit_exporter.event.json.parser import JsonObject, parse_json
from otel_audit_exporter.event.surroundings import FOUND, MARKABLE, Found

MAX_LINE_BYTES: Final = 64 * 2**20
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class LineError(ValueError):
    """Say what is wrong with one line."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank; ``end`` is how many bytes have been read up to its end."""

    number: int
    content: bytes
    end: int
    complete: bool = True

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of ``audit_event`` in this line; raise :class:`LineError` where it has none."""
        if not self.complete:
            raise LineError(f"is longer than {MAX_LINE_BYTES // 2**20} MiB")
        return parse_arguments(self.content)


def read_lines(file: BinaryIO, max_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Read the lines one by one; of a line that is longer than ``max_bytes`` only the beginning is kept."""
    number = end = 0
    while content := file.readline(max_bytes):
        number += 1
        end += len(content)
        complete = content.endswith(b"\n") or len(content) < max_bytes
        if not complete:
            end += _skip_rest(file, max_bytes)
        if number == 1:
            content = content.removeprefix(_BYTE_ORDER_MARK)
        if not content.isspace() and content:
            yield Line(number, content, end, complete)


def _skip_rest(file: BinaryIO, max_bytes: int) -> int:
    skipped = 0
    while rest := file.readline(max_bytes):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
    return skipped


def parse_arguments(content: bytes) -> dict[str, Any]:
    """Return the arguments of ``audit_event`` in a line of JSON, with the timestamp as an aware datetime."""
    said = _parse_object(content)
    arguments = {name: value for name, value in said.items() if value is not None}
    if isinstance(arguments.get("timestamp"), str):
        arguments["timestamp"] = _parse_timestamp(arguments["timestamp"])
    found = arguments.pop(FOUND, ())  # in a line that a response printed past its deadline
    for name in found if isinstance(found, list) else ():
        if name in MARKABLE and isinstance(arguments.get(name), str):
            arguments[name] = Found(arguments[name])
    return arguments


def _parse_object(content: bytes) -> dict[str, Any]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise LineError(f"is not UTF-8 (byte {error.start + 1})") from None
    said = parse_json(text)
    if isinstance(said, JsonObject):
        raise LineError("says a key twice")
    if not isinstance(said, dict):
        raise LineError(_why_no_object(text.rstrip()))
    return said


def _why_no_object(text: str) -> str:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return f"is not JSON: {error.msg} (column {error.colno})"
    except RecursionError:
        return "is not JSON that can be read: nested too deep"
    kind = {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")
    return "is not JSON: NaN and Infinity are none" if isinstance(value, dict) else f"must be a JSON object, not {kind}"


def _parse_timestamp(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise LineError("timestamp: must be ISO 8601 with a time zone, such as 2026-03-01T12:00:00Z") from None
