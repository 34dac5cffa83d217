"""`otel-audit purge`: delete events by their age, and record that it was done."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.destination import (
    Arguments,
    DatabaseOption,
    TrailOption,
    configured_pipeline,
    with_destination,
)
from otel_audit_exporter.cli.sink_errors import EXIT_REFUSED, told_sink_errors
from otel_audit_exporter.config.settings import Settings, load_settings
from otel_audit_exporter.errors import AuditDeliveryError
from otel_audit_exporter.event.routing import DEFAULT_TRAIL
from otel_audit_exporter.observability.losses import whoami
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.pipeline.stored import address_of, settings_of_trail
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.table.catalogs import table_source
from otel_audit_exporter.table.purges import Purge, boundary, open_purge
from otel_audit_exporter.table.readers import QueryError
from otel_audit_exporter.trail.access import NO_TENANT, trail_as_entity

BEGUN: Final = "audit.purge_started"
PURGED: Final = "audit.purged"


def _boundary(age: str) -> datetime:
    try:
        return boundary(age, datetime.fromtimestamp(Clock.wall(), UTC))
    except QueryError as error:
        raise typer.BadParameter(str(error)) from None


@with_destination
def purge(
    arguments: Arguments,
    before: Annotated[
        datetime,
        typer.Option(
            "--older-than", parser=_boundary, metavar="AGE", help="Days, weeks, months or years: 90d, 12w, 18mo, 2y."
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would go, and leave it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    by: Annotated[
        str | None, typer.Option("--by", metavar="ID", help="The user_id that the record of the purge names.")
    ] = None,
    recorded_tenant: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The tenant that the record is written for; what goes is of all tenants."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each record of the purge.", min=0)] = 30.0,
    trail: TrailOption = None,
    database: DatabaseOption = None,
) -> None:
    """Delete the events in the table that are older than an age, whoever and whatever they are of.

    It goes by when an event happened; rows without a time stay, and so do the outbox and the dead letters. The events
    audit.purge_started and audit.purged, in the same table, say who did it, up to when and how many; what cannot be
    recorded is not deleted. Exit code: 0 all of them went, 1 the table does not let them, 2 nobody answers, or an
    option is wrong.
    """
    settings = settings_of_trail(load_settings(arguments), trail)
    with told_sink_errors(), closing(open_purge(settings)) as rows:
        found = rows.count(before)
        what = f"{talk.amount(found, 'event')} from before {talk.moment(before)} in {table_source(settings).target}"
        if dry_run or not found:
            print(talk.clean(what))
            return
        rows.try_delete()
        if not yes:
            typer.confirm(talk.clean(f"Delete {what} for good?"), abort=True, err=True)
        named = {} if database is None else {"databases": {database: address_of(settings)}}
        with configured_pipeline({**arguments, **named, "outbox": "memory"}) as pipeline:
            record = _Record(pipeline, settings, trail, database, by, _tenant(rows, recorded_tenant), timeout)
            _run(rows, record, before, found)


def _tenant(rows: Purge, said: str | None) -> str | None:
    return said or (NO_TENANT if rows.takes_tenant else None)


def _run(rows: Purge, record: _Record, before: datetime, found: int) -> None:
    """Delete batch by batch between two records: a purge that is cut off in between has left the first."""
    limits = {"before": before.isoformat(), "found": found, "by": whoami()}
    begun = record.write(BEGUN, limits)
    if begun is not None:
        talk.problem(
            f"nothing was deleted, as it cannot be recorded: {begun}; --by and --recorded-tenant name the user and the "
            "tenant of the record"
        )
        raise typer.Exit(EXIT_REFUSED)
    gone, whole = 0, False
    try:
        with talk.NOTES.status(f"deleting {talk.amount(found, 'event')}") as status:
            for count in rows.delete(before):
                gone += count
                status.update(f"{gone:,} of {talk.amount(found, 'event')} deleted")
        whole = True
    finally:
        talk.say(f"{talk.amount(gone, 'event')} deleted{'' if whole else f' of {found:,}, and no more'}")
        ended = record.write(PURGED, {**limits, "count": gone}, outcome="success" if whole else "failure")
        if ended is not None:
            talk.problem(f"the table holds only that it was begun ({BEGUN}), not what came of it: {ended}")
    if ended is not None:
        raise typer.Exit(EXIT_REFUSED)


@dataclass(frozen=True)
class _Record:
    """Writes the events about a purge, to the place that is purged: there the gap is seen."""

    pipeline: AuditPipeline
    settings: Settings
    trail: str | None
    database: str | None
    user: str | None
    tenant: str | None
    timeout: float

    def write(self, action: str, details: dict[str, Any], *, outcome: str = "success") -> str | None:
        """Write an event, and wait until it is in the table; return why it is not."""
        event: dict[str, Any] = {
            "action": action,
            **trail_as_entity(self.trail or DEFAULT_TRAIL, self.settings.ids),
            "yacht_id": self.tenant,
            "user_id": self.user,
            "actor_type": "user" if self.user else "system",
            "trail": self.trail,
            "database": self.database,
            "new_values": details,
            "outcome": outcome,
        }
        receipt = self.pipeline.submit({name: value for name, value in event.items() if value is not None})
        try:
            receipt.result(self.timeout)
        except AuditDeliveryError as error:
            return str(error.cause or error)
        return None
