"""How the values of settings are read, from an argument or from a variable's text.

A parser returns the value, or raises ``ValueError`` that says what is allowed.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from otel_audit_exporter.event.fields import DEFAULT_COLUMNS, FIELD_ALIASES, REQUIRED_BY_DEFAULT
from otel_audit_exporter.event.paths import parse_source

Parser = Callable[[Any], Any]


def choice_of(*allowed: str) -> Parser:
    def parse(value: Any) -> str:
        text = str(value).strip().lower()
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def number_of(kind: type[int] | type[float], minimum: float, unit: str) -> Parser:
    def parse(value: Any) -> int | float:
        try:
            if isinstance(value, bool) or (kind is int and isinstance(value, float) and not value.is_integer()):
                raise ValueError
            number = kind(value)
        except (TypeError, ValueError, OverflowError):
            number = kind(-1)
        if not minimum <= number < float("inf"):
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"must be {what} of {unit}, {minimum} or more")
        return number

    return parse


_UNITS: Final = {"kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_size(value: Any) -> int:
    text = str(value).strip().lower()
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return int(number_of(int, 1, "KiB, MiB or GiB")(text[: -len(unit)].strip())) * factor
    return int(number_of(int, 1, "bytes (or with the unit KiB, MiB or GiB)")(value))


def parse_boolean(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off"):
        return False
    raise ValueError("must be true or false")


def parse_text(value: Any) -> str:
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise ValueError("must be a non-empty string")
    return os.fspath(value).strip()


def parse_path(value: Any) -> str:
    """Return a path, with the home directory in the place of ``~``; what a shell or a driver would read is refused."""
    text = parse_text(value)
    if text == ":memory:":
        raise ValueError("must be a file; for events in memory choose the exporter `memory`")
    if "://" in text or text.startswith("sqlite:"):
        raise ValueError("must be a path, not an address: of sqlite:///audit.db give audit.db")
    if text[0] in "\"'" or text[-1] in "\"'":
        raise ValueError("must be a path without quotes: they are not taken off here")
    if re.match(r"\$\w|.*\$\{", text):
        raise ValueError("must be a path without variables: no shell reads it, so write what the variable holds")
    return os.path.expanduser(text)


def parse_names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Iterable) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of names, or names with commas between them")
    return tuple(filter(None, map(str.strip, parts)))


def parse_some_names(value: Any) -> tuple[str, ...]:
    names = parse_names(value)
    if not names:
        raise ValueError("must name one column or more")
    return names


def parse_columns(value: Any) -> dict[str, str]:
    """Read columns and their sources; those that add to the default ones keep their ``+``."""
    if isinstance(value, Mapping):
        return _checked_columns(dict(value))
    text = str(value).strip()
    columns = _columns_of_text(text.removeprefix("+"))
    if not text.startswith("+"):
        return _checked_columns(columns)
    if any(name.startswith("+") for name in columns):
        raise ValueError("must begin with one +, which stands for all columns of the list")
    return _checked_columns({f"+{name}": source for name, source in columns.items()})


def parse_columns_before(value: Any) -> dict[datetime, dict[str, str]]:
    """Read the mappings of columns by the time up to which each was in force."""
    try:
        given = orjson.loads(value) if isinstance(value, str) else dict(value)
        return {_parse_moment(time): parse_columns(columns) for time, columns in given.items()}
    except (TypeError, AttributeError, orjson.JSONDecodeError):
        raise ValueError("must be a JSON object of time and columns") from None


def _parse_moment(value: Any) -> datetime:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError(f"{str(value)[:40]!r} is no time in ISO 8601") from None
    if moment.tzinfo is None:
        raise ValueError(f"{str(value)[:40]!r} says no time zone (2026-03-01T00:00:00Z)")
    return moment.astimezone(UTC)


def _columns_of_text(text: str) -> dict[Any, Any]:
    with suppress(orjson.JSONDecodeError):
        parsed = orjson.loads(text)
        if isinstance(parsed, dict):
            return parsed
    # The last one, because a column's name may hold one, and no field's does.
    pairs = [pair.rpartition("=") for pair in text.split(",") if pair.strip()]
    if not pairs or not all(column.strip() and name.strip() for column, _, name in pairs):
        raise ValueError("must be column=field pairs with commas between them, or a JSON object of them")
    return {column.strip(): name.strip() for column, _, name in pairs}


def _checked_columns(columns: dict[Any, Any]) -> dict[str, str]:
    if not columns or not all(isinstance(name, str) and name for name in (*columns, *columns.values())):
        raise ValueError("must map column names to field names")
    sources = {column: parse_source(source) for column, source in columns.items()}
    added = [column for column in columns if column.startswith("+")]
    if added and len(added) < len(columns):
        raise ValueError("either every column begins with + (they add to the nine) or none does (they replace them)")
    keys = sum(source.field == "record_id" for source in sources.values())
    if added:
        _check_added([column[1:] for column in added], keys)
    elif keys != 1:
        raise ValueError("exactly one column (a unique one) must take record_id")
    return {column: str(source) for column, source in sources.items()}


def _check_added(names: list[str], keys: int) -> None:
    known = sorted({name for name in names if name in DEFAULT_COLUMNS})
    if known or not all(names):
        raise ValueError(f"{', '.join(known) or '+'}: must be a new column, as it adds to the nine")
    if keys:
        raise ValueError("record_id has its column among the nine already")


def parse_optional(value: Any) -> tuple[str, ...]:
    """Read the names of fields that a call may leave out."""
    fields = tuple(FIELD_ALIASES.get(name, name) for name in parse_names(value))
    allowed = REQUIRED_BY_DEFAULT - {"action"}
    if not allowed.issuperset(fields):
        raise ValueError(f"must name fields that a call may leave out: {', '.join(sorted(allowed))}")
    return fields


def parse_json_object(value: Any) -> dict[str, Any]:
    try:
        parsed = orjson.loads(value) if isinstance(value, str) else dict(value)
    except (ValueError, TypeError):
        parsed = None
    if not isinstance(parsed, dict):
        raise ValueError("must be a JSON object of column and value")
    return parsed


def parse_url(value: Any) -> str:
    text = str(value).strip().rstrip("/")
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("must be a URL such as https://abcdefgh.supabase.co")
    return text


def parse_dsn(value: Any) -> str:
    """Read a DSN; in the password of a URL, ``@`` and ``/`` are taken as they are, as SQLAlchemy takes them."""
    text = parse_text(value)
    url = _DSN_URL.fullmatch(text)
    if url is None:
        return text
    login = url["login"].replace("@", "%40").replace("/", "%2F")
    return f"{url['scheme']}://{login}@{url['rest']}"


# libpq ends the login at the first @ or /, and would take what follows for the host.
_DSN_URL: Final = re.compile(r"(?P<scheme>[a-z0-9+]+)://(?P<login>[^:/?@]*:[^?]*)@(?P<rest>[^@]*(?:\?.*)?)", re.DOTALL)


def parse_token(value: Any) -> Any:
    return value if callable(value) else parse_text(value)


def parse_callable(value: Any) -> Any:
    if not callable(value):
        raise ValueError("must be a callable")
    if inspect.iscoroutinefunction(value):
        raise ValueError("must be a plain function, not a coroutine function: it is not awaited")
    return value


def as_is(value: Any) -> Any:
    return value
