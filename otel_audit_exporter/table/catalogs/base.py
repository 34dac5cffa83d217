"""What every catalog has: a table's description, and a trial of the insert that leaves nothing behind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.sqlstate_rules import classify_sqlstate, describe_sqlstate
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.table.compatibility import CheckReport, ColumnMapping, TableDescription

_NO_TABLE: Final = "42P01"
_TAKES_NO_NULL: Final = re.compile(r'column "([^"]+)" of table "[^"]+" does not take null')
# A check or a trigger, which may let other events pass.
_OWN_RULES: Final = frozenset({"23514", "P0001", "SQLITE_CONSTRAINT_CHECK", "SQLITE_CONSTRAINT_TRIGGER"})


class TableCatalog(Protocol):
    """Looks at the table that one sink writes to. Each method raises :class:`SinkError` where it cannot."""

    target: str
    finds_key: bool

    def describe(self) -> TableDescription | None:
        """Return what the table has; None where that cannot be known, or the table is made on first use."""

    untold: str
    """What the description does not tell; empty where it tells all."""

    def read_row(self, column: str, record_id: str) -> dict[str, Any] | None:
        """Return the row with this id, by column; None where there is none."""

    def try_insert(self, fit: ColumnMapping, row: bytes) -> CheckReport:
        """Say what an insert by these settings would be refused for, without leaving a row."""


def note_refusal(verdict: Verdict, said: str, code: str | None, findings: CheckReport) -> None:
    """Sort what a trial insert was refused for."""
    said = f"{said}: {verdict.remedy}" if verdict.remedy else said
    if verdict.foreign_key:
        findings.notes.append(f"a trial event was refused for its made-up ids: {said}; try with --yacht and --user")
    elif code in _OWN_RULES and verdict.fault is Fault.RECORD:
        findings.notes.append(f"a trial event was refused: {said}; see whether your own events pass")
    else:
        findings.faults.append(said)
        if unfilled := _TAKES_NO_NULL.match(said):
            findings.unfilled.append(unfilled[1])


def no_such_table(name: str, others: Sequence[str]) -> SinkError:
    message = f'relation "{name}" does not exist'
    verdict = classify_sqlstate(_NO_TABLE, message)
    there = f" (there are: {', '.join(others)})" if others else ""
    said = Verdict(verdict.fault, verdict.remedy + there)
    return SinkError(said, describe_sqlstate(_NO_TABLE, message), code=_NO_TABLE)
