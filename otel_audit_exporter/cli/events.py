"""`otel-audit events`, and `tail` and `history`, other names of it: what is in the table, for people and programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any, Final

import typer

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.destination import Arguments, DatabaseOption, TrailOption, with_destination
from otel_audit_exporter.cli.event_printers import PRINTERS, Format, Printer
from otel_audit_exporter.cli.sink_errors import told_sink_errors
from otel_audit_exporter.config.settings import load_settings
from otel_audit_exporter.pipeline.stored import settings_of_table
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault
from otel_audit_exporter.table.readers import EventQuery, EventReader, StoredEvent, open_reader
from otel_audit_exporter.table.readers.follower import Follower
from otel_audit_exporter.table.readers.query import QueryError, arguments_query, parse_moment

_ON_A_TERMINAL: Final = 100


def _moment(text: str) -> datetime:
    try:
        return parse_moment("time", text)
    except QueryError as error:
        raise typer.BadParameter(str(error)) from None


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


_EntityOption = Annotated[
    tuple[str, str] | None, typer.Option("--entity", metavar="TYPE ID", help="Of this entity.", show_default=False)
]
_UserOption = Annotated[str | None, typer.Option("--user", metavar="ID", help="By this user.")]
_YachtOption = Annotated[str | None, typer.Option("--yacht", "--tenant", metavar="ID", help="On this yacht.")]
_ActionOption = Annotated[str | None, typer.Option("--action", metavar="NAME", help="Of this kind.")]
_OutcomeOption = Annotated[str | None, typer.Option("--outcome", metavar="NAME", help="success, failure or unknown.")]
_RequestOption = Annotated[str | None, typer.Option("--request", metavar="ID", help="Recorded in this request.")]
_TraceOption = Annotated[str | None, typer.Option("--trace", metavar="ID", help="Recorded in this trace.")]
_TextOption = Annotated[
    str | None,
    typer.Option("--text", metavar="TEXT", help="What action, entity or user is or begins with (values: see schema)."),
]
_SinceOption = Annotated[
    datetime | None,
    typer.Option("--since", parser=_moment, metavar="TIME", help="From this time on: ISO 8601 (UTC) or an age (2h)."),
]
_UntilOption = Annotated[
    datetime | None, typer.Option("--until", parser=_moment, metavar="TIME", help="Before this time.")
]
_LimitOption = Annotated[int | None, typer.Option("--limit", "-n", min=0, help="The newest so many; 0 is all.")]
_FormatOption = Annotated[Format, typer.Option("--format", help="A table for people, JSON lines, or CSV.")]
_ColumnsOption = Annotated[
    str | None, typer.Option("--columns", metavar="NAMES", help="These fields only, with commas between them.")
]
_FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until interrupted.")]
_IntervalOption = Annotated[float, typer.Option("--interval", min=0.05, help="Seconds between two looks at --follow.")]


@with_destination
def events(
    arguments: Arguments,
    entity: _EntityOption = None,
    user: _UserOption = None,
    yacht: _YachtOption = None,
    action: _ActionOption = None,
    outcome: _OutcomeOption = None,
    request: _RequestOption = None,
    trace: _TraceOption = None,
    text: _TextOption = None,
    since: _SinceOption = None,
    until: _UntilOption = None,
    limit: _LimitOption = None,
    form: _FormatOption = Format.table,
    columns: _ColumnsOption = None,
    follow: _FollowOption = False,
    interval: _IntervalOption = 2.0,
    trail: TrailOption = None,
    database: DatabaseOption = None,
) -> None:
    """Print the events in the table, the oldest first, every field of them, with what changed.

    For example: otel-audit events --entity receiving 0192d3a4-... --since 30d --format csv

    All of them where the output goes to a file or a pipe, on a terminal the newest 100. Reads sqlite, postgres and
    supabase, with a role that may read. Exit code: 1 the table refuses, 2 nobody answers, or an option is wrong.
    """
    asked = {"request_id": request, "trace_id": trace, "tenant": yacht, "entity": entity, "user": user}
    query = arguments_query(
        {**asked, "action": action, "outcome": outcome, "text": text, "since": since, "until": until}
    )
    if limit is None:
        limit = _ON_A_TERMINAL if sys.stdout.isatty() else 0
    settings = settings_of_table(load_settings(arguments), trail, database)
    with told_sink_errors(), closing(open_reader(settings)) as reader:
        printer = PRINTERS[form](_names(columns))
        _print(reader, query, limit or None, printer, interval if follow else None)


def _other_name(name: str, summary: str, **defaults: Any) -> Any:
    """Return the reading command under another name, with other defaults."""
    import functools
    import inspect

    signature = inspect.signature(events)

    @functools.wraps(events)
    def command(**given: Any) -> None:
        if name == "history" and not any(given[one] is not None for one in _WHOSE):
            raise typer.BadParameter("say whose history: --entity TYPE ID, --user, --yacht, --action or --since")
        events(**given)

    changed = [one.replace(default=defaults.get(one.name, one.default)) for one in signature.parameters.values()]
    command.__signature__ = signature.replace(parameters=changed)  # type: ignore[attr-defined]  # for typer
    command.__name__, command.__doc__ = name, summary
    return command


_WHOSE: Final = (
    "entity", "user", "yacht", "action", "outcome", "request", "trace", "text", "since", "until",
)  # fmt: skip

tail = _other_name(
    "tail",
    """Print the newest events in the table, the newest last: `events` with --limit 20.

    Takes the options of `events`; with --follow it goes on with those that come.
    """,
    limit=20,
)
history = _other_name(
    "history",
    """Print what happened to an entity, by a user, on a yacht: `events` for one of these.

    For example: otel-audit history --entity receiving 0192d3a4-... --since 30d
    """,
)


def _print(reader: EventReader, query: EventQuery, limit: int | None, printer: Printer, interval: float | None) -> None:
    follower = Follower(reader, query, now=datetime.now(UTC))
    shown = _noted(_newest(reader, query, limit), follower if interval is not None else None)
    printer.show(shown)
    if interval is not None:
        _follow(follower, printer, interval)


def _newest(reader: EventReader, query: EventQuery, limit: int | None) -> Iterable[StoredEvent]:
    """Return the newest events, the oldest of them first, and say where there are more."""
    if limit is None:
        return reader.events(query, newest_first=False)
    found = reader.events(query)
    newest = list(islice(found, limit))
    if next(found, None) is not None:
        talk.say(f"the newest {limit:,} of {reader.count(query)} events; --limit 0 prints all")
    return reversed(newest)


def _noted(events: Iterable[StoredEvent], follower: Follower | None) -> Iterator[StoredEvent]:
    for event in events:
        if follower is not None:
            follower.note(event)
        yield event


def _follow(follower: Follower, printer: Printer, interval: float) -> None:
    """Print what comes, until interrupted; an outage is reported once, and waited for."""
    told = False
    try:
        while not talk.nobody_reads():
            try:
                printer.go_on(follower.poll())
                told = False
            except SinkError as error:
                if error.verdict.fault is not Fault.TRANSIENT:
                    raise
                if not told:
                    talk.problem(f"{error}: trying again")
                told = True
            time.sleep(interval)
    except KeyboardInterrupt:
        return
