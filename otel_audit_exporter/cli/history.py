"""`otel-audit tail` and `otel-audit history`: what is in the table, for people and for programs."""

from __future__ import annotations

import csv
import functools
import io
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Annotated, Any, Final

import orjson
import typer
from rich.cells import cell_len
from rich.text import Text

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.destination import Arguments, with_destination
from otel_audit_exporter.cli.sink_errors import told_sink_errors
from otel_audit_exporter.config.settings import load_settings
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault
from otel_audit_exporter.table.readers import Event, EventQuery, Follower, moment_of, open_reader, read_events

_HEADINGS: Final = ("time", "action", "entity", "user", "yacht", "changes")
_GAP: Final = 3
_NARROWEST_CHANGES: Final = 24
_LONGEST_VALUE: Final = 80
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
# Inside JSON these stand in strings only, where an escape says the same.
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_STEERING: Final = re.compile("[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]")


class Format(str, Enum):  # noqa: UP042  # typer shows the values of a str enum
    """How events are printed."""

    table = "table"
    json = "json"
    csv = "csv"


def _moment(text: str) -> datetime:
    ago = re.fullmatch(r"(\d+)([smhdw])", text.strip())
    try:
        if ago:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text.strip())
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter("give ISO 8601 (2026-03-04, 2026-03-04T05:06Z) or an age (30m, 2h, 7d)") from None


_EntityOption = Annotated[
    tuple[str, str] | None, typer.Option("--entity", metavar="TYPE ID", help="Of this entity.", show_default=False)
]
_UserOption = Annotated[str | None, typer.Option("--user", metavar="ID", help="By this user.")]
_YachtOption = Annotated[str | None, typer.Option("--yacht", metavar="ID", help="On this yacht.")]
_ActionOption = Annotated[str | None, typer.Option("--action", metavar="NAME", help="Of this kind.")]
_SinceOption = Annotated[
    datetime | None,
    typer.Option("--since", parser=_moment, metavar="TIME", help="From this time on: ISO 8601 (UTC) or an age (2h)."),
]
_UntilOption = Annotated[
    datetime | None, typer.Option("--until", parser=_moment, metavar="TIME", help="Before this time.")
]
_LimitOption = Annotated[int, typer.Option("--limit", "-n", min=0, help="The newest so many; 0 is all.")]
_FormatOption = Annotated[Format, typer.Option("--format", help="A table for people, JSON lines, or CSV.")]
_FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until interrupted.")]
_IntervalOption = Annotated[float, typer.Option("--interval", min=0.05, help="Seconds between two looks at --follow.")]


@with_destination
def tail(
    arguments: Arguments,
    entity: _EntityOption = None,
    user: _UserOption = None,
    yacht: _YachtOption = None,
    action: _ActionOption = None,
    since: _SinceOption = None,
    until: _UntilOption = None,
    limit: _LimitOption = 20,
    form: _FormatOption = Format.table,
    follow: _FollowOption = False,
    interval: _IntervalOption = 2.0,
) -> None:
    """Print the newest events in the table, the newest last, and with --follow those that come.

    Reads sqlite, postgres and supabase, with a role that may read. Exit code: 1 the table refuses, 2 nobody answers.
    """
    question = _question(entity, user, yacht, action, since, until)
    _print(arguments, question, limit, form, interval if follow else None)


@with_destination
def history(
    arguments: Arguments,
    entity: _EntityOption = None,
    user: _UserOption = None,
    yacht: _YachtOption = None,
    action: _ActionOption = None,
    since: _SinceOption = None,
    until: _UntilOption = None,
    limit: _LimitOption = 100,
    form: _FormatOption = Format.table,
    follow: _FollowOption = False,
    interval: _IntervalOption = 2.0,
) -> None:
    """Print what happened to an entity, by a user, on a yacht: the oldest first, with what changed.

    For example: otel-audit history --entity receiving 0192d3a4-... --since 30d
    """
    question = _question(entity, user, yacht, action, since, until)
    if question == EventQuery():
        raise typer.BadParameter("say whose history: --entity TYPE ID, --user, --yacht, --action or --since")
    _print(arguments, question, limit, form, interval if follow else None)


def _question(
    entity: tuple[str, str] | None,
    user: str | None,
    yacht: str | None,
    action: str | None,
    since: datetime | None,
    until: datetime | None,
) -> EventQuery:
    entity_type, entity_id = entity or (None, None)
    return EventQuery(entity_type, entity_id, user, yacht, action, since, until)


def _print(arguments: Arguments, question: EventQuery, limit: int, form: Format, interval: float | None) -> None:
    begun = datetime.now(UTC)
    with told_sink_errors():
        reader = open_reader(load_settings(arguments))
        try:
            printer = _PRINTERS[form](reader.columns.fields)
            events = read_events(reader, question, newest=limit or None)
            if interval is None:
                printer.show(events)
            else:
                shown = list(events)
                printer.show(shown)
                _follow(Follower(reader, question, now=begun), shown, printer, interval)
        finally:
            reader.close()


def _follow(follower: Follower, shown: list[Event], printer: _Printer, interval: float) -> None:
    """Print what comes, until interrupted; an outage is told of once, and waited for."""
    told = False
    look: Callable[[], list[Event]] = functools.partial(follower.begin, shown)
    try:
        while not talk.nobody_reads():
            try:
                printer.go_on(look())
                look, told = follower.poll, False
            except SinkError as error:
                if error.verdict.fault is not Fault.TRANSIENT:
                    raise
                if not told:
                    talk.problem(f"{error}: trying again")
                told = True
            time.sleep(interval)
    except KeyboardInterrupt:
        return


# --- printing -----------------------------------------------------------------------------------------------------


class _Printer:
    """Prints events as JSON lines."""

    def __init__(self, fields: list[str]) -> None:
        self.fields = fields

    def show(self, events: Iterable[Event]) -> None:
        """Print the first events."""
        for event in events:
            text = talk.json_text(event)
            print(_STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)

    def go_on(self, events: Iterable[Event]) -> None:
        """Print what has come since then."""
        self.show(events)


class _CsvPrinter(_Printer):
    """Prints events as CSV with a heading: JSON documents as JSON."""

    def show(self, events: Iterable[Event]) -> None:
        self.fields = [*self.fields, *(name for name in ("outcome", "actor_type") if name not in self.fields)]
        self._print_line(self.fields)
        self.go_on(events)

    def go_on(self, events: Iterable[Event]) -> None:
        for event in events:
            self._print_line([_cell(event.get(name)) for name in self.fields])

    @staticmethod
    def _print_line(cells: list[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(cells)
        print(line.getvalue(), flush=True)


def _cell(value: Any) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    text = _one_line(_text(value))
    formula = isinstance(value, str) and text.startswith(("=", "+", "-", "@")) and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


class _TablePrinter(_Printer):
    """Prints a table for people: when, what, to which, by whom, and the fields that changed."""

    def show(self, events: Iterable[Event]) -> None:
        rows = [self._cells(event) for event in events]
        if not rows:
            talk.say("no events")
        elif _fits(rows):
            talk.print_table(_HEADINGS, rows, whole=_HEADINGS[:-1])
        else:
            stacked = [_stacked(row) for row in rows]
            talk.print_table(("event", "changes"), stacked, whole=("event",) if _fits(stacked) else ())

    def go_on(self, events: Iterable[Event]) -> None:
        for event in events:
            cells = [cell.plain if isinstance(cell, Text) else cell for cell in self._cells(event)]
            print("  ".join(cell.replace("\n", ", ") for cell in cells if cell), flush=True)

    def _cells(self, event: Event) -> list[str | Text]:
        action = Text(_one_line(_text(event.get("action"))))
        if event.get("outcome", "success") not in ("success", None):
            action.append(f" ({_one_line(_text(event['outcome']))})", "red")
        entity = " ".join(_one_line(_text(event.get(name))) for name in ("entity_type", "entity_id"))
        by, yacht = (_one_line(_text(event.get(name))) for name in ("user_id", "yacht_id"))
        if event.get("actor_type") not in (None, "user"):
            by = f"{by} ({_one_line(_text(event['actor_type']))})".strip()
        changes = "\n".join(changed_fields(event.get("old_values"), event.get("new_values")))
        moment = moment_of(event)
        at = talk.moment(moment) if moment else _one_line(_text(event["timestamp"]))
        return [at, action, entity.strip(), by, yacht, changes]


def _fits(rows: Sequence[Sequence[str | Text]]) -> bool:
    """Tell whether the terminal has room for all cells unbroken, but for the changes beside them."""
    widths = (max(map(_width, cells)) for cells in zip(*(row[:-1] for row in rows), strict=True))
    return sum(width + _GAP for width in widths) + _NARROWEST_CHANGES <= talk.data().width


def _width(cell: str | Text) -> int:
    return max(map(cell_len, str(cell).splitlines()), default=0)


def _stacked(cells: Sequence[str | Text]) -> list[str | Text]:
    """Return the cells of a row below each other, but for the changes."""
    at, action, entity, by, yacht, changes = cells
    who = Text(f"by {by}" if by else "")
    lines = [Text.assemble(f"{at} ", action), Text(str(entity)), who, Text(f"on {yacht}" if yacht else "")]
    return [Text("\n").join(line for line in lines if line), changes]


_PRINTERS: Final[Mapping[Format, type[_Printer]]] = {
    Format.table: _TablePrinter,
    Format.json: _Printer,
    Format.csv: _CsvPrinter,
}


def changed_fields(old: Any, new: Any) -> list[str]:
    """Say what changed, a line for each field; nothing in it can steer a terminal."""
    if isinstance(old, dict) or isinstance(new, dict):
        before, after = (value if isinstance(value, dict) else {} for value in (old, new))
        names = [name for name in dict.fromkeys([*before, *after]) if not _same(before, after, name)]
        return [_change(_one_line(name), before, after, name) for name in names]
    if old == new:
        return []
    return [f"{_short(old)} → {_short(new)}"] if old is not None else [_short(new)]


def _same(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> bool:
    if name not in before or name not in after:
        return False
    # As JSON, because to Python 1 and true are equal.
    texts = [talk.json_text(values[name], orjson.OPT_SORT_KEYS) for values in (before, after)]
    return texts[0] == texts[1]


def _change(shown: str, before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> str:
    if name not in before:
        return f"+{shown}: {_short(after[name])}"
    if name not in after:
        return f"-{shown}: {_short(before[name])}"
    return f"{shown}: {_short(before[name])} → {_short(after[name])}"


def _short(value: Any) -> str:
    text = _one_line(_text(value) if value is not None else "null")
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else talk.json_text(value)


def _one_line(text: str) -> str:
    return talk.clean(text).replace("\n", "\\n").replace("\t", "\\t")
