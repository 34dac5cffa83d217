"""How the command speaks: data to stdout, talk to stderr; dressed on a terminal, plain everywhere else."""

from __future__ import annotations

import logging
import select
import sys
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from otel_audit_exporter.runtime.visible import visible_json

# No table in a pipe is wrapped or cut: lines there are read by programs.
_PLAIN_WIDTH = 100_000
_READABLE_WIDTH = 100
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def data() -> Console:
    """Return the console for data."""
    return Console(highlight=False, emoji=False, markup=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


# For everything that is not data. One for all, so that a progress bar makes room for notes.
NOTES: Final = Console(stderr=True, highlight=False, emoji=False, markup=False)


def nobody_reads() -> bool:
    """Return whether stdout is a pipe that nobody reads any more."""
    try:
        pipe = select.poll()
        pipe.register(sys.stdout, 0)
    except (AttributeError, OSError, ValueError):  # not on Windows, and not where stdout is no file
        return False
    return any(event & select.POLLERR for _, event in pipe.poll(0))


def say(text: str) -> None:
    """Print a note for the person at the terminal."""
    NOTES.print(Text(clean(text)), soft_wrap=not NOTES.is_terminal)


def problem(text: str) -> None:
    """Print a problem for the person at the terminal."""
    NOTES.print(Text.assemble(("otel-audit: ", "bold red"), clean(text)), soft_wrap=not NOTES.is_terminal)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = ("id",),
) -> None:
    """Print a table to stdout. Where no column has a name there is no head.

    ``right`` names the columns of numbers, ``whole`` those that are not broken into lines where there is room.
    """
    console = data()
    headings = [
        Column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name in whole,
            overflow="fold",
            header_style="bold",
        )
        for name in columns
    ]
    box = SIMPLE_HEAD if console.is_terminal else None
    table = Table(*headings, box=box, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns))
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row))
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_text(text: str) -> None:
    """Print a paragraph to stdout, its lines short enough to be read."""
    print(textwrap.fill(text, min(data().width, _READABLE_WIDTH), break_long_words=False, break_on_hyphens=False))


def print_json(value: object, *, indent: bool = False) -> None:
    """Print a value to stdout as JSON, on one line unless ``indent`` says otherwise."""
    options = orjson.OPT_INDENT_2 if indent else 0
    print(json_text(value, options))


def json_text(value: object, options: int = 0) -> str:
    """Return JSON; what orjson cannot write (an integer beyond 64 bits, ...) is written by the slower encoder."""
    try:
        return visible_json(orjson.dumps(value, default=str, option=options).decode())
    except TypeError:
        import json

        return visible_json(json.dumps(value, default=_iso, ensure_ascii=False, indent=2 if options else None))


def _iso(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def clean(text: str) -> str:
    """Return text that cannot steer a terminal: control characters other than line ends become visible."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape", "replace").decode()
        for char in text
    )


def amount(count: int, noun: str) -> str:
    """Return a count with its noun: `1 event`, `1,200 events`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def moment(at: datetime | None) -> str:
    """Return a time in UTC, to the second."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


class _ToNotes(logging.Handler):
    """Shows the library's warnings and errors on stderr, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            problem(self.format(record))
        except Exception:
            self.handleError(record)


def show_log() -> None:
    """Have the library's warnings and errors printed on stderr."""
    logger = logging.getLogger("otel_audit_exporter")
    if not any(isinstance(handler, _ToNotes) for handler in logger.handlers):
        handler = _ToNotes(level=logging.WARNING)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
