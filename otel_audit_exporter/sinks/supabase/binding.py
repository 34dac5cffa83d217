"""Which request an answer is to: PostgREST repeats the preferences of a request in its answer.

An intermediary that sends an answer twice on a kept connection would have the second one taken for the answer to the
next request, which may have stored nothing. So no two requests in a row on a connection carry the same marks.

The marks change nothing of what is stored. Another alias of UTC in ``timezone`` would be a mark, too, but it sets the
session's time zone: in a database that is not in UTC, a column of type ``timestamp`` with ``default now()`` would get
another value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from random import randrange
from typing import Final

# What each stands for is what holds without it: all preferences are known, and every column is sent. A read repeats
# only the handling, so that each differs from its neighbours in that.
_MARKS: Final = (
    ("handling=lenient",),
    ("handling=strict",),
    ("handling=lenient", "missing=null"),
    ("handling=strict", "missing=null"),
)
_NAMES: Final = ("handling=", "missing=")


def marks_of_requests() -> Iterator[tuple[str, ...]]:
    """Give the marks of one request after the other on a connection, without end."""
    return islice(cycle(_MARKS), randrange(len(_MARKS)), None)


def marks_for(method: str, marks: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the marks that an answer to ``method`` repeats."""
    return marks if method == "POST" else marks[:1]


def is_answer_to(marks: tuple[str, ...], headers: Mapping[str, str]) -> bool | None:
    """Say whether an answer is to the request with these marks; None where it does not say."""
    applied = (part.strip() for part in headers.get("preference-applied", "").split(","))
    repeated = {part for part in applied if part.startswith(_NAMES)}
    return repeated == set(marks) if repeated else None
