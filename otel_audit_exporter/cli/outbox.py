"""`otel-audit outbox`: see what waits on this machine, and deliver it."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.destination import (
    Arguments,
    configured_pipeline,
    require_outbox_on_disk,
    tell_undelivered,
    with_destination,
)
from otel_audit_exporter.cli.status import status

outbox = typer.Typer(
    no_args_is_help=True, help="Events that were accepted and are not in the table yet: on this machine's disk."
)

_STEP_SECONDS = 0.25

outbox.command("status")(status)  # the same as `otel-audit status`


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
