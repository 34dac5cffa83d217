"""Reading a DSN, as libpq, SQLAlchemy and Prisma write it."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

_MISSING: Final = 'the postgres sink needs psycopg: pip install "otel-audit-exporter[postgres]"'

# What other tools put into a DSN, and libpq refuses.
_FOREIGN_PARAMETERS: Final = frozenset(
    {
        "pgbouncer",
        "connection_limit",
        "pool_timeout",
        "prepared_statement_cache_size",
        "statement_cache_size",
        "prepared_statement_name_func",
        "schema",
        "socket_timeout",
        "max_idle_connection_lifetime",
        "command_timeout",
        "supa",
        "uselibpqcompat",
    }
)
# What says how TLS is to be checked must not be dropped in silence.
_FOREIGN_TLS: Final = frozenset({"sslaccept", "sslidentity"})


def read_dsn(dsn: str) -> dict[str, Any]:
    """Read a DSN into libpq's parameters.

    Takes URLs of SQLAlchemy (``postgresql+asyncpg://``) and of Prisma too. Raises ``ValueError``, which says
    nothing of what the DSN holds, and ``ImportError`` where psycopg is missing.
    """
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise ImportError(_MISSING) from error
    text = dsn.strip()
    try:
        parameters = dict(conninfo_to_dict(_libpq_url(text) if "://" in text else text))
    except psycopg.ProgrammingError:
        raise ValueError("the DSN holds something that libpq does not know") from None
    if not re.fullmatch(r"[0-9,]*", str(parameters.get("port") or "")):  # it may be a part of the password
        raise ValueError("the port in the DSN is no number (percent-encode what is special in the password)")
    return parameters


def _libpq_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    dialect, _, _ = scheme.partition("+")
    if dialect not in ("postgres", "postgresql"):
        raise ValueError("the DSN is not of the form postgresql://user:password@host:port/database")
    address, _, query = rest.partition("?")
    pairs = [_libpq_parameter(*pair) for pair in parse_qsl(query, keep_blank_values=True)]
    for name, _ in pairs:
        if name in _FOREIGN_TLS:
            raise ValueError(
                f"the DSN has {name}, which libpq does not know: say it as sslmode, sslrootcert and sslcert"
            )
    kept = urlencode([pair for pair in pairs if pair[0] not in _FOREIGN_PARAMETERS], quote_via=quote)
    return f"postgresql://{address}?{kept}" if kept else f"postgresql://{address}"


def _libpq_parameter(name: str, value: str) -> tuple[str, str]:
    if name != "ssl":
        return name, value
    return "sslmode", {"true": "require", "1": "require", "false": "disable", "0": "disable"}.get(value, value)
