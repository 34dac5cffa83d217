"""The commands put together, and what an error of the library becomes on the command line."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.check import check
from otel_audit_exporter.cli.dead_letters import dead_letters
from otel_audit_exporter.cli.demo import demo
from otel_audit_exporter.cli.emit import emit
from otel_audit_exporter.cli.events import events, history, tail
from otel_audit_exporter.cli.losses import losses
from otel_audit_exporter.cli.outbox import outbox
from otel_audit_exporter.cli.purge import purge
from otel_audit_exporter.cli.redact_check import redact_check
from otel_audit_exporter.cli.schema import schema
from otel_audit_exporter.cli.status import status
from otel_audit_exporter.errors import AuditConfigurationError, AuditError

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2


class AuditGroup(TyperGroup):
    """Commands whose errors are printed in words: exit code 2 for a wrong setting, 1 for what went wrong."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except AuditConfigurationError as error:
            talk.problem(str(error))
            raise typer.Exit(EXIT_CONFIGURATION) from error
        except (AuditError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            talk.problem(str(error))
            raise typer.Exit(EXIT_FAILED) from error


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"otel-audit {_version()}")
        raise typer.Exit


def _version() -> str:
    try:
        return version("otel-audit-exporter")
    except PackageNotFoundError:
        return "(not installed)"


def _set_up(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Audit events: emit them, see what waits or is parked, and deliver it.

    Settings come from the environment (OTEL_AUDIT_EXPORTER, SUPABASE_URL, ...), as in the application. Data goes to
    stdout, everything else to stderr. Exit codes: 0 all done, 1 something was not, 2 a wrong option or setting.
    """
    talk.show_log()


app = typer.Typer(
    cls=AuditGroup,
    callback=_set_up,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(emit)
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(outbox, name="outbox")
app.add_typer(losses, name="losses")
app.command()(status)
app.command()(demo)
app.command()(check)
app.command()(schema)
app.command()(redact_check)
app.command()(events)
app.command()(tail)
app.command()(history)
app.command()(purge)
