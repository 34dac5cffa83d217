"""`otel-audit check`: whether the table fits the settings, and the settings that fit it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.destination import Arguments, configured_pipeline, with_destination
from otel_audit_exporter.cli.sink_errors import EXIT_REFUSED, told_sink_errors
from otel_audit_exporter.config.settings import Settings, load_settings
from otel_audit_exporter.errors import AuditConfigurationError, AuditDeliveryError
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS
from otel_audit_exporter.event.validation import EventValidator
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.table.catalogs import TableCatalog, table_source
from otel_audit_exporter.table.compatibility import (
    MARK,
    CheckReport,
    Column,
    ColumnMapping,
    TableDescription,
    examine,
    values_that_fit,
)
from otel_audit_exporter.table.ddl import add_key_sql, columns_text
from otel_audit_exporter.table.mapping import TableMapping
from otel_audit_exporter.table.read_back import places
from otel_audit_exporter.table.suggestion import Suggestion, suggest
from otel_audit_exporter.table.target import table_exporter


@with_destination
def check(
    arguments: Arguments,
    write: Annotated[
        bool, typer.Option("--write", help=f"Write one event, marked {MARK}, through the real sink, and time it.")
    ] = False,
    yacht: Annotated[str | None, typer.Option(help="The yacht_id of the trial event; made up by default.")] = None,
    user: Annotated[str | None, typer.Option(help="Its user_id.")] = None,
    entity: Annotated[
        tuple[str, str] | None, typer.Option(metavar="TYPE ID", help="Its entity_type and entity_id.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for --write.", min=0)] = 30.0,
) -> None:
    """See whether rows would land in the table, and print the settings that fit it.

    Lists each column with the field that fills it, and says what is missing, NOT NULL and not filled, of a wrong
    type, not granted, or refused by row-level security. What no event can fill is a line marked TODO: no value is made
    up. Without --write nothing is left in the table; with it the row is read back, and each field is told with its
    place. Exit code: 0 it fits, 1 writing would fail, something is left to do or lost, 2 the table cannot be reached.
    """
    settings = load_settings(arguments)
    ids = {"yacht_id": yacht, "user_id": user}
    if entity is not None:
        ids |= {"entity_type": entity[0], "entity_id": entity[1]}
    said = {name: value for name, value in ids.items() if value is not None}
    with told_sink_errors():
        fits, values = _Check(settings, said).run()
    if write and fits:
        fits = _write(settings, arguments, {**values, **said}, timeout)
    elif write:
        talk.say("nothing was written: mend the faults first")
    if not fits:
        raise typer.Exit(EXIT_REFUSED)


_WHY: Final = (
    "The id of an event is a UUID, by which a repeat is known, and the table has no unique column for it. Add one, as\n"
    "the table's owner; rows that are there keep NULL:"
)


@dataclass
class _Check:
    """One look at one table."""

    settings: Settings
    said: dict[str, str]

    def run(self) -> tuple[bool, Mapping[str, int | str]]:
        """Print what is found; return whether rows would land, and the values that a made-up event has to say."""
        source = table_source(self.settings)
        print(f"{table_exporter(self.settings)}  {talk.clean(source.target)}\n")
        present = _present(self.settings)
        facts = source.describe()
        findings, shown = self._look(source, facts, present)
        fits = not findings.faults
        for fault in findings.faults:
            print(f"FAULT  {talk.clean(fault)}")
        for note in findings.notes:
            print(f"note   {talk.clean(note)}")
        if facts is None and not fits:
            print("\nWhich settings would fit cannot be told.")
        else:
            self._print_settings(shown, fits=fits, present=shown.fit is present)
        return fits, values_that_fit(facts, present) if facts else {}

    def _look(
        self, source: TableCatalog, facts: TableDescription | None, present: ColumnMapping
    ) -> tuple[CheckReport, Suggestion]:
        if facts is None:
            print("The table describes itself to nobody, or is made on first use.\n")
            return self._try(source, present, {}), Suggestion(present, {})
        findings = examine(facts, present, finds_key=source.finds_key, unmapped=self.settings.unmapped)
        _print_columns(facts, present)
        shape_fits = not findings.faults
        shown = Suggestion(present, {}) if shape_fits else suggest(facts, present, finds_key=source.finds_key)
        if shown.todo or shown.new_key:
            findings.notes.append("no trial insert was made, as something is left to do")
        else:
            found = self._try(source, shown.fit, values_that_fit(facts, shown.fit))
            if found.unfilled:  # what the description does not tell
                facts = facts.without_fillers(found.unfilled)
                shown = suggest(facts, present, finds_key=source.finds_key)
            findings.add(found if shape_fits else found.said_of("with the settings below"))
        if "timestamp" not in shown.fit.columns.values():
            findings.notes.append("without a column for timestamp the table cannot be read in order, nor purged by age")
        if source.untold:
            findings.notes.append(source.untold)
        return findings, shown

    def _try(self, source: TableCatalog, fit: ColumnMapping, values: Mapping[str, int | str]) -> CheckReport:
        event = EventValidator(ids="text", required=()).compose(_event({**values, **self.said}))
        mapping = TableMapping(fit.columns, fit.defaults, "drop")  # a fit may have no column to fold into
        return source.try_insert(fit, mapping.row(event.body))

    def _print_settings(self, shown: Suggestion, *, fits: bool, present: bool) -> None:
        variables = shown.fit.variables()
        if fits:
            print("\nThe table fits the settings." if variables else "\nThe table fits the default settings.")
        elif shown.new_key:
            print(f"\n{_WHY}")
            print(add_key_sql(self.settings.schema, self.settings.table, shown.new_key, table_exporter(self.settings)))
            print("\nSettings that fit the columns then:")
        else:
            print("\nThe settings fit the columns:" if present else "\nSettings that fit the columns:")
        variables.setdefault("OTEL_AUDIT_COLUMNS", columns_text(shown.fit.columns))
        for name, value in variables.items():
            print(f"{name}={talk.clean(value)}")
        for column, reason in shown.todo.items():
            print(f'# TODO column "{talk.clean(column)}" {talk.clean(reason)}')
        try:
            TableMapping(shown.fit.columns, shown.fit.defaults, self.settings.unmapped, self.settings.surroundings)
        except AuditConfigurationError as error:  # no column to keep the other fields in
            print(f"# TODO {talk.clean(str(error))}")


def _present(settings: Settings) -> ColumnMapping:
    columns = dict(settings.columns or DEFAULT_COLUMNS)
    TableMapping.from_settings(settings)  # refuses what is wrong in itself
    return ColumnMapping(columns, dict(settings.column_defaults or {}), settings.ids, settings.key_columns)


# What an event can say besides.
_FULL: Final[Mapping[str, Any]] = {
    "outcome": "failure",
    "on_behalf_of": MARK,
    "metadata": {f"{MARK}_metadata": True},
}


def _event(said: Mapping[str, Any]) -> dict[str, Any]:
    made_up = {name: str(uuid.uuid4()) for name in ("yacht_id", "entity_id", "user_id")}
    marked = {"action": MARK, "entity_type": MARK, "old_values": {MARK: "old"}, "new_values": {MARK: "new"}}
    return {**made_up, **marked, **said}


def _print_columns(facts: TableDescription, present: ColumnMapping) -> None:
    rows = [_line(column, present) for column in facts.columns]
    rows += [
        [name, Text("missing", "red"), "", said] for name, said in present.columns.items() if not facts.column(name)
    ]
    talk.print_table(("column", "type", "null", "filled by"), rows)
    print()


def _line(column: Column, present: ColumnMapping) -> list[str | Text]:
    said = present.columns.get(column.name)
    parts = [said] if said else []
    if column.name in present.defaults:
        parts.append(f"column_defaults: {talk.json_text(present.defaults[column.name])}")
    elif said is None and column.filled is not False:
        parts.append("the database" if column.filled else "the database, perhaps")
    nothing = Text("nothing", "red" if column.not_null else "dim")
    return [column.name, column.type, "NOT NULL" if column.not_null else "", " or ".join(parts) or nothing]


def _write(settings: Settings, arguments: Arguments, said: Mapping[str, Any], timeout: float) -> bool:
    """Write one event, say how long it took and where each field is; True if all of it is in the table."""
    options = {**arguments, "exporter": table_exporter(settings), "outbox": "memory"}
    event = {**_FULL, **_event(said), "timestamp": datetime.now(UTC)}
    try:
        with configured_pipeline(options) as pipeline:
            begun = Clock.monotonic()
            receipt = pipeline.submit(event)
            receipt.result(timeout)
            took = Clock.monotonic() - begun
    except AuditDeliveryError as error:
        talk.problem(f"the event was not written: {error.cause}")
        return False
    print(f"\nWrote event {receipt.record_id} ({MARK}) in {took * 1000:.1f} ms, connecting included. It stays there.")
    return _read_back(settings, {"record_id": receipt.record_id, **event})


def _read_back(settings: Settings, event: Mapping[str, Any]) -> bool:
    key = _present(settings).id_column
    try:
        row = table_source(settings).read_row(key, event["record_id"])
    except SinkError as error:
        talk.say(f"It could not be read back: {error}. Run this with a role that may read to see where each field is.")
        return True
    if row is None:
        talk.say("It could not be read back: this role sees no such row. Run this with a role that may read.")
        return True
    found = places(event, row, _present(settings).columns)
    for field, place in found.items():
        print(f"  {field:<13} {talk.clean(place) if place else 'LOST'}")
    lost = [field for field, place in found.items() if place is None]
    if lost:
        talk.problem(f"nothing in the row holds {', '.join(lost)}: see OTEL_AUDIT_COLUMNS and OTEL_AUDIT_UNMAPPED")
    return not lost
