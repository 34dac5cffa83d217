"""How events are printed: a table for people, JSON lines, CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import islice
from typing import Any, Final

from rich.cells import cell_len
from rich.text import Text

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.event.visible_text import shown_on_a_line
from otel_audit_exporter.table.changes import MISSING, Change, changes_of
from otel_audit_exporter.table.export import chosen_columns, csv_lines, json_lines, plain_text
from otel_audit_exporter.table.readers import StoredEvent

_HEADINGS: Final = ("time", "action", "entity", "user", "yacht", "changes")
_MORE: Final = (
    "on_behalf_of", "metadata", "signature", "source_ip", "request_id", "user_agent", "trace_id", "span_id",
    "event_name", "record_id",
)  # fmt: skip
_GAP: Final = 3
_NARROWEST_CHANGES: Final = 24
_LONGEST_VALUE: Final = 80
_BLOCK: Final = 1000


class Format(str, Enum):  # noqa: UP042  # typer shows the values of a str enum
    """How events are printed."""

    table = "table"
    json = "json"
    csv = "csv"


class Printer:
    """Prints events as JSON lines; ``columns`` are the fields to print, None all of them."""

    def __init__(self, columns: list[str] | None = None) -> None:
        self.columns = columns

    def show(self, events: Iterable[StoredEvent]) -> None:
        """Print the first events."""
        for line in json_lines(events, self.columns):
            print(line, flush=True)

    def go_on(self, events: Iterable[StoredEvent]) -> None:
        """Print what has come since then."""
        self.show(events)


class CsvPrinter(Printer):
    """Prints events as CSV with a heading: JSON documents as JSON."""

    _begun = False

    def show(self, events: Iterable[StoredEvent]) -> None:
        """Print a heading once, and the events."""
        for line in islice(csv_lines(events, self.columns), 1 if self._begun else 0, None):
            print(line, flush=True)
        self._begun = True


class TablePrinter(Printer):
    """Prints a table for people: when, what, to which, by whom, the fields that changed, and all other fields."""

    def show(self, events: Iterable[StoredEvent]) -> None:
        """Print the events in blocks, so that it does not matter how many there are."""
        first = True
        for block in _blocks(events):
            self._print(block, heading=first)
            first = False
        if first:
            talk.say("no events")

    def go_on(self, events: Iterable[StoredEvent]) -> None:
        """Print each event on a line, or on several where the terminal is narrow."""
        width = talk.data().width
        for event in events:
            cells = [str(cell) for cell in self._cells(event)]
            line = "  ".join(cell.replace("\n", ", ") for cell in cells if cell)
            print(line if cell_len(line) <= width else _wrapped(cells, width), flush=True)

    def _print(self, events: Sequence[StoredEvent], *, heading: bool) -> None:
        rows = [self._cells(event) for event in events]
        if self.columns is not None:
            names = chosen_columns(self.columns, events[0])
            talk.print_table(names if heading else [""] * len(names), rows, whole=names[:-1])
        elif _fits(rows):
            talk.print_table(_HEADINGS if heading else [""] * len(_HEADINGS), rows, whole=_HEADINGS[:-1])
        else:
            stacked = [_stacked(row) for row in rows]
            headings = ("event", "changes") if heading else ("", "")
            talk.print_table(headings, stacked, whole=("event",) if _fits(stacked) else ())

    def _cells(self, event: StoredEvent) -> list[str | Text]:
        if self.columns is None:
            return _usual_cells(event)
        document = event.document()
        return [shown_on_a_line(plain_text(document.get(name))) for name in chosen_columns(self.columns, event)]


PRINTERS: Final[Mapping[Format, type[Printer]]] = {
    Format.table: TablePrinter,
    Format.json: Printer,
    Format.csv: CsvPrinter,
}


def changed_fields(old: Any, new: Any) -> list[str]:
    """Say what changed, a line for each field; nothing in it can steer a terminal."""
    return [_change(change) for change in changes_of(old, new)]


def _change(change: Change) -> str:
    before, after = (None if value is MISSING else _short(value) for value in (change.before, change.after))
    name = "" if change.name is None else f"{shown_on_a_line(change.name)}: "
    if before is None:
        return f"{'+' if name else ''}{name}{after}"
    if after is None:
        return f"-{name}{before}"
    return f"{name}{before} → {after}"


def _usual_cells(event: StoredEvent) -> list[str | Text]:
    action = Text(shown_on_a_line(event.action))
    if event.outcome != "success":
        action.append(f" ({shown_on_a_line(event.outcome)})", "red")
    entity = " ".join(shown_on_a_line(value or "") for value in (event.entity_type, event.entity_id))
    by, yacht = (shown_on_a_line(value or "") for value in (event.user_id, event.yacht_id))
    if event.actor_type != "user":
        by = f"{by} ({shown_on_a_line(event.actor_type)})".strip()
    lines = [*changed_fields(event.old_values, event.new_values), *_more(event)]
    at = talk.moment(event.timestamp) if event.timestamp else shown_on_a_line(event.time_text)
    return [at, action, entity.strip(), by, yacht, "\n".join(lines)]


def _more(event: StoredEvent) -> Iterator[str]:
    """Print the other fields of the event, one on each line."""
    said = {name: getattr(event, name) for name in _MORE} | dict(event.other)
    for name, value in said.items():
        if value is not None:
            yield f"{shown_on_a_line(name)}={_short(value)}"


def _short(value: Any) -> str:
    text = shown_on_a_line(plain_text(value) if value is not None else "null")
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _blocks(events: Iterable[StoredEvent]) -> Iterator[list[StoredEvent]]:
    iterator = iter(events)
    while block := list(islice(iterator, _BLOCK)):
        yield block


def _fits(rows: Sequence[Sequence[str | Text]]) -> bool:
    """Return whether all cells fit the terminal without a line break, except for the changes beside them."""
    widths = (max(map(_width, cells)) for cells in zip(*(row[:-1] for row in rows), strict=True))
    return sum(width + _GAP for width in widths) + _NARROWEST_CHANGES <= talk.data().width


def _width(cell: str | Text) -> int:
    return max(map(cell_len, str(cell).splitlines()), default=0)


def _stacked(cells: Sequence[str | Text]) -> list[str | Text]:
    """Return the cells of a row below each other, except for the changes."""
    at, action, entity, by, yacht, changes = cells
    who = Text(f"by {by}" if by else "")
    lines = [Text.assemble(f"{at} ", action), Text(str(entity)), who, Text(f"on {yacht}" if yacht else "")]
    return [Text("\n").join(line for line in lines if line), changes]


def _wrapped(cells: Sequence[str], width: int) -> str:
    """Return a row on several lines, all but the first of them set in."""
    first, *rest = ["  ".join(cells[:2]), *(line for cell in cells[2:] for line in cell.splitlines())]
    lines = textwrap.wrap(first, width) + [
        part
        for line in rest
        for part in textwrap.wrap(line, width, initial_indent="    ", subsequent_indent="      ", drop_whitespace=False)
    ]
    return "\n".join(lines)
