"""What a sink's refusal becomes on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault

EXIT_REFUSED: Final = 1
EXIT_UNREACHABLE: Final = 2


@contextmanager
def told_sink_errors() -> Iterator[None]:
    """Print a refusal with what to do about it, and end: exit code 2 where nobody answers, else 1."""
    try:
        yield
    except SinkError as error:
        remedy = f": {error.verdict.remedy}" if error.verdict.remedy else ""
        talk.problem(f"{error}{remedy}")
        transient = error.verdict.fault is Fault.TRANSIENT
        raise typer.Exit(EXIT_UNREACHABLE if transient else EXIT_REFUSED) from error
