"""Whose fault an HTTP answer is that proves no insert: by its code where it has one, else by its status."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from otel_audit_exporter.sinks.postgrest_rules import RELOAD, find_postgrest
from otel_audit_exporter.sinks.sqlstate_rules import find_sqlstate
from otel_audit_exporter.sinks.verdict import Fault, Finding, Rule, Verdict, configuration, record, transient, unknown

RETRY_AFTER_MAX_SECONDS: Final = 300.0

_WRONG_URL: Final = "check that SUPABASE_URL is the project's own https:// address, and that nothing on the way answers"
_STATUSES: Final[Mapping[int, Rule]] = {
    200: configuration("the answer is not PostgREST's: nothing was stored", _WRONG_URL),
    201: configuration("the answer is not PostgREST's: nothing was stored", _WRONG_URL),
    401: configuration("the gateway refuses the key", "give the project's own key (SUPABASE_SERVICE_ROLE_KEY)"),
    402: configuration("the project's quota is used up", "raise the plan or the spend cap of the project"),
    404: configuration(
        "there is no such table or path",
        "create the table, or correct OTEL_AUDIT_TABLE, OTEL_AUDIT_SCHEMA or SUPABASE_URL" + RELOAD,
    ),
    405: configuration("the path takes no insert", _WRONG_URL),
    406: configuration("the schema is not exposed", "add the schema to PostgREST's db-schemas"),
    407: configuration("the proxy wants a login", "give the proxy's user and password in HTTPS_PROXY"),
    408: unknown("the server waited too long for the request"),
    413: Rule(
        Fault.RECORD,
        "the request is too large for the gateway",
        "raise the gateway's body size limit, or shorten the row",
        halve=True,
    ),
    421: transient("the request came to the wrong server"),
    425: transient("the server would not risk an early request"),
    429: transient("too many requests"),
    511: configuration("the network wants a sign-in", "sign in to the network"),
    540: configuration("the project is paused", "resume the project in the Supabase dashboard"),
}
_REDIRECT: Final = configuration("the address answers with a redirect: nothing was stored", _WRONG_URL)
_NOT_STORED: Final = configuration("the answer does not say that anything was stored", _WRONG_URL)
_REFUSED: Final = record("the server refuses the request", "see what the server or a filter before it objects to")
_SERVER_ERROR: Final = unknown("the server or a gateway failed")
_AS_ANON: Final = "the request ran as the anonymous role: give a key or token of the role that writes, or "

_SQLSTATE: Final = re.compile(r"[0-9A-Z]{5}")


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


def _by_http(status: int, code: str | None, message: str) -> Finding:
    found = _by_code(code, message) if status >= 400 and code else None
    return found or Finding(_by_status(status), {})


def _by_code(code: str, message: str) -> Finding | None:
    if code.startswith("PGRST"):
        return find_postgrest(code, message)
    return find_sqlstate(code, message) if _SQLSTATE.fullmatch(code) else None


def _by_status(status: int) -> Rule:
    if status in _STATUSES:
        return _STATUSES[status]
    if status < 300:
        return _NOT_STORED
    if status < 400:
        return _REDIRECT
    return _REFUSED if status < 500 else _SERVER_ERROR
