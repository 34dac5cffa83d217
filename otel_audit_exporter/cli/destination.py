"""The options that say where rows go, the same for every command, on top of the environment's settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.config.options import SETTINGS
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.observability.stats import AuditStats
from otel_audit_exporter.pipeline.configure import configure_audit
from otel_audit_exporter.pipeline.exporters import EXPORTERS
from otel_audit_exporter.pipeline.pipeline import AuditPipeline

# Keys and tokens are not among them: what is on a command line, every user of the machine can read.
_OFFERED: Final = ("exporter", "url", "path", "schema", "table", "ids", "outbox_dir")
_PANEL: Final = "Where rows go (else as the environment says)"

Arguments = dict[str, Any]
TrailOption = Annotated[str | None, typer.Option("--trail", metavar="NAME", help="Of this trail.")]
DatabaseOption = Annotated[
    str | None,
    typer.Option("--database", metavar="NAME", help="Of this named database; where it is, the other options say."),
]


def with_destination(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; those that were used reach it as ``arguments``."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        used = {name: kwargs.pop(name) for name in _OFFERED}
        command(*args, arguments={name: value for name, value in used.items() if value is not None}, **kwargs)

    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "arguments"]
    run.__signature__ = signature.replace(parameters=[*own, *_parameters()])  # type: ignore[attr-defined]  # for typer
    return run


def _parameters() -> Iterator[inspect.Parameter]:
    for setting in SETTINGS:
        if setting.argument in _OFFERED:
            flag = f"--{setting.argument.replace('_', '-')}"
            option = typer.Option(flag, help=_help(setting.argument), rich_help_panel=_PANEL, show_default=False)
            yield inspect.Parameter(
                setting.argument,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[str | None, option],
            )


def _help(argument: str) -> str:
    setting = next(setting for setting in SETTINGS if setting.argument == argument)
    meaning = f"one of {', '.join(EXPORTERS)}" if argument == "exporter" else setting.meaning
    default = f"; default {setting.default_text}" if setting.default_text else ""
    return f"{meaning} ({setting.variables[0]}{default})".replace("`", "")


@contextmanager
def configured_pipeline(arguments: Arguments) -> Iterator[AuditPipeline]:
    """Configure auditing for the time of a command; what is not delivered then stays in the outbox."""
    arguments = dict(arguments) | {"on_outbox_error": "raise", "on_invalid": "raise"}
    pipeline = configure_audit(arguments.pop("exporter", None), **arguments)
    try:
        yield pipeline
    finally:
        pipeline.shutdown(1000)


def tell_undelivered(pipeline: AuditPipeline, stats: AuditStats, timeout: float) -> None:
    """Say how many events were not delivered in time, why, and what becomes of them."""
    reason = f" ({stats.last_error})" if stats.last_error else ""
    fate = "lost, as the outbox is in memory"
    if pipeline.primary.channel.logs.on_disk:
        fate = (
            "kept in the outbox, and delivered by the next process with this destination, or by otel-audit outbox drain"
        )
    talk.problem(f"{talk.amount(stats.pending, 'event')} not delivered within {timeout:g} s{reason}: {fate}")


def require_outbox_on_disk(pipeline: AuditPipeline) -> None:
    """Raise an error where the configured outbox ends with its process: then nothing can wait in it."""
    if not pipeline.primary.channel.logs.on_disk:
        raise AuditConfigurationError(
            f"exporter {pipeline.name}, outbox {pipeline.settings.outbox}: nothing of it is on disk, so nothing waits "
            "there (see OTEL_AUDIT_EXPORTER and OTEL_AUDIT_OUTBOX)"
        )
