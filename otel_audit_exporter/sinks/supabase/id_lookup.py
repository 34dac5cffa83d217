"""Which rows a table has, asked of PostgREST by their ids: the questions, and what is read out of its answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from otel_audit_exporter.event.encoded_event import loads_exact

Row = Mapping[str, Any]

# Of a request line servers take 8 KiB; what else is in it is short.
_QUESTION_BYTES: Final = 7000
_TOTAL: Final = re.compile(r"/(\d+)$")


def ids_of(rows: Sequence[bytes], column: str) -> list[str]:
    """Return the id of each row, as text."""
    return [str(loads_exact(row)[column]) for row in rows]


def questions(ids: Sequence[str], column: str, wanted: Sequence[str]) -> Iterator[tuple[range, bytes]]:
    """Give the queries that ask for all the ids, each with the places of those that it asks for.

    ``wanted``: the columns that the answer is to have.
    """
    name, selected = quote(quoted_list([column]), safe=""), quote(quoted_list(wanted), safe=",")
    texts = [quote(quoted_list([one]), safe="") for one in ids]
    for places in _portions([len(text) + 1 for text in texts]):
        asked = ",".join(texts[at] for at in places)
        yield places, f"select={selected}&{name}=in.({asked})".encode()


def _portions(sizes: Sequence[int]) -> Iterator[range]:
    first, size = 0, 0
    for at, one in enumerate(sizes):
        if at > first and size + one > _QUESTION_BYTES:
            yield range(first, at)
            first, size = at, 0
        size += one
    yield range(first, len(sizes))


def all_rows_in(body: bytes, content_range: str, column: str) -> list[Row] | None:
    """Return the rows in an answer; None where it is no list of rows, or may not be all of them."""
    rows = rows_in(body, column)
    return rows if rows is not None and total_in(content_range) == len(rows) else None


def rows_in(body: bytes, column: str) -> list[Row] | None:
    """Return the rows in an answer; None where it is no list of rows with that column."""
    try:
        rows = list(loads_exact(body))
        return rows if all(column in row for row in rows) else None
    except (ValueError, TypeError):
        return None


def found_of(asked: Sequence[str], rows: Sequence[Row], column: str) -> list[Row | None]:
    """Return for each id that was asked for the row that is there, or None."""
    there = {same_id(row[column]): row for row in rows}
    found = [there.get(same_id(one)) for one in asked]
    if None in found and len(there) == len({same_id(one) for one in asked}):  # the database writes an id otherwise
        return [row or {} for row in found]
    return found


def are_others(rows: Iterable[Row], asked: Iterable[str], column: str) -> bool:
    """Return whether there is a row among these whose id was not asked for."""
    return not {same_id(row[column]) for row in rows} <= set(map(same_id, asked))


def same_id(value: Any) -> str:
    """Return an id in one spelling, however a UUID is written."""
    try:
        return str(UUID(str(value)))
    except ValueError:
        return str(value)


def total_in(content_range: str) -> int | None:
    """Return how many rows a ``Content-Range`` counts; None where it has no count."""
    total = _TOTAL.search(content_range)
    return int(total[1]) if total else None


def quoted_list(names: Sequence[str]) -> str:
    """Return names or values as a list of PostgREST has them."""
    escaped = (name.replace("\\", "\\\\").replace('"', '\\"') for name in names)
    return ",".join(f'"{name}"' for name in escaped)
