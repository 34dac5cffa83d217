"""Whose fault a refused insert is, and what to do about it.

Pure tables, keyed by SQLSTATE (which PostgREST forwards), by PostgREST's own codes and by HTTP status, so
that one table serves every sink behind which a PostgreSQL stands. What a server says is quoted only where a
pattern below knows the sentence, and of it only the names of columns, tables, schemas, roles, types and
constraints: anything else may hold a row's values.

Sources: https://www.postgresql.org/docs/current/errcodes-appendix.html,
https://docs.postgrest.org/en/v12/references/errors.html.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

RETRY_AFTER_MAX_SECONDS: Final = 300.0
UNIQUE_VIOLATION: Final = "23505"
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

    ``remedy`` says what to fix, for people (empty where there is nothing to do but wait). ``halve``: try
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


@dataclass(frozen=True)
class _Rule:
    """A verdict, and the words for it; ``{name}`` stands for a name out of the server's sentence."""

    fault: Fault
    condition: str
    remedy: str = ""
    sentence: str = ""
    halve: bool = False
    park_at_once: bool = False
    foreign_key: bool = False
    perhaps_stored: bool = False


@dataclass(frozen=True)
class _Finding:
    rule: _Rule
    names: Mapping[str, str]

    def verdict(self) -> Verdict:
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
        return self.rule.condition.format_map(self.names)


def _transient(condition: str, remedy: str = "", sentence: str = "", *, halve: bool = False) -> _Rule:
    return _Rule(Fault.TRANSIENT, condition, remedy, sentence, halve=halve)


def _unknown(condition: str, remedy: str = "") -> _Rule:
    """A transient fault after which the rows may be stored."""
    return _Rule(Fault.TRANSIENT, condition, remedy, perhaps_stored=True)


def _record(condition: str, remedy: str = "", sentence: str = "") -> _Rule:
    return _Rule(Fault.RECORD, condition, remedy, sentence)


def _value(condition: str, remedy: str, sentence: str = "") -> _Rule:
    """A record's fault whose code says that it is the value's own."""
    return _Rule(Fault.RECORD, condition, remedy, sentence, park_at_once=True)


def _configuration(condition: str, remedy: str, sentence: str = "") -> _Rule:
    return _Rule(Fault.CONFIGURATION, condition, remedy, sentence)


_FIX_ROW: Final = "correct the row and retry it, or let the column take such a value"
_FIX_KEY: Final = "give a key or token that this server issued and that has not expired"
_GRANTS: Final = (
    "grant usage on the schema, insert on the columns that are written and select on the key column(s)"
    " to the role that writes"
)
_RELOAD: Final = "; if it was made just now, run: notify pgrst, 'reload schema'"
_PAST_POOLER: Final = "check the user name (postgres.<project>), the host and the region in the DSN"

# By SQLSTATE, and below by its class (the first two characters). Where several rules are given, the first one
# whose sentence is found in the server's message is taken.
_SQLSTATES: Final[Mapping[str, tuple[_Rule, ...]]] = {
    "0A000": (_configuration("the table does not support this insert", "write to a plain or partitioned table"),),
    "22001": (
        _value(
            "a value is longer than {type} allows",
            "shorten the value, or widen the column to text",
            r"value too long for type (?P<type>[a-z ]+\(\d+\))",
        ),
        _value("a value is longer than its column allows", "shorten the value, or widen the column to text"),
    ),
    "22003": (_value("a number is out of its column's range", "correct the number, or widen the column"),),
    "22007": (_value("a value is no date or time", _FIX_ROW),),
    "22008": (_value("a date or time is out of range", _FIX_ROW),),
    "22P02": (
        _value(
            "a value is no {type}",
            "correct the value, or change the column's type (text, for ids that are no UUIDs)",
            r"^invalid input (?:syntax for type|value for enum) (?P<type>[a-z_][a-z0-9_ ]*):? ",
        ),
        _value("a value is not of its column's type", _FIX_ROW),
    ),
    "22P05": (_value("a text holds a character that the database cannot store", _FIX_ROW),),
    "22021": (_value("a text is not in the database's encoding", _FIX_ROW),),
    "22023": (
        _configuration(
            'the token\'s role "{role}" does not exist',
            'give a token whose "role" claim names an existing role, or create role "{role}" and grant it to'
            " the role that PostgREST connects as",
            r'^role "(?P<role>[^"]+)" does not exist$',
        ),
        _record("a value is not allowed", _FIX_ROW),
    ),
    "23502": (
        _record(
            'column "{column}" of table "{table}" does not take null',
            'give the field of column "{column}" a value, set column_defaults for it, or drop its NOT NULL',
            r'^null value in column "(?P<column>[^"]+)" of relation "(?P<table>[^"]+)" violates',
        ),
        _record("a column does not take null", "give the field a value, set column_defaults, or drop the NOT NULL"),
    ),
    "23503": (
        _Rule(
            Fault.RECORD,
            'what the row refers to is not there (foreign key "{constraint}" of table "{table}")',
            'write the row that "{constraint}" refers to, or drop that foreign key',
            r'table "(?P<table>[^"]+)" violates foreign key constraint "(?P<constraint>[^"]+)"',
            foreign_key=True,
        ),
        _Rule(
            Fault.RECORD,
            "what the row refers to is not there",
            "write that row, or drop the foreign key",
            foreign_key=True,
        ),
    ),
    UNIQUE_VIOLATION: (
        _record(
            'another row has the value that must be unique ("{constraint}")',
            'drop the unique constraint "{constraint}" if rows may share the value',
            r'^duplicate key value violates unique constraint "(?P<constraint>[^"]+)"',
        ),
        _record("another row has a value that must be unique", "drop the unique constraint if rows may share it"),
    ),
    "23514": (
        _configuration(
            'no partition of table "{table}" takes the row',
            'create the missing partition of "{table}", or a default one',
            r'^no partition of relation "(?P<table>[^"]+)" found',
        ),
        _record(
            'the row violates check constraint "{constraint}" of table "{table}"',
            'correct the row, or relax check constraint "{constraint}"',
            r'relation "(?P<table>[^"]+)" violates (?:check|partition) constraint "(?P<constraint>[^"]+)"',
        ),
        _record("the row violates a check constraint", "correct the row, or relax the constraint"),
    ),
    "25006": (
        _transient(
            "the database is read-only",
            "end the read-only mode (a failover under way, or a full disk), or point at the primary",
        ),
    ),
    "25P02": (
        _transient("the transaction has failed already", "roll it back: an earlier statement in it was refused"),
    ),
    "28000": (
        _configuration(
            'the server does not let role "{role}" in',
            'check the user in the DSN, and what the server\'s pg_hba.conf allows "{role}"',
            r'(?:role|user) "(?P<role>[^"]+)"',
        ),
        _configuration("the server refuses the user", "check the user in the DSN, and the server's pg_hba.conf"),
    ),
    "28P01": (
        _configuration(
            'the password of user "{role}" is wrong',
            'give the password of "{role}" in the DSN',
            r'password authentication failed for user "(?P<role>[^"]+)"',
        ),
        _configuration("the password is wrong", "give the right password in the DSN"),
    ),
    "3D000": (
        _configuration(
            'database "{database}" does not exist',
            "name an existing database in the DSN",
            r'database "(?P<database>[^"]+)" does not exist',
        ),
    ),
    "3F000": (
        _configuration(
            'schema "{schema}" does not exist',
            'create schema "{schema}", or set OTEL_AUDIT_SCHEMA to the schema that holds the table',
            r'schema "(?P<schema>[^"]+)" does not exist',
        ),
    ),
    "40P01": (_transient("a deadlock"),),
    "42501": (
        _configuration(
            'row-level security of table "{table}" refuses the row',
            'create policies on "{table}" for the role that writes: one for insert, and one for select that'
            " is true for the rows it writes; or use the service role's key",
            r'violates row-level security policy .*\bfor table "(?P<table>[^"]+)"',
        ),
        _configuration(
            "the role that writes may not use {kind} {object}",
            _GRANTS + ' (refused: {kind} "{object}")',
            r"^permission denied for (?P<kind>[a-z]+) (?P<object>[\w$.]+)$",
        ),
        _configuration(
            'the login role may not become "{role}"',
            'grant "{role}" to the role that PostgREST connects as',
            r'permission denied to set role "(?P<role>[^"]+)"',
        ),
        _configuration("a privilege is missing", _GRANTS),
    ),
    "42703": (
        _configuration(
            'column "{column}" does not exist',
            'add column "{column}" to the table, or take it out of OTEL_AUDIT_COLUMNS',
            r'column "?(?P<column>[^"]+?)"? (?:of relation "[^"]+" )?does not exist',
        ),
    ),
    "42704": (_configuration("a type or other object does not exist", "create what the table's definition refers to"),),
    "42804": (
        _configuration(
            'column "{column}" is of type {type}, which the field does not fit',
            'change the type of column "{column}", or map another field to it in OTEL_AUDIT_COLUMNS',
            r'column "(?P<column>[^"]+)" is of type (?P<type>[a-z_ ]+) but',
        ),
        _configuration("a column's type does not fit its field", "change the column's type, or the mapping"),
    ),
    "42883": (_configuration("a function that the table needs does not exist", "create it, or drop what calls it"),),
    "428C9": (
        _configuration(
            'column "{column}" is generated by the database',
            'take column "{column}" out of OTEL_AUDIT_COLUMNS',
            r'column "(?P<column>[^"]+)"',
        ),
    ),
    "42P01": (
        _configuration(
            'table "{table}" does not exist',
            'create table "{table}", or set OTEL_AUDIT_TABLE and OTEL_AUDIT_SCHEMA to the one to write to',
            r'relation "(?P<table>[^"]+)" does not exist',
        ),
    ),
    "42P10": (
        _configuration(
            "no unique constraint is on exactly the key column(s)",
            "make the column that takes record_id the primary key or unique; on a partitioned table the key"
            " columns are those of its whole primary key",
        ),
    ),
    "53100": (_transient("the database's disk is full", "free or add disk space on the database server"),),
    "53300": (
        _transient("the database has too many connections", "raise max_connections, or connect through a pooler"),
    ),
    "54000": (_record("a value is too large for an index of the table", "drop the index, or shorten the value"),),
    "54001": (_value("a value is nested too deeply", "flatten the value"),),
    "54011": (_configuration("too many columns", "write fewer columns"),),
    "55006": (_transient("the table is in use"),),
    "55P03": (_transient("a lock on the table was not to be had", "find what holds a lock on the table"),),
    "57014": (_transient("the statement took too long", "find what slows the table down", halve=True),),
    "P0001": (_record("a trigger or function of the table refuses the row", "see what the trigger checks"),),
    "XX000": (
        _configuration("the pooler does not know the project", _PAST_POOLER, r"[Tt]enant.*not found"),
        _unknown("an internal error of the database"),
    ),
}

_CLASSES: Final[Mapping[str, _Rule]] = {
    "08": _unknown("the connection to the database failed"),
    "0A": _configuration("the database does not support this insert", "write to a plain or partitioned table"),
    "0L": _configuration("a grant is not valid", _GRANTS),
    "0P": _configuration("the role is not valid", "use an existing role"),
    "21": _record("the row does not fit the table", _FIX_ROW),
    "22": _record("a value does not fit its column", _FIX_ROW),
    "23": _record("the row violates a constraint of the table", "correct the row, or relax the constraint"),
    "25": _transient("the transaction was ended"),
    "26": _transient("a prepared statement is gone"),
    "27": _record("a trigger of the table refuses the row", "see what the trigger does"),
    "28": _configuration("the server refuses the login", "check user, password and certificates in the DSN"),
    "2F": _record("a function of the table refuses the row", "see what the function does"),
    "38": _record("a function of the table refuses the row", "see what the function does"),
    "39": _record("a function of the table refuses the row", "see what the function does"),
    "3D": _configuration("the database does not exist", "name an existing database"),
    "3F": _configuration("the schema does not exist", "set OTEL_AUDIT_SCHEMA to the schema that holds the table"),
    "40": _unknown("the transaction was rolled back"),
    "42": _configuration("the table, a column or a privilege does not fit", "compare the table with the settings"),
    "44": _record("the row does not fit the view's condition", "write to the table, or relax the view"),
    "53": _transient("the database is short of resources"),
    "54": _record("the row exceeds a limit of the database", _FIX_ROW),
    "55": _configuration("the table is not in a state to be written to", "write to a plain or partitioned table"),
    "57": _unknown("the database server is shutting down or starting"),
    "58": _unknown("a system error of the database server"),
    "HV": _unknown("a foreign table's server failed"),
    "P0": _record("a trigger or function of the table refuses the row", "see what the trigger checks"),
    "XX": _unknown("an internal error of the database"),
}

# A code of somebody's own (RAISE ... USING ERRCODE): whoever raised it looked at the row.
_OTHER_SQLSTATE: Final = _record("the database refuses the row", "see which trigger or function raises this code")

_POSTGREST: Final[Mapping[str, tuple[_Rule, ...]]] = {
    "PGRST000": (_transient("PostgREST cannot reach its database"),),
    "PGRST001": (_unknown("PostgREST lost its database connection"),),
    "PGRST002": (_transient("PostgREST cannot read the database's schema"),),
    "PGRST003": (_transient("PostgREST's connection pool is empty", "raise db-pool, or send less at a time"),),
    "PGRST102": (_record("a row is no valid JSON object with the same keys as the others", _FIX_ROW),),
    "PGRST106": (
        _configuration(
            "the schema is not exposed by PostgREST (exposed: {schemas})",
            "add the schema to db-schemas (on Supabase: Settings, Data API, Exposed schemas), or set"
            " OTEL_AUDIT_SCHEMA to one of: {schemas}",
            r"following: (?P<schemas>[\w$, ]+)$",
        ),
        _configuration(
            "the schema is not exposed by PostgREST",
            "add the schema to db-schemas (on Supabase: Settings, Data API, Exposed schemas)",
        ),
    ),
    "PGRST204": (
        _configuration(
            'column "{column}" of table "{table}" does not exist',
            'add column "{column}" to table "{table}", or take it out of OTEL_AUDIT_COLUMNS' + _RELOAD,
            r"Column '(?P<column>[^']+)' of relation '(?P<table>[^']+)' does not exist",
        ),
        _configuration(
            'column "{column}" of table "{table}" does not exist',
            'add column "{column}" to table "{table}", or take it out of OTEL_AUDIT_COLUMNS' + _RELOAD,
            r"Could not find the '(?P<column>[^']+)' column of '(?P<table>[^']+)'",
        ),
    ),
    "PGRST205": (
        _configuration(
            'table "{table}" does not exist',
            'create table "{table}", or set OTEL_AUDIT_TABLE and OTEL_AUDIT_SCHEMA to the one to write to' + _RELOAD,
            r"Could not find the table '(?P<table>[^']+)'",
        ),
    ),
    "PGRST300": (_configuration("PostgREST has no JWT secret", "set jwt-secret on the server"),),
    "PGRST301": (
        _configuration("the token has expired", "issue a new token (or pass a callable that does)", r"JWT expired"),
        _configuration("the key or token is not valid for this server", _FIX_KEY),
    ),
    "PGRST302": (_configuration("the server takes no request without a token", "give a key or token"),),
    "PGRST303": (
        _configuration("the token has expired", "issue a new token (or pass a callable that does)", r"JWT expired"),
        _configuration("the token's claims do not hold", _FIX_KEY),
    ),
    "PGRSTX00": (_unknown("an internal error of PostgREST"),),
}
_POSTGREST_GROUPS: Final[Mapping[str, _Rule]] = {
    "PGRST0": _unknown("PostgREST cannot reach its database"),
    "PGRST1": _configuration("PostgREST does not understand the request", "check the names of table and columns"),
    "PGRST2": _configuration("the table does not fit the settings", "compare the table with the settings" + _RELOAD),
    "PGRST3": _configuration("the key or token is not valid for this server", _FIX_KEY),
}

_WRONG_URL: Final = "check that SUPABASE_URL is the project's own https:// address, and that nothing on the way answers"
_STATUSES: Final[Mapping[int, _Rule]] = {
    200: _configuration("the answer is not PostgREST's: nothing was stored", _WRONG_URL),
    201: _configuration("the answer is not PostgREST's: nothing was stored", _WRONG_URL),
    401: _configuration("the gateway refuses the key", "give the project's own key (SUPABASE_SERVICE_ROLE_KEY)"),
    402: _configuration("the project's quota is used up", "raise the plan or the spend cap of the project"),
    404: _configuration(
        "there is no such table or path",
        "create the table, or correct OTEL_AUDIT_TABLE, OTEL_AUDIT_SCHEMA or SUPABASE_URL" + _RELOAD,
    ),
    405: _configuration("the path takes no insert", _WRONG_URL),
    406: _configuration("the schema is not exposed", "add the schema to PostgREST's db-schemas"),
    407: _configuration("the proxy wants a login", "give the proxy's user and password in HTTPS_PROXY"),
    408: _unknown("the server waited too long for the request"),
    413: _Rule(
        Fault.RECORD,
        "the request is too large for the gateway",
        "raise the gateway's body size limit, or shorten the row",
        halve=True,
    ),
    421: _transient("the request came to the wrong server"),
    425: _transient("the server would not risk an early request"),
    429: _transient("too many requests"),
    511: _configuration("the network wants a sign-in", "sign in to the network"),
    540: _configuration("the project is paused", "resume the project in the Supabase dashboard"),
}
_REDIRECT: Final = _configuration("the address answers with a redirect: nothing was stored", _WRONG_URL)
_NOT_STORED: Final = _configuration("the answer does not say that anything was stored", _WRONG_URL)
_REFUSED: Final = _record("the server refuses the request", "see what the server or a filter before it objects to")
_SERVER_ERROR: Final = _unknown("the server or a gateway failed")
_AS_ANON: Final = "the request ran as the anonymous role: give a key or token of the role that writes, or "

UNREACHABLE: Final = Verdict(Fault.TRANSIENT, "check the address, the network, and that the server runs")
"""No connection came about: surely nothing is stored."""
CUT_OFF: Final = Verdict(Fault.TRANSIENT, perhaps_stored=True)
"""The connection broke, or time ran out, after something was sent."""
OUT_OF_TIME: Final = Verdict(Fault.TRANSIENT)
"""Time ran out before anything was sent."""

_SQLSTATE: Final = re.compile(r"[0-9A-Z]{5}")


def classify_sqlstate(code: str | None, message: str = "") -> Verdict:
    """Say whose fault an error of PostgreSQL is.

    ``code`` is the SQLSTATE; None or empty (no connection, or it broke) is transient. ``message`` is the
    server's primary message, read for names and for what the code alone leaves open.
    """
    if not code:
        return CUT_OFF
    return _by_sqlstate(code, message).verdict()


def describe_sqlstate(code: str | None, message: str = "") -> str:
    """Say what an error of PostgreSQL is, in words that hold names but no value of a row."""
    return _by_sqlstate(code, message).condition() if code else "the connection to the database broke"


def classify_http(status: int, code: str | None = None, message: str = "") -> Verdict:
    """Say whose fault an HTTP answer is that does not prove an insert.

    ``code`` and ``message`` are those of PostgREST's JSON error, None and empty where the body is something
    else. A code that is neither PostgREST's nor a SQLSTATE is a gateway's own, and the status decides.
    """
    verdict = _by_http(status, code, message).verdict()
    if status == 401 and code == "42501":
        return Verdict(verdict.fault, _AS_ANON + verdict.remedy)
    return verdict


def describe_http(status: int, code: str | None = None, message: str = "") -> str:
    """Say what an HTTP answer is, in words that hold names but no value of a row."""
    return _by_http(status, code, message).condition()


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Read a ``Retry-After`` header: how many seconds to wait, or None where it says nothing usable.

    ``now`` is the time of day in seconds since the epoch, against which a date is taken. Never negative, and
    never more than 300 s: a server's mistake does not stop delivery for a day.
    """
    if value is None:
        return None
    seconds = _seconds(value.strip(), now)
    if seconds is None or math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_SECONDS)


def _seconds(value: str, now: float) -> float | None:
    if re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return date.timestamp() - now
    except (ValueError, OverflowError):
        return None


def _by_sqlstate(code: str, message: str) -> _Finding:
    found = _first_match(_SQLSTATES.get(code, ()), message)
    return found or _Finding(_CLASSES.get(code[:2], _OTHER_SQLSTATE), {})


def _by_http(status: int, code: str | None, message: str) -> _Finding:
    if status >= 400 and code:
        if code.startswith("PGRST"):
            found = _first_match(_POSTGREST.get(code, ()), message)
            if found or code[:6] in _POSTGREST_GROUPS:
                return found or _Finding(_POSTGREST_GROUPS[code[:6]], {})
        elif _SQLSTATE.fullmatch(code):
            return _by_sqlstate(code, message)
    return _Finding(_by_status(status), {})


def _by_status(status: int) -> _Rule:
    if status in _STATUSES:
        return _STATUSES[status]
    if status < 300:
        return _NOT_STORED
    if status < 400:
        return _REDIRECT
    return _REFUSED if status < 500 else _SERVER_ERROR


def _first_match(rules: tuple[_Rule, ...], message: str) -> _Finding | None:
    for rule in rules:
        match = re.search(rule.sentence, message)
        if match:
            return _Finding(rule, match.groupdict())
    return None
