"""Which ids a table has, asked of PostgREST: the questions, and what is read out of its answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import quote

import orjson

from otel_audit_exporter.event.encoded_event import loads_exact

# Of a request line servers take 8 KiB; what else is in it is short.
_QUESTION_BYTES: Final = 7000
_TOTAL: Final = re.compile(r"/(\d+)$")


def ids_of(rows: Sequence[bytes], column: str) -> list[str]:
    """Return the id of each row, as text."""
    return [str(loads_exact(row)[column]) for row in rows]


def questions(ids: Sequence[str], column: str) -> Iterator[tuple[range, bytes]]:
    """Give the queries that ask for all the ids, each with the places of those that it asks for."""
    name = quote(quoted_list([column]), safe="")
    texts = [quote(quoted_list([one]), safe="") for one in ids]
    for places in _portions([len(text) + 1 for text in texts]):
        asked = ",".join(texts[at] for at in places)
        yield places, f"select={name}&{name}=in.({asked})".encode()


def _portions(sizes: Sequence[int]) -> Iterator[range]:
    first, size = 0, 0
    for at, one in enumerate(sizes):
        if at > first and size + one > _QUESTION_BYTES:
            yield range(first, at)
            first, size = at, 0
        size += one
    yield range(first, len(sizes))


def found_in(body: bytes, content_range: str, asked: Sequence[str], column: str) -> list[bool] | None:
    """Tell of each id that was asked for whether it is in the answer; None where the answer may not be all of it."""
    try:
        found = [str(row[column]) for row in orjson.loads(body)]
    except (ValueError, TypeError, KeyError):
        return None
    if total_in(content_range) != len(found):  # the server gives no more rows at a time
        return None
    known = set(found)
    all_there = len(known) == len(set(asked))  # however the database writes an id
    return [all_there or one in known for one in asked]


def total_in(content_range: str) -> int | None:
    """Return how many rows a ``Content-Range`` counts; None where it says nothing of that."""
    total = _TOTAL.search(content_range)
    return int(total[1]) if total else None


def quoted_list(names: Sequence[str]) -> str:
    """Return names or values as a list of PostgREST has them."""
    escaped = (name.replace("\\", "\\\\").replace('"', '\\"') for name in names)
    return ",".join(f'"{name}"' for name in escaped)
