"""`otel-audit outbox`: see what waits on this machine, and deliver it."""

from __future__ import annotations

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
from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.outbox.old_outbox import old_outboxes, take_over
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.runtime.clock import Clock

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
        found = _take_over_old(pipeline)
        deadline = Clock.monotonic() + timeout
        with talk.NOTES.status(f"delivering to {pipeline.target}"):
            while not _delivered(pipeline) and Clock.monotonic() < deadline:
                pass
    stats = pipeline.stats()
    found += stats.recovered
    talk.say(f"{talk.amount(found, 'event')} found, {stats.succeeded:,} delivered, {stats.failed:,} parked")
    if stats.pending:
        tell_undelivered(pipeline, stats, timeout)
        raise typer.Exit(1)


def _delivered(pipeline: AuditPipeline) -> bool:
    """Take over some logs and deliver what waits for a moment; tell whether nothing is left."""
    channel = pipeline.primary.lane
    adopted = channel.adopt_orphans()
    return pipeline.force_flush(_STEP_SECONDS * 1000) and not adopted and not channel.logs.wants_more


def _take_over_old(pipeline: AuditPipeline) -> int:
    """Bring the outboxes of versions before 0.2 into the log; return how many events were in them."""
    channel, directory = pipeline.primary.lane, pipeline.primary.lane.logs.directory
    assert directory is not None
    found = 0
    for path in old_outboxes(directory.path):
        try:
            found += take_over(path, channel.accept)
        except OutboxError as error:
            talk.say(str(error))
    return found
