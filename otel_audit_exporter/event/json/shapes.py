"""What a value can become in JSON, one level deep."""

from __future__ import annotations

from typing import NamedTuple


class Ready(NamedTuple):
    """JSON that is finished."""

    json: bytes


class Text(NamedTuple):
    """A string as the caller gave it: may hold JSON of its own, may be too long."""

    text: str


class Binary(NamedTuple):
    """Bytes, which become base64."""

    data: bytes


class Members(NamedTuple):
    """An object; `verbatim` where repeated keys are to be kept."""

    pairs: list[tuple[object, object]]
    verbatim: bool = False


class Items(NamedTuple):
    """An array; `unordered` where it was a set."""

    values: list[object]
    unordered: bool = False


class StandIn(NamedTuple):
    """Another value that is to be recorded instead."""

    value: object


Shape = Ready | Text | Binary | Members | Items | StandIn

UNPRINTABLE = Ready(b'"<unprintable>"')
