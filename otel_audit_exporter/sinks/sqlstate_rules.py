"""Whose fault an error of PostgreSQL is: one table by SQLSTATE.

A new code goes into ``_SQLSTATES``. Source: https://www.postgresql.org/docs/current/errcodes-appendix.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from otel_audit_exporter.sinks.verdict import (
    CUT_OFF,
    FIX_ROW,
    Fault,
    Finding,
    Rule,
    Verdict,
    bad_value,
    configuration,
    first_match,
    record,
    transient,
    unknown,
)

UNIQUE_VIOLATION: Final = "23505"
APPEND_ONLY: Final = "is append-only"
"""What the description of a refusal by the trigger of `otel-audit schema --append-only` ends in."""

_GRANTS: Final = (
    "grant usage on the schema, insert on the columns that are written and select on the key column(s)"
    " to the role that writes"
)
_PAST_POOLER: Final = "check the user name (postgres.<project>), the host and the region in the DSN"

# By SQLSTATE, and below by its class (the first two characters). Where several rules are given, the first one
# whose sentence is found in the server's message is taken.
_SQLSTATES: Final[Mapping[str, tuple[Rule, ...]]] = {
    "0A000": (configuration("the table does not support this insert", "write to a plain or partitioned table"),),
    "22001": (
        bad_value(
            "a value is longer than {type} allows",
            "shorten the value, or widen the column to text",
            r"value too long for type (?P<type>[a-z ]+\(\d+\))",
        ),
        bad_value("a value is longer than its column allows", "shorten the value, or widen the column to text"),
    ),
    "22003": (bad_value("a number is out of its column's range", "correct the number, or widen the column"),),
    "22007": (bad_value("a value is no date or time", FIX_ROW),),
    "22008": (bad_value("a date or time is out of range", FIX_ROW),),
    "22P02": (
        bad_value(
            "a value is no {type}",
            "correct the value, or change the column's type (text, for ids that are no UUIDs)",
            r"^invalid input (?:syntax for type|value for enum) (?P<type>[a-z_][a-z0-9_ ]*):? ",
        ),
        bad_value("a value is not of its column's type", FIX_ROW),
    ),
    "22P05": (bad_value("a text holds a character that the database cannot store", FIX_ROW),),
    "22021": (bad_value("a text is not in the database's encoding", FIX_ROW),),
    "22023": (
        configuration(
            'the token\'s role "{role}" does not exist',
            'give a token whose "role" claim names an existing role, or create role "{role}" and grant it to'
            " the role that PostgREST connects as",
            r'^role "(?P<role>[^"]+)" does not exist$',
        ),
        record("a value is not allowed", FIX_ROW),
    ),
    "23502": (
        record(
            'column "{column}" of table "{table}" does not take null',
            'give the field of column "{column}" a value, set column_defaults for it, or drop its NOT NULL',
            r'^null value in column "(?P<column>[^"]+)" of relation "(?P<table>[^"]+)" violates',
        ),
        record("a column does not take null", "give the field a value, set column_defaults, or drop the NOT NULL"),
    ),
    "23503": (
        Rule(
            Fault.RECORD,
            'what the row refers to is not there (foreign key "{constraint}" of table "{table}")',
            'write the row that "{constraint}" refers to, or drop that foreign key',
            r'table "(?P<table>[^"]+)" violates foreign key constraint "(?P<constraint>[^"]+)"',
            foreign_key=True,
        ),
        Rule(
            Fault.RECORD,
            "what the row refers to is not there",
            "write that row, or drop the foreign key",
            foreign_key=True,
        ),
    ),
    UNIQUE_VIOLATION: (
        record(
            'another row has the value that must be unique ("{constraint}")',
            'drop the unique constraint "{constraint}" if rows may share the value',
            r'^duplicate key value violates unique constraint "(?P<constraint>[^"]+)"',
        ),
        record("another row has a value that must be unique", "drop the unique constraint if rows may share it"),
    ),
    "23514": (
        configuration(
            'no partition of table "{table}" takes the row',
            'create the missing partition of "{table}", or a default one',
            r'^no partition of relation "(?P<table>[^"]+)" found',
        ),
        record(
            'the row violates check constraint "{constraint}" of table "{table}"',
            'correct the row, or relax check constraint "{constraint}"',
            r'relation "(?P<table>[^"]+)" violates (?:check|partition) constraint "(?P<constraint>[^"]+)"',
        ),
        record("the row violates a check constraint", "correct the row, or relax the constraint"),
    ),
    "25006": (
        transient(
            "the database is read-only",
            "end the read-only mode (a failover under way, or a full disk), or point at the primary",
        ),
    ),
    "25P02": (transient("the transaction has failed already", "roll it back: an earlier statement in it was refused"),),
    "28000": (
        configuration(
            'the server does not let role "{role}" in',
            'check the user in the DSN, and what the server\'s pg_hba.conf allows "{role}"',
            r'(?:role|user) "(?P<role>[^"]+)"',
        ),
        configuration("the server refuses the user", "check the user in the DSN, and the server's pg_hba.conf"),
    ),
    "28P01": (
        configuration(
            'the password of user "{role}" is wrong',
            'give the password of "{role}" in the DSN',
            r'password authentication failed for user "(?P<role>[^"]+)"',
        ),
        configuration("the password is wrong", "give the right password in the DSN"),
    ),
    "3D000": (
        configuration(
            'database "{database}" does not exist',
            "name an existing database in the DSN",
            r'database "(?P<database>[^"]+)" does not exist',
        ),
    ),
    "3F000": (
        configuration(
            'schema "{schema}" does not exist',
            'create schema "{schema}", or set OTEL_AUDIT_SCHEMA to the schema that holds the table',
            r'schema "(?P<schema>[^"]+)" does not exist',
        ),
    ),
    "40P01": (transient("a deadlock"),),
    "42501": (
        configuration(
            'row-level security of table "{table}" refuses the row',
            'create policies on "{table}" for the role that writes: one for insert, and one for select that'
            " is true for the rows it writes; or use the service role's key",
            r'violates row-level security policy .*\bfor table "(?P<table>[^"]+)"',
        ),
        configuration(
            f'table "{{table}}" {APPEND_ONLY}',
            "see the trigger that refuses it",
            r"^(?:UPDATE|DELETE|TRUNCATE) is refused: (?P<table>[^\n]+) is append-only$",
        ),
        configuration(
            "the role that writes may not use {kind} {object}",
            _GRANTS + ' (refused: {kind} "{object}")',
            r"^permission denied for (?P<kind>[a-z]+) (?P<object>[\w$.]+)$",
        ),
        configuration(
            'the login role may not become "{role}"',
            'grant "{role}" to the role that PostgREST connects as',
            r'permission denied to set role "(?P<role>[^"]+)"',
        ),
        configuration("a privilege is missing", _GRANTS),
    ),
    "42703": (
        configuration(
            'column "{column}" does not exist',
            'add column "{column}" to the table, or take it out of OTEL_AUDIT_COLUMNS',
            r'column "?(?P<column>[^"]+?)"? (?:of relation "[^"]+" )?does not exist',
        ),
    ),
    "42704": (configuration("a type or other object does not exist", "create what the table's definition refers to"),),
    "42804": (
        configuration(
            'column "{column}" is of type {type}, which the field does not fit',
            'change the type of column "{column}", or map another field to it in OTEL_AUDIT_COLUMNS',
            r'column "(?P<column>[^"]+)" is of type (?P<type>[a-z_ ]+) but',
        ),
        configuration("a column's type does not fit its field", "change the column's type, or the mapping"),
    ),
    "42883": (configuration("a function that the table needs does not exist", "create it, or drop what calls it"),),
    "428C9": (
        configuration(
            'column "{column}" is generated by the database',
            'take column "{column}" out of OTEL_AUDIT_COLUMNS',
            r'column "(?P<column>[^"]+)"',
        ),
    ),
    "42P01": (
        configuration(
            'table "{table}" does not exist',
            'create table "{table}", or set OTEL_AUDIT_TABLE and OTEL_AUDIT_SCHEMA to the one to write to',
            r'relation "(?P<table>[^"]+)" does not exist',
        ),
    ),
    "42P10": (
        configuration(
            "no unique constraint is on exactly the key column(s)",
            "make the column that takes record_id the primary key or unique; on a partitioned table the key"
            " columns are those of its whole primary key",
        ),
    ),
    "53100": (transient("the database's disk is full", "free or add disk space on the database server"),),
    "53300": (
        transient("the database has too many connections", "raise max_connections, or connect through a pooler"),
    ),
    "54000": (record("a value is too large for an index of the table", "drop the index, or shorten the value"),),
    "54001": (bad_value("a value is nested too deeply", "flatten the value"),),
    "54011": (configuration("too many columns", "write fewer columns"),),
    "55006": (transient("the table is in use"),),
    "55P03": (transient("a lock on the table was not to be had", "find what holds a lock on the table"),),
    "57014": (transient("the statement took too long", "find what slows the table down", halve=True),),
    "P0001": (record("a trigger or function of the table refuses the row", "see what the trigger checks"),),
    "XX000": (
        configuration("the pooler does not know the project", _PAST_POOLER, r"[Tt]enant.*not found"),
        unknown("an internal error of the database"),
    ),
}

_CLASSES: Final[Mapping[str, Rule]] = {
    "08": unknown("the connection to the database failed"),
    "0A": configuration("the database does not support this insert", "write to a plain or partitioned table"),
    "0L": configuration("a grant is not valid", _GRANTS),
    "0P": configuration("the role is not valid", "use an existing role"),
    "21": record("the row does not fit the table", FIX_ROW),
    "22": record("a value does not fit its column", FIX_ROW),
    "23": record("the row violates a constraint of the table", "correct the row, or relax the constraint"),
    "25": transient("the transaction was ended"),
    "26": transient("a prepared statement is gone"),
    "27": record("a trigger of the table refuses the row", "see what the trigger does"),
    "28": configuration("the server refuses the login", "check user, password and certificates in the DSN"),
    "2F": record("a function of the table refuses the row", "see what the function does"),
    "38": record("a function of the table refuses the row", "see what the function does"),
    "39": record("a function of the table refuses the row", "see what the function does"),
    "3D": configuration("the database does not exist", "name an existing database"),
    "3F": configuration("the schema does not exist", "set OTEL_AUDIT_SCHEMA to the schema that holds the table"),
    "40": unknown("the transaction was rolled back"),
    "42": configuration("the table, a column or a privilege does not fit", "compare the table with the settings"),
    "44": record("the row does not fit the view's condition", "write to the table, or relax the view"),
    "53": transient("the database is short of resources"),
    "54": record("the row exceeds a limit of the database", FIX_ROW),
    "55": configuration("the table is not in a state to be written to", "write to a plain or partitioned table"),
    "57": unknown("the database server is shutting down or starting"),
    "58": unknown("a system error of the database server"),
    "HV": unknown("a foreign table's server failed"),
    "P0": record("a trigger or function of the table refuses the row", "see what the trigger checks"),
    "XX": unknown("an internal error of the database"),
}

# A code of the user's own (RAISE ... USING ERRCODE): the code that raised it looked at the row.
_OTHER_SQLSTATE: Final = record("the database refuses the row", "see which trigger or function raises this code")


def classify_sqlstate(code: str | None, message: str = "") -> Verdict:
    """Say whose fault an error of PostgreSQL is.

    ``code`` is the SQLSTATE; None or empty (no connection, or it broke) is transient. ``message`` is the
    server's primary message, read for names and for what the code alone leaves open.
    """
    if not code:
        return CUT_OFF
    return find_sqlstate(code, message).verdict()


def describe_sqlstate(code: str | None, message: str = "") -> str:
    """Say what an error of PostgreSQL is, in words that hold names but no value of a row."""
    return find_sqlstate(code, message).condition() if code else "the connection to the database broke"


def find_sqlstate(code: str, message: str) -> Finding:
    """Return the rule for a SQLSTATE, first by the whole code, then by its class."""
    found = first_match(_SQLSTATES.get(code, ()), message)
    return found or Finding(_CLASSES.get(code[:2], _OTHER_SQLSTATE), {})
