"""Events as text for other programs: JSON lines and CSV, with every field."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import orjson

from otel_audit_exporter.event.fields import FIELDS
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.visible_text import csv_cell
from otel_audit_exporter.runtime.visible import visible_json
from otel_audit_exporter.table.readers.query import QueryError
from otel_audit_exporter.table.readers.stored_event import StoredEvent

_ALIASES: Final = {"tenant_id": "yacht_id", "actor_id": "user_id", "id": "record_id", "created_at": "timestamp"}
_LAST_RESORT: Final = Encoder()


def json_lines(events: Iterable[StoredEvent], columns: Sequence[str] | None = None) -> Iterator[str]:
    """Yield a line of JSON for each event: every field, or those that ``columns`` names."""
    wanted: Sequence[str] | None = None
    for event in events:
        if columns is not None and wanted is None:
            wanted = chosen_columns(columns, event)
        document = event.document()
        yield visible_json(json_text(document if wanted is None else {name: document.get(name) for name in wanted}))


def csv_lines(events: Iterable[StoredEvent], columns: Sequence[str] | None = None) -> Iterator[str]:
    """Yield a heading and a line of CSV for each event: every field, or those that ``columns`` names."""
    names: Sequence[str] | None = None
    for event in events:
        if names is None:
            names = chosen_columns(columns, event)
            yield _csv_line(map(csv_cell, names))
        document = event.document()
        yield _csv_line(_cell(document.get(name)) for name in names)
    if names is None:
        yield _csv_line(map(csv_cell, columns or FIELDS))


def chosen_columns(columns: Sequence[str] | None, event: StoredEvent) -> list[str]:
    """Return the names of the fields and columns to show; by default all that an event of this table has.

    Raises :class:`QueryError` for a name that is neither a field nor a column of the table.
    """
    others = [name for name in event.other if name not in FIELDS]
    if columns is None:
        return [*FIELDS, *others]
    names = [name if name in others else _ALIASES.get(name, name) for name in columns]
    unknown = [name for name in names if name not in FIELDS and name not in others]
    if unknown:
        raise QueryError(f"columns: nothing is called {', '.join(unknown)}; there are {', '.join([*FIELDS, *others])}")
    return names


def json_text(value: Any) -> str:
    """Return compact JSON of any value, integers of any size and any depth included."""
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:
        pass
    try:
        return json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return _LAST_RESORT.value(value).decode()


def plain_text(value: Any) -> str:
    """Return a text as it is, and any other value as JSON; nothing for no value."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json_text(value)


def _cell(value: Any) -> str:
    return csv_cell(plain_text(value), said_as_text=isinstance(value, str))


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
