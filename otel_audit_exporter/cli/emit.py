"""`otel-audit emit`: audit events from JSON lines."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.destination import (
    Arguments,
    configured_pipeline,
    tell_undelivered,
    with_destination,
)
from otel_audit_exporter.cli.json_lines import Line, LineError, read_lines
from otel_audit_exporter.errors import AuditConfigurationError, AuditEventError, OutboxFullError
from otel_audit_exporter.observability.stats import AuditStats
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.runtime.clock import Clock

_LINES_BETWEEN_UPDATES: Final = 200
_EXIT_INTERRUPTED: Final = 130
_FLUSH_STEP_SECONDS: Final = 0.25


@with_destination
def emit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file of JSON lines; - is stdin.", show_default=False)],
    arguments: Arguments,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the delivery at the end.", min=0)] = 30.0,
) -> None:
    """Write the audit events of a file of JSON lines.

    The keys of a line are the arguments of audit_event(); timestamp is ISO 8601 text with a time zone. A bad line is
    reported with its number and the rest is written. Exit code 1: a line was bad, or a row is not in the table yet.

    To be able to run it twice on the same file, give the lines a record_id or an idempotency_key: an id that is in
    the table already is left as it is. Without them every run writes new rows.
    """
    with _opened(file) as source, configured_pipeline(arguments) as pipeline:
        run = _Run(pipeline, timeout)
        with _Bar(_size_of(source)) as bar:
            run.go(source, bar)
    stats = pipeline.stats()
    _tell(run, stats)
    if run.interrupted:
        raise typer.Exit(_EXIT_INTERRUPTED)
    if run.bad or run.stopped_at or stats.pending or stats.failed:
        raise typer.Exit(1)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        if sys.stdin is None:
            raise AuditConfigurationError("stdin is closed: there is nothing to read")
        yield sys.stdin.buffer
        return
    try:
        source = Path(file).open("rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise AuditConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    with source:
        yield source


def _size_of(source: BinaryIO) -> int | None:
    try:
        status = os.fstat(source.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@dataclass
class _Run:
    """One file on its way through the pipeline."""

    pipeline: AuditPipeline
    timeout: float
    written: int = 0
    bad: int = 0
    line: int = 0
    stopped_at: int = 0
    interrupted: bool = False

    def go(self, source: BinaryIO, bar: _Bar) -> None:
        """Write and deliver, until it is done or somebody presses Ctrl-C."""
        try:
            self.write(source, bar)
            self.deliver(bar)
        except KeyboardInterrupt:
            self.interrupted = True

    def write(self, source: BinaryIO, bar: _Bar) -> None:
        """Hand every line to the pipeline; report the bad ones."""
        for line in read_lines(source):
            self.line = line.number
            if not self._write_line(line):
                self.stopped_at = line.number
                return
            if (self.written + self.bad) % _LINES_BETWEEN_UPDATES == 0:
                bar.show(self, line.end)

    def _write_line(self, line: Line) -> bool:
        """Write one line; False where there is no room for it in the outbox."""
        try:
            said = line.arguments()
            try:
                self.pipeline.submit(said)
            except OutboxFullError:
                if not self.pipeline.force_flush(self.timeout * 1000):
                    return False
                self.pipeline.submit(said)
            self.written += 1
        except (LineError, AuditEventError) as error:
            self.bad += 1
            talk.problem(f"line {line.number}: {_fault(error)}")
        return True

    def deliver(self, bar: _Bar) -> None:
        """Wait for the delivery, as long as the time that was given allows."""
        deadline = Clock.monotonic() + self.timeout
        while not self.pipeline.force_flush(self._step(deadline)) and Clock.monotonic() < deadline:
            bar.show(self)
        bar.show(self)

    def _step(self, deadline: float) -> float:
        return max(min(deadline - Clock.monotonic(), _FLUSH_STEP_SECONDS), 0.0) * 1000


def _fault(error: LineError | AuditEventError) -> str:
    if isinstance(error, AuditEventError):
        return "; ".join(f"{field}: {what}" for field, what in error.problems.items())
    return str(error)


def _tell(run: _Run, stats: AuditStats) -> None:
    parts = [f"{talk.amount(run.written, 'event')} written", f"{stats.succeeded:,} in the table"]
    if run.bad:
        parts.append(talk.amount(run.bad, "bad line"))
    if stats.recovered:
        parts.append(f"{stats.recovered:,} taken over from earlier processes")
    talk.say(", ".join(parts))
    if stats.failed:
        talk.problem(f"{talk.amount(stats.failed, 'event')} parked, refused by the table: see otel-audit dead-letters")
    if stats.pending:
        tell_undelivered(run.pipeline, stats, run.timeout)
    if run.interrupted:
        talk.problem(f"interrupted at line {run.line}")
    if run.stopped_at:
        talk.problem(f"stopped before line {run.stopped_at}: the outbox is full, and the sink takes nothing")


class _Bar:
    """The progress, on a terminal only: bytes where the size of the input is known, else a count."""

    def __init__(self, total: int | None) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[what]}"),
            BarColumn(),
            TextColumn("{task.fields[counts]}"),
            console=talk.NOTES,
            transient=True,
            disable=not talk.NOTES.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("", total=total, what="writing", counts="")

    def show(self, run: _Run, read_bytes: int | None = None) -> None:
        """Show how far it is; ``read_bytes`` is None once everything has been read."""
        if self._progress.disable:
            return
        stats = run.pipeline.stats()
        counts = f"{run.written:,} written  {stats.succeeded:,} in the table"
        if run.bad:
            counts += f"  {run.bad:,} bad"
        if read_bytes is not None:
            self._progress.update(self._task, completed=read_bytes, counts=counts)
        else:
            settled = stats.succeeded + stats.failed
            self._progress.update(
                self._task, what="delivering", total=settled + stats.pending, completed=settled, counts=counts
            )

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()
