"""Whose fault a refused insert is, and what to do about it.

A verdict comes out of tables of rules: :mod:`sqlstate_rules` for PostgreSQL's codes (which PostgREST forwards),
:mod:`postgrest_rules` for PostgREST's own, :mod:`http_rules` for statuses. What a server says is quoted only where a
rule's pattern knows the sentence, and of it only the names of columns, tables, schemas, roles, types and constraints:
anything else may hold a row's values.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from otel_audit_exporter.sinks.one_line import one_line

FIX_ROW: Final = "correct the row and retry it, or let the column take such a value"
FOREIGN_KEY_CODES: Final = frozenset({"23503", "SQLITE_CONSTRAINT_FOREIGNKEY"})


class Fault(enum.Enum):
    """Whose fault it is that rows were not stored."""

    TRANSIENT = "transient"
    """Nobody's for long: try the same bytes again."""
    RECORD = "record"
    """That of one or more rows: narrow down, and park the rows at fault."""
    CONFIGURATION = "configuration"
    """That of a setting or of the table: hold everything until somebody mends it."""


@dataclass(frozen=True)
class Verdict:
    """What is to be done about one refused insert.

    ``remedy`` says what to fix, for people (empty where one can only wait). ``halve``: try
    again with half of the rows. ``park_at_once``: the code is nearly always the value's own. ``foreign_key``:
    the row that this one refers to may still arrive. ``perhaps_stored``: the rows may be in the table all the
    same.
    """

    fault: Fault
    remedy: str = ""
    halve: bool = False
    park_at_once: bool = False
    foreign_key: bool = False
    perhaps_stored: bool = False


UNREACHABLE: Final = Verdict(Fault.TRANSIENT, "check the address, the network, and that the server runs")
"""No connection came about: surely nothing is stored."""
CUT_OFF: Final = Verdict(Fault.TRANSIENT, perhaps_stored=True)
"""The connection broke, or time ran out, after something was sent."""
OUT_OF_TIME: Final = Verdict(Fault.TRANSIENT)
"""Time ran out before anything was sent."""


class Rule(NamedTuple):
    """A verdict, and the words for it; ``{name}`` stands for a name out of the server's sentence."""

    fault: Fault
    condition: str
    remedy: str = ""
    sentence: str = ""
    halve: bool = False
    park_at_once: bool = False
    foreign_key: bool = False
    perhaps_stored: bool = False


class Finding(NamedTuple):
    """A rule that was found, and the names out of the server's sentence."""

    rule: Rule
    names: Mapping[str, str]

    def verdict(self) -> Verdict:
        """Return what is to be done, with the names in it."""
        rule = self.rule
        return Verdict(
            rule.fault,
            rule.remedy.format_map(self.names),
            halve=rule.halve,
            park_at_once=rule.park_at_once,
            foreign_key=rule.foreign_key,
            perhaps_stored=rule.perhaps_stored,
        )

    def condition(self) -> str:
        """Return what happened, with the names in it."""
        return self.rule.condition.format_map(self.names)


def transient(condition: str, remedy: str = "", sentence: str = "", *, halve: bool = False) -> Rule:
    """Return the rule of a fault that passes by itself, after which surely nothing is stored."""
    return Rule(Fault.TRANSIENT, condition, remedy, sentence, halve=halve)


def unknown(condition: str, remedy: str = "") -> Rule:
    """Return the rule of a fault that passes by itself, after which the rows may be stored."""
    return Rule(Fault.TRANSIENT, condition, remedy, perhaps_stored=True)


def record(condition: str, remedy: str = "", sentence: str = "") -> Rule:
    """Return the rule of a fault that one or more rows have."""
    return Rule(Fault.RECORD, condition, remedy, sentence)


def bad_value(condition: str, remedy: str, sentence: str = "") -> Rule:
    """Return the rule of a row's fault whose code means a wrong value, independent of the table."""
    return Rule(Fault.RECORD, condition, remedy, sentence, park_at_once=True)


def configuration(condition: str, remedy: str, sentence: str = "") -> Rule:
    """Return the rule of a fault that a setting or the table has."""
    return Rule(Fault.CONFIGURATION, condition, remedy, sentence)


def first_match(rules: tuple[Rule, ...], message: str) -> Finding | None:
    """Return the first rule whose sentence is found in ``message``; a rule without one matches always."""
    for rule in rules:
        match = re.search(rule.sentence, message)
        if match:
            return Finding(rule, {name: one_line(value or "") for name, value in match.groupdict().items()})
    return None
