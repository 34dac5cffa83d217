"""Whose fault an error of PostgREST's own is: one table by its ``PGRST`` codes.

Source: https://docs.postgrest.org/en/v12/references/errors.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from otel_audit_exporter.sinks.verdict import (
    FIX_ROW,
    Finding,
    Rule,
    configuration,
    first_match,
    record,
    transient,
    unknown,
)

_FIX_KEY: Final = "give a key or token that this server issued and that has not expired"
RELOAD: Final = "; if it was made just now, run: notify pgrst, 'reload schema'"

_POSTGREST: Final[Mapping[str, tuple[Rule, ...]]] = {
    "PGRST000": (transient("PostgREST cannot reach its database"),),
    "PGRST001": (unknown("PostgREST lost its database connection"),),
    "PGRST002": (transient("PostgREST cannot read the database's schema"),),
    "PGRST003": (transient("PostgREST's connection pool is empty", "raise db-pool, or send less at a time"),),
    "PGRST102": (record("a row is no valid JSON object with the same keys as the others", FIX_ROW),),
    "PGRST106": (
        configuration(
            "the schema is not exposed by PostgREST (exposed: {schemas})",
            "add the schema to db-schemas (on Supabase: Settings, Data API, Exposed schemas), or set"
            " OTEL_AUDIT_SCHEMA to one of: {schemas}",
            r"following: (?P<schemas>[\w$, ]+)$",
        ),
        configuration(
            "the schema is not exposed by PostgREST",
            "add the schema to db-schemas (on Supabase: Settings, Data API, Exposed schemas)",
        ),
    ),
    "PGRST204": (
        configuration(
            'column "{column}" of table "{table}" does not exist',
            'add column "{column}" to table "{table}", or take it out of OTEL_AUDIT_COLUMNS' + RELOAD,
            r"Column '(?P<column>[^']+)' of relation '(?P<table>[^']+)' does not exist",
        ),
        configuration(
            'column "{column}" of table "{table}" does not exist',
            'add column "{column}" to table "{table}", or take it out of OTEL_AUDIT_COLUMNS' + RELOAD,
            r"Could not find the '(?P<column>[^']+)' column of '(?P<table>[^']+)'",
        ),
    ),
    "PGRST205": (
        configuration(
            'table "{table}" does not exist',
            'create table "{table}", or set OTEL_AUDIT_TABLE and OTEL_AUDIT_SCHEMA to the one to write to' + RELOAD,
            r"Could not find the table '(?P<table>[^']+)'",
        ),
    ),
    "PGRST300": (configuration("PostgREST has no JWT secret", "set jwt-secret on the server"),),
    "PGRST301": (
        configuration("the token has expired", "issue a new token (or pass a callable that does)", r"JWT expired"),
        configuration("the key or token is not valid for this server", _FIX_KEY),
    ),
    "PGRST302": (configuration("the server takes no request without a token", "give a key or token"),),
    "PGRST303": (
        configuration("the token has expired", "issue a new token (or pass a callable that does)", r"JWT expired"),
        configuration("the token's claims do not hold", _FIX_KEY),
    ),
    "PGRSTX00": (unknown("an internal error of PostgREST"),),
}
_POSTGREST_GROUPS: Final[Mapping[str, Rule]] = {
    "PGRST0": unknown("PostgREST cannot reach its database"),
    "PGRST1": configuration("PostgREST does not understand the request", "check the names of table and columns"),
    "PGRST2": configuration("the table does not fit the settings", "compare the table with the settings" + RELOAD),
    "PGRST3": configuration("the key or token is not valid for this server", _FIX_KEY),
}


def find_postgrest(code: str, message: str) -> Finding | None:
    """Return the rule for a code of PostgREST's, first by the whole code, then by its group; None where it has none."""
    found = first_match(_POSTGREST.get(code, ()), message)
    if found is None and code[:6] in _POSTGREST_GROUPS:
        return Finding(_POSTGREST_GROUPS[code[:6]], {})
    return found
