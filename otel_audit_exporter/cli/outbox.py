"""`otel-audit outbox`: see what waits on this machine, and deliver it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.dead_letters import Format, FormatOption
from otel_audit_exporter.cli.destination import (
    Arguments,
    configured_pipeline,
    require_outbox_on_disk,
    tell_undelivered,
    with_destination,
)
from otel_audit_exporter.config.settings import default_outbox_dir, load_settings
from otel_audit_exporter.outbox.inspection import DestinationStatus, OutboxFileStatus, read_outbox_status

outbox = typer.Typer(
    no_args_is_help=True, help="Events that were accepted and are not in the table yet: on this machine's disk."
)

_STEP_SECONDS = 0.25


@outbox.command("status")
def status(
    outbox_dir: Annotated[
        str | None,
        typer.Option(help="The outbox directory (default: OTEL_AUDIT_OUTBOX_DIR, else as in the application)."),
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Show every outbox file of every destination, whoever holds it; nothing is taken over or changed."""
    settings = load_settings({"outbox_dir": outbox_dir})
    root = settings.outbox_dir or default_outbox_dir()
    destinations = read_outbox_status(root)
    if form is Format.json:
        for destination in destinations:
            talk.print_json(_as_json(destination))
        return
    talk.say(f"outbox directory {root}")
    if not destinations:
        talk.say("nothing there")
        return
    rows = [row for destination in destinations for row in _rows(destination)]
    columns = ("destination", "process", "state", "waiting", "oldest", "size", "dead letters")
    talk.print_table(columns, rows, right=("waiting", "size", "dead letters"))


@outbox.command("drain")
@with_destination
def drain(
    arguments: Arguments,
    timeout: Annotated[float, typer.Option(help="Seconds until it gives up.", min=0)] = 30.0,
) -> None:
    """Take over what processes that are gone have left for the configured destination, and deliver it.

    What running processes hold is left to them. Exit code 1: something is left.
    """
    with configured_pipeline(arguments) as pipeline:
        require_outbox_on_disk(pipeline)
        found = pipeline.stats().recovered
        deadline = time.monotonic() + timeout
        with talk.NOTES.status(f"delivering {talk.amount(found, 'event')} to {pipeline.target}"):
            while not pipeline.force_flush(_STEP_SECONDS * 1000) and time.monotonic() < deadline:
                pass
    stats = pipeline.stats()
    talk.say(f"{talk.amount(stats.recovered, 'event')} found, {stats.succeeded:,} delivered, {stats.failed:,} parked")
    if stats.pending:
        tell_undelivered(pipeline, stats, timeout)
        raise typer.Exit(1)


def _rows(destination: DestinationStatus) -> list[tuple[str, ...]]:
    name = str(destination.destination or destination.path.name)
    letters = "?" if destination.dead_letters is None else f"{destination.dead_letters:,}"
    files = [_row(file) for file in destination.files] or [("", "no files", "0", "", "0 B")]
    return [
        (name if first else "", *file, letters if first else "")
        for first, file in zip([True] + [False] * len(files), files, strict=False)
    ]


def _row(file: OutboxFileStatus) -> tuple[str, ...]:
    waiting = "?" if file.events is None else f"{file.events:,}"
    state = "held by a process" if file.held else "orphaned"
    if file.problem:
        state = f"{state}, {file.problem}"
    return str(file.pid or ""), state, waiting, talk.moment(file.oldest), talk.size(file.size_bytes)


def _as_json(status: DestinationStatus) -> dict[str, Any]:
    where = status.destination
    return {
        "folder": str(status.path),
        "exporter": where and where.exporter,
        "place": where and where.place,
        "schema": where and where.schema,
        "table": where and where.table,
        "dead_letters": status.dead_letters,
        "files": [
            {
                "file": file.path.name,
                "pid": file.pid,
                "held": file.held,
                "events": file.events,
                "size_bytes": file.size_bytes,
                "oldest": file.oldest,
                "problem": file.problem,
            }
            for file in status.files
        ],
    }
