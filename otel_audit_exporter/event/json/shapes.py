"""What a value can become in JSON, one level deep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Ready:
    """JSON that is finished."""

    json: bytes


@dataclass(slots=True)
class Text:
    """A string as the caller gave it: may hold JSON of its own, may be too long."""

    text: str


@dataclass(slots=True)
class Binary:
    """Bytes, which become base64."""

    data: bytes


@dataclass(slots=True)
class Members:
    """An object; `verbatim` where repeated keys are to be kept."""

    pairs: list[tuple[object, object]]
    verbatim: bool = False


@dataclass(slots=True)
class Items:
    """An array; `unordered` where it was a set."""

    values: list[object]
    unordered: bool = False


@dataclass(slots=True)
class StandIn:
    """Another value that is to be recorded instead."""

    value: object


Shape = Ready | Text | Binary | Members | Items | StandIn

UNPRINTABLE = Ready(b'"<unprintable>"')
