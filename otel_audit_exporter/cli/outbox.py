"""`otel-audit outbox`: see what waits on this machine, and deliver it."""

from __future__ import annotations

from typing import Annotated

import typer

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.destination import (
    Arguments,
    DatabaseOption,
    TrailOption,
    configured_pipeline,
    require_outbox_on_disk,
    tell_undelivered,
    with_destination,
)
from otel_audit_exporter.cli.status import status
from otel_audit_exporter.config.settings import default_outbox_dir, load_settings
from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.event.routing import RouteName
from otel_audit_exporter.observability.stats import AuditStats, summed
from otel_audit_exporter.outbox.address_file import AddressFile, folders_of_database
from otel_audit_exporter.outbox.old_outbox import old_outboxes, take_over
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.pipeline.stored import address_of
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
    trail: TrailOption = None,
    database: DatabaseOption = None,
) -> None:
    """Take over what processes that are gone have left for the configured destination, and deliver it.

    With --database, what was left for that named database, of every trail or of one; the environment and the other
    options say where it is. What running processes hold is left to them. Exit code 1: something is left.
    """
    if database is not None or trail is not None:
        _drain_named(arguments, timeout, trail, database)
        return
    with configured_pipeline(arguments) as pipeline:
        require_outbox_on_disk(pipeline)
        found = _take_over_old(pipeline)
        deadline = Clock.monotonic() + timeout
        with talk.NOTES.status(f"delivering to {pipeline.target}"):
            while not _delivered(pipeline, [pipeline.primary.channel]) and Clock.monotonic() < deadline:
                pass
    _report(pipeline, pipeline.stats(), found, timeout)


def _drain_named(arguments: Arguments, timeout: float, trail: str | None, database: str | None) -> None:
    settings = load_settings(arguments)
    named: Arguments = {}
    if database is not None:
        named["databases"] = {database: address_of(settings)}
    with configured_pipeline(arguments | named) as pipeline:
        require_outbox_on_disk(pipeline)
        trails = [trail] if trail is not None else list(pipeline.destinations.trails)
        channels = [pipeline.destinations.find(RouteName(name, database)).primary.channel for name in trails]
        deadline = Clock.monotonic() + timeout
        while not _delivered(pipeline, channels) and Clock.monotonic() < deadline:
            pass
        parts = [channel.stats() for channel in channels]
    _report(pipeline, summed(parts), 0, timeout)


def _report(pipeline: AuditPipeline, stats: AuditStats, found: int, timeout: float) -> None:
    """Say what became of the events; ``found``: how many were in old files, beside those taken over."""
    found += stats.recovered
    talk.say(f"{talk.amount(found, 'event')} found, {stats.succeeded:,} delivered, {stats.failed:,} parked")
    if stats.pending:
        tell_undelivered(pipeline, stats, timeout)
        raise typer.Exit(1)


@outbox.command("readdress")
def readdress(
    database: Annotated[str, typer.Argument(metavar="NAME", help="The database's name.", show_default=False)],
    outbox_dir: Annotated[
        str | None,
        typer.Option(help="The outbox directory (default: OTEL_AUDIT_OUTBOX_DIR, else as in the application)."),
    ] = None,
) -> None:
    """Say that a database's name leads to another address from now on, and that this is meant.

    What waits for it, and what comes, is delivered to the address that its name leads to at the next attempt.
    """
    root = load_settings({"outbox_dir": outbox_dir}).outbox_dir or default_outbox_dir()
    folders = list(folders_of_database(root, database))
    if not folders:
        talk.problem(f"nothing was ever kept for the database {database} in {root}")
        raise typer.Exit(1)
    kept = sorted({address for folder in folders if (address := AddressFile(folder).forget())})
    talk.say(f"{database} was at {', '.join(kept) or 'no address yet'}; the next delivery keeps its own")


def _delivered(pipeline: AuditPipeline, channels: list[DeliveryChannel]) -> bool:
    """Take over some logs and deliver what waits for a moment; return whether nothing is left."""
    adopted = sum(channel.adopt_orphans() for channel in channels)
    settled = pipeline.force_flush(_STEP_SECONDS * 1000)
    return settled and not adopted and not any(channel.logs.wants_more for channel in channels)


def _take_over_old(pipeline: AuditPipeline) -> int:
    """Bring the outboxes of versions before 0.2 into the log; return how many events were in them."""
    channel, directory = pipeline.primary.channel, pipeline.primary.channel.logs.directory
    assert directory is not None
    found = 0
    for path in old_outboxes(directory.path):
        try:
            found += take_over(path, channel.accept)
        except OutboxError as error:
            talk.say(str(error))
    return found
