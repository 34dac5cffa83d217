"""`otel-audit dead-letters`: look at what the table refused, correct the cause, and try again."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import IO, Annotated

import typer

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.destination import Arguments, DatabaseOption, TrailOption, with_destination
from otel_audit_exporter.config.settings import load_settings
from otel_audit_exporter.delivery.dead_letters import DeadLetters, StoredLetters
from otel_audit_exporter.errors import AuditConfigurationError, AuditEventError
from otel_audit_exporter.event.encoded_event import decode
from otel_audit_exporter.outbox.dead_letter_store import DeadLetter, StoredDeadLetter
from otel_audit_exporter.pipeline.stored import stored_letters


class Format(str, Enum):  # noqa: UP042  # typer shows the values of a str enum
    """How a list is printed."""

    table = "table"
    json = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="A table for people, or a line of JSON each.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The record's id.", show_default=False)]

dead_letters = typer.Typer(
    no_args_is_help=True,
    help="Rows that the table refused and that others prove to be at fault themselves: parked, with the reason.",
)


@dead_letters.command("list")
@with_destination
def list_letters(
    arguments: Arguments,
    form: FormatOption = Format.table,
    limit: Annotated[int, typer.Option(help="The longest table; JSON has all of them.", min=1)] = 1000,
    trail: TrailOption = None,
    database: DatabaseOption = None,
) -> None:
    """List the dead letters, the oldest first."""
    with _opened(arguments, trail, database) as stored:
        if form is Format.json:
            for letter in DeadLetters(stored):
                talk.print_json(asdict(letter))
            return
        rows = [_summary(parked) for parked in stored.dead_letters.page(None, limit)]
        left = stored.dead_letters.count() - len(rows)
    if rows:
        talk.print_table(("id", "action", "entity", "error", "tries", "parked"), rows, right=("tries",))
    else:
        talk.say("no dead letters")
    if left > 0:
        talk.say(f"and {left:,} more: --limit, or --format json")


@dead_letters.command("show")
@with_destination
def show(
    record_id: IdArgument,
    arguments: Arguments,
    form: FormatOption = Format.table,
    trail: TrailOption = None,
    database: DatabaseOption = None,
) -> None:
    """Show one dead letter with its row as it would be written."""
    with _opened(arguments, trail, database) as stored:
        letter = _the(DeadLetters(stored), record_id)
    if form is Format.json:
        talk.print_json(asdict(letter))
        return
    details = asdict(letter)
    row, fields = details.pop("row"), details.pop("fields")
    for name, value in details.items():
        text = talk.moment(value) if name.endswith("_at") else "" if value is None else str(value)
        print(f"{name:<15} {talk.clean(text)}")
    print("fields" if row is None else "row")
    talk.print_json(fields if row is None else row, indent=True)


@dead_letters.command("retry")
@with_destination
def retry(
    arguments: Arguments,
    record_id: Annotated[str, typer.Argument(metavar="[ID]", help="One id; all if left out.", show_default=False)] = "",
    trail: TrailOption = None,
    database: DatabaseOption = None,
) -> None:
    """Offer one dead letter, or all of them, to the table again.

    What is refused again stays, with the new reason, and the exit code is 1.
    """
    with _opened(arguments, trail, database) as stored:
        letters = DeadLetters(stored)
        asked = 1 if record_id else len(letters)
        landed = letters.retry(_the(letters, record_id).record_id if record_id else None)
    talk.say(f"{landed:,} of {talk.amount(asked, 'dead letter')} in the table now")
    refused = asked - landed - letters.passed_over
    if letters.passed_over:
        talk.problem(f"{letters.passed_over:,} passed over, wrong by themselves: see otel-audit dead-letters edit")
    if refused > 0:
        talk.problem(f"{refused:,} refused again: see otel-audit dead-letters list")
    if landed < asked:
        raise typer.Exit(1)


@dead_letters.command("edit")
@with_destination
def edit(
    record_id: IdArgument,
    arguments: Arguments,
    changes: Annotated[
        list[str], typer.Option("--set", metavar="FIELD=VALUE", help="A field's new value; FIELD= for none.")
    ],
    reason: Annotated[str, typer.Option(help="Why: it is written into the row.")],
    force: Annotated[bool, typer.Option("--force", help="Change the tenant, the actor or the time, too.")] = False,
    trail: TrailOption = None,
    database: DatabaseOption = None,
) -> None:
    """Correct one dead letter, so that a retry can deliver it.

    It is checked anew. What it said before is kept; who, when, what and why is in the row, under _audit.corrected.
    """
    with _opened(arguments, trail, database) as stored:
        letters = DeadLetters(stored, stored.rules)
        letter = _the(letters, record_id)
        try:
            letters.edit(letter.record_id, _changes(changes), reason, force=force)
        except (AuditEventError, ValueError) as error:
            talk.problem(str(error))
            raise typer.Exit(1) from None
    talk.say(f"corrected; now: otel-audit dead-letters retry {letter.record_id}")


def _changes(pairs: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise ValueError(f"--set {pair}: must be FIELD=VALUE")
        found[name.strip()] = value or None
    return found


@dead_letters.command("export")
@with_destination
def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A new file; - is stdout.", show_default=False)],
    arguments: Arguments,
    trail: TrailOption = None,
    database: DatabaseOption = None,
) -> None:
    """Write every dead letter as a line of JSON."""
    with _opened(arguments, trail, database) as stored:
        letters = DeadLetters(stored)
        if file == "-":
            _write_all(letters, sys.stdout)
            return
        with _new_file(Path(file)) as target:
            count = _write_all(letters, target)
    talk.say(f"{talk.amount(count, 'dead letter')} written to {file}")


@dead_letters.command("drop")
@with_destination
def drop(
    record_id: IdArgument,
    arguments: Arguments,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    to: Annotated[
        Path | None, typer.Option(help="The file that keeps what is dropped (default: dropped-ID.json here).")
    ] = None,
    trail: TrailOption = None,
    database: DatabaseOption = None,
) -> None:
    """Remove one dead letter for good, after writing it to a file."""
    with _opened(arguments, trail, database) as stored:
        letters = DeadLetters(stored)
        letter = _the(letters, record_id)
        path = to or Path(f"dropped-{_as_file_name(letter.record_id)}.json")
        if not yes:
            typer.confirm(f"Remove {letter.record_id} ({letter.error}) for good?", abort=True, err=True)
        with _new_file(path) as target:
            target.write(talk.json_text(asdict(letter)) + "\n")
        letters.drop(letter.record_id)
    talk.say(f"dropped; kept in {path}")


@contextmanager
def _opened(arguments: Arguments, trail: str | None, database: str | None) -> Iterator[StoredLetters]:
    """Open the dead letters of the configured destination; nothing else of its outbox is touched."""
    letters = stored_letters(load_settings(arguments), trail, database)
    try:
        yield letters
    finally:
        letters.sink.close()


def _the(letters: DeadLetters, record_id: str) -> DeadLetter:
    letter = letters.get(record_id) or letters.get(record_id.strip().lower())
    if letter is None:
        talk.problem(f"there is no dead letter with the id {record_id}")
        raise typer.Exit(1)
    return letter


def _as_file_name(record_id: str) -> str:
    """Return the id, or where other code made one that is no file name, something like it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", record_id)[:80]


def _summary(parked: StoredDeadLetter) -> tuple[str, ...]:
    try:
        said = decode(parked.body)
    except ValueError:  # no event at all
        said = {}
    return (
        parked.record_id,
        str(said.get("action") or ""),
        str(said.get("entity_type") or ""),
        parked.error,
        str(parked.attempts),
        talk.moment(datetime.fromtimestamp(parked.parked_at, UTC)),
    )


def _write_all(letters: DeadLetters, target: IO[str]) -> int:
    count = 0
    for letter in letters:
        target.write(talk.json_text(asdict(letter)) + "\n")
        count += 1
    return count


@contextmanager
def _new_file(path: Path) -> Iterator[IO[str]]:
    """Open a file that must not be there yet, for this user alone; it is on the disk before this returns."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise AuditConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    with open(descriptor, "w", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
