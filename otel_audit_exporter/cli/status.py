"""`otel-audit status`: everything that waits or is parked on this machine, of every process, at a glance."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.dead_letters import Format, FormatOption
from otel_audit_exporter.config.settings import default_outbox_dir, load_settings
from otel_audit_exporter.operations.destinations import (
    destination_document,
    oldest_of,
    pending_in,
    seconds_since,
    unreadable_in,
)
from otel_audit_exporter.outbox.inspection import DestinationStatus, OutboxFileStatus, read_outbox_status
from otel_audit_exporter.runtime.times import duration_words, utc_now

_COLUMNS = ("destination", "process", "state", "pending", "oldest", "size", "parked")
_NUMBERS = frozenset({"pending", "oldest", "size", "parked"})
_LONG = frozenset({"destination", "state"})


def status(
    outbox_dir: Annotated[
        str | None,
        typer.Option(help="The outbox directory (default: OTEL_AUDIT_OUTBOX_DIR, else as in the application)."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 1.0,
    form: FormatOption = Format.table,
) -> None:
    """Show what every process that shares the outbox directory has pending, how old it is, and what is parked.

    Nothing is taken over or changed. A file that no process holds is an orphan: the next process with the same
    destination delivers it, or `otel-audit outbox drain` does.
    """
    settings = load_settings({"outbox_dir": outbox_dir})
    root = settings.outbox_dir or default_outbox_dir()
    if not watch:
        _show(root, form)
        return
    try:
        _watch(root, form, interval)
    except KeyboardInterrupt:
        talk.say("stopped")


def _show(root: str, form: Format) -> None:
    found = read_outbox_status(root)
    if form is Format.json:
        for destination in found:
            talk.print_json(destination_document(destination, utc_now()))
        return
    talk.say(_summary(root, found, utc_now()))
    if found:
        talk.print_table(_COLUMNS, list(_rows(found, utc_now())), right=tuple(_NUMBERS))


def _watch(root: str, form: Format, interval: float) -> None:
    if form is Format.json or not sys.stdout.isatty():
        while True:
            _show(root, form)
            sys.stdout.flush()
            time.sleep(interval)
    with Live(_view(root), console=talk.data(), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            live.update(_view(root), refresh=True)


def _view(root: str) -> Group:
    found, now = read_outbox_status(root), utc_now()
    headings = [
        Column(name, justify="right" if name in _NUMBERS else "left", no_wrap=name not in _LONG, overflow="fold")
        for name in _COLUMNS
    ]
    table = Table(*headings, box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for row in _rows(found, now):
        table.add_row(*(Text(talk.clean(cell), style=_style(cell)) for cell in row))
    headline = Text.assemble((f"{now:%H:%M:%S} UTC  ", "dim"), talk.clean(_summary(root, found, now)))
    return Group(headline, table, Text("Ctrl-C ends it", style="dim"))


def _style(cell: str) -> str:
    return "yellow" if cell.startswith("orphaned") else ""


def _summary(root: str, found: Sequence[DestinationStatus], now: datetime) -> str:
    pending = sum(pending_in(one) for one in found)
    parked = sum(one.dead_letters or 0 for one in found)
    oldest = oldest_of(found)
    waits = f", the oldest for {_age(oldest, now)}" if oldest is not None else ""
    unread = unreadable_in(found)
    more = f"; {talk.amount(unread, 'file')} not counted: cannot be read" if unread else ""
    more += "" if os.path.isdir(root) else "; there is no such directory (OTEL_AUDIT_OUTBOX_DIR)"
    return f"{root}: {talk.amount(pending, 'event')} pending{waits}, {parked:,} parked{more}"


def _rows(found: Sequence[DestinationStatus], now: datetime) -> Iterator[tuple[str, ...]]:
    for one in found:
        name = str(one.destination or one.path.name)
        files = [_row(file, now) for file in one.files] or [("", "no process", "0", "", "")]
        for place, row in enumerate(files):
            first = place == 0
            parked = "?" if one.dead_letters is None else f"{one.dead_letters:,}"
            yield (name if first else "", *row, parked if first else "")


def _row(file: OutboxFileStatus, now: datetime) -> tuple[str, ...]:
    state = "live" if file.held else "orphaned"
    return (
        str(file.pid or ""),
        f"{state}, {file.problem}" if file.problem else state,
        "?" if file.events is None else f"{file.events:,}",
        "" if file.oldest is None else _age(file.oldest, now),
        talk.size(file.size_bytes),
    )


def _age(since: datetime, now: datetime) -> str:
    return duration_words(seconds_since(since, now), digits=1)
