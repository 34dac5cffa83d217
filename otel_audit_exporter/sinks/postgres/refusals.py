"""What an error of PostgreSQL or of libpq means, as a :class:`SinkError` whose words hold no value of a row."""

from __future__ import annotations

import re
from typing import Final

from otel_audit_exporter.sinks.base import SinkError, no_file_left
from otel_audit_exporter.sinks.sqlstate_rules import classify_sqlstate, describe_sqlstate
from otel_audit_exporter.sinks.verdict import UNREACHABLE, Fault, Verdict

# libpq gives a refused login's words, not its SQLSTATE.
_LOGINS: Final = (
    (r"password authentication failed|no password supplied|SASL authentication failed", "28P01"),
    (r"no pg_hba\.conf entry|role \"[^\"]+\" (?:does not exist|is not permitted to log in)", "28000"),
    (r"authentication failed for user", "28000"),
    (r"database \"[^\"]+\" does not exist", "3D000"),
    (r"permission denied for database", "42501"),
    (r"too many (?:connections|clients)|connection slots are reserved|[Mm]ax client connections", "53300"),
    (r"starting up|shutting down|not accepting connections|not yet accepting|recovery mode", "57P03"),
    (r"[Tt]enant.*not found", "XX000"),
)
_TLS: Final = re.compile(r"certificate verify failed|does not support SSL|certificate (?:file|for)|sslmode")
_SERVERS_WORDS: Final = re.compile(r"(?:FATAL: +|failed: )(?P<words>[^\n]+)")

_TLS_WRONG: Final = Verdict(
    Fault.CONFIGURATION, "check sslmode and sslrootcert of the DSN, and the server's certificate"
)


def server_error(code: str, message: str) -> SinkError:
    """Say what an error of the server is, in words that hold no value of a row."""
    return SinkError(classify_sqlstate(code, message), describe_sqlstate(code, message), code=code)


def connect_error(said: str) -> SinkError:
    """Say why no connection came about, from libpq's words."""
    words = _SERVERS_WORDS.search(said)
    short = words["words"] if words else said.strip()
    for pattern, code in _LOGINS:
        if re.search(pattern, said):
            return server_error(code, short)
    if _TLS.search(said):
        return SinkError(_TLS_WRONG, f"no connection ({short})")
    return no_file_left() or SinkError(UNREACHABLE, f"no connection ({short})")
