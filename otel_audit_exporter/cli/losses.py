"""`otel-audit losses`: what was rejected, lost or parked in the last day, and that somebody has seen it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.dead_letters import Format, FormatOption
from otel_audit_exporter.cli.destination import Arguments, DatabaseOption, TrailOption, with_destination
from otel_audit_exporter.config.settings import load_settings
from otel_audit_exporter.observability.losses import WHAT_TO_DO_WITH_PARKED, LossLedger
from otel_audit_exporter.pipeline.stored import stored_losses

losses = typer.Typer(help="Events that are not on their way to the table: rejected, lost, or parked.")
_COLUMNS = ("count", "kind", "last", "cause", "what to do", "one of them")


@losses.callback(invoke_without_command=True)
@with_destination
def show(
    context: typer.Context,
    arguments: Arguments,
    form: FormatOption = Format.table,
    trail: TrailOption = None,
    database: DatabaseOption = None,
) -> None:
    """Show the losses of the last 24 hours that nobody has acknowledged, and the latest acknowledgement.

    Those of all processes of the destination. Acknowledge them: `otel-audit losses acknowledge --reason TEXT`.
    """
    if context.invoked_subcommand is not None:
        return
    ledger = stored_losses(load_settings(arguments), trail, database)
    records = ledger.records()
    parked = ledger.parked(records)
    if form is Format.json:
        talk.print_json({**asdict(records), "parked": parked.count})
        return
    rows: list[tuple[str, ...]] = [
        (f"{one.count:,}", one.kind, _moment(one.last_at), one.cause, one.remedy, one.example) for one in records.losses
    ]
    if parked.count:
        rows.append(
            (f"{parked.count:,}", "parked", _moment(parked.newest_at), parked.error, WHAT_TO_DO_WITH_PARKED, "")
        )
    if rows:
        talk.print_table(_COLUMNS, rows, right=("count",), whole=("last",))
    else:
        talk.say("no losses in the last 24 hours that nobody has acknowledged")
    for one in records.acknowledgements[-1:]:
        talk.say(f"acknowledged {_moment(one.at)} by {one.by}: {one.reason}")


@losses.command("acknowledge")
@with_destination
def acknowledge(
    reason: Annotated[str, typer.Option("--reason", help="What was found or done.", show_default=False)],
    arguments: Arguments,
    trail: TrailOption = None,
    database: DatabaseOption = None,
) -> None:
    """Record that somebody has seen all losses so far: health then judges by what comes later.

    Dead letters stay where they are.
    """
    ledger: LossLedger = stored_losses(load_settings(arguments), trail, database)
    if not reason.strip():
        raise typer.BadParameter("must not be empty", param_hint="--reason")
    talk.say(f"{talk.amount(ledger.acknowledge(reason), 'event')} acknowledged")


def _moment(at: float) -> str:
    return talk.moment(datetime.fromtimestamp(at, UTC))
