"""The settings: one table that parses, explains and documents them.

A value comes from an argument, else from the environment, else it is the default.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.fields import FIELDS
from otel_audit_exporter.event.redaction import DEFAULT_REDACT_KEYS
from otel_audit_exporter.observability.health import HealthThresholds, parse_thresholds

Parser = Callable[[Any], Any]


def _choice(*allowed: str) -> Parser:
    def parse(value: Any) -> str:
        text = str(value).strip().lower()
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def _number(kind: type[int] | type[float], minimum: float, unit: str) -> Parser:
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


def _size(value: Any) -> int:
    text = str(value).strip().lower()
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return int(_number(int, 1, "KiB, MiB or GiB")(text[: -len(unit)].strip())) * factor
    return int(_number(int, 1, "bytes (or with the unit KiB, MiB or GiB)")(value))


def _boolean(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off"):
        return False
    raise ValueError("must be true or false")


def _text(value: Any) -> str:
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise ValueError("must be a non-empty string")
    return os.fspath(value).strip()


def _names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Iterable) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of names, or names with commas between them")
    return tuple(filter(None, map(str.strip, parts)))


def _some_names(value: Any) -> tuple[str, ...]:
    names = _names(value)
    if not names:
        raise ValueError("must name one column or more")
    return names


def _columns(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return _checked_columns(dict(value))
    with suppress(orjson.JSONDecodeError):
        parsed = orjson.loads(str(value))
        if isinstance(parsed, dict):
            return _checked_columns(parsed)
    # The last one, because a column's name may hold one, and no field's does.
    pairs = [pair.rpartition("=") for pair in str(value).split(",") if pair.strip()]
    if not pairs or not all(column.strip() and name.strip() for column, _, name in pairs):
        raise ValueError("must be column=field pairs with commas between them, or a JSON object of them")
    return _checked_columns({column.strip(): name.strip() for column, _, name in pairs})


def _checked_columns(columns: dict[Any, Any]) -> dict[str, str]:
    if not columns or not all(isinstance(name, str) and name for name in (*columns, *columns.values())):
        raise ValueError("must map column names to field names")
    unknown = sorted(set(columns.values()) - set(FIELDS))
    if unknown:
        raise ValueError(f"no field is called {', '.join(unknown)}; fields are {', '.join(FIELDS)}")
    if list(columns.values()).count("record_id") != 1:
        raise ValueError("exactly one column (a unique one) must take record_id")
    return columns


def _json_object(value: Any) -> dict[str, Any]:
    try:
        parsed = orjson.loads(value) if isinstance(value, str) else dict(value)
    except (ValueError, TypeError):
        parsed = None
    if not isinstance(parsed, dict):
        raise ValueError("must be a JSON object of column and value")
    return parsed


def _url(value: Any) -> str:
    text = str(value).strip().rstrip("/")
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("must be a URL such as https://abcdefgh.supabase.co")
    return text


def _dsn(value: Any) -> str:
    """Read a DSN; in the password of a URL, ``@`` and ``/`` are taken as they are, as SQLAlchemy takes them."""
    text = _text(value)
    url = _DSN_URL.fullmatch(text)
    if url is None:
        return text
    login = url["login"].replace("@", "%40").replace("/", "%2F")
    return f"{url['scheme']}://{login}@{url['rest']}"


# libpq ends the login at the first @ or /, and would take what follows for the host.
_DSN_URL: Final = re.compile(r"(?P<scheme>[a-z0-9+]+)://(?P<login>[^:/?@]*:[^?]*)@(?P<rest>[^@]*(?:\?.*)?)", re.DOTALL)


def _token(value: Any) -> Any:
    return value if callable(value) else _text(value)


def _callable(value: Any) -> Any:
    if not callable(value):
        raise ValueError("must be a callable")
    if inspect.iscoroutinefunction(value):
        raise ValueError("must be a plain function, not a coroutine function: nobody awaits it")
    return value


def _as_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Setting:
    """One setting: its argument, its variables in order of precedence, how it is read and what it means."""

    argument: str
    variables: tuple[str, ...]
    parse: Parser
    default: Any
    default_text: str
    meaning: str
    secret: bool = False


SETTINGS: Final = (
    Setting("exporter", ("OTEL_AUDIT_EXPORTER",), _as_is, None, "`sqlite`", "which exporter"),
    Setting(
        "mode",
        ("OTEL_AUDIT_MODE",),
        _choice("batch", "sync"),
        "batch",
        "`batch`",
        "`batch`: rows are sent in the background; `sync`: the call waits for the sink (the rollback switch)",
    ),
    Setting("url", ("SUPABASE_URL",), _url, None, "", "the Supabase project"),
    Setting(
        "key",
        ("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_KEY"),
        _text,
        None,
        "",
        "its key: an old JWT key or a new `sb_secret_` one",
        secret=True,
    ),
    Setting(
        "token",
        ("OTEL_AUDIT_SUPABASE_TOKEN",),
        _token,
        None,
        "the key",
        "the token of a lesser role for Authorization (the argument may be a callable)",
        secret=True,
    ),
    Setting(
        "dsn",
        ("OTEL_AUDIT_POSTGRES_DSN", "DATABASE_URL"),
        _dsn,
        None,
        "",
        "the direct PostgreSQL connection",
        secret=True,
    ),
    Setting(
        "endpoint",
        (),  # the official exporter reads its own variables, which others may have set for gRPC
        _url,
        None,
        "`OTEL_EXPORTER_OTLP_*`",
        "where `otlp` sends to, with `/v1/logs`",
        secret=True,  # some receivers take their key in the address
    ),
    Setting(
        "format",
        ("OTEL_AUDIT_CONSOLE_FORMAT",),
        _choice("text", "json"),
        "text",
        "`text`",
        "how `console` prints",
    ),
    Setting(
        "path",
        ("OTEL_AUDIT_SQLITE_PATH",),
        _text,
        "pms_audit_log.db",
        "`pms_audit_log.db`",
        "the file of the embedded table",
    ),
    Setting("table", ("OTEL_AUDIT_TABLE",), _text, "pms_audit_log", "`pms_audit_log`", "the table"),
    Setting("schema", ("OTEL_AUDIT_SCHEMA",), _text, "public", "`public`", "its schema"),
    Setting(
        "columns",
        ("OTEL_AUDIT_COLUMNS",),
        _columns,
        None,
        "the nine",
        "which column takes which field: `column=field,...`, or a JSON object (for names with commas)",
    ),
    Setting(
        "column_defaults",
        ("OTEL_AUDIT_COLUMN_DEFAULTS",),
        _json_object,
        None,
        "",
        "a JSON object of column and the value to write where the event has none",
    ),
    Setting(
        "key_columns",
        ("OTEL_AUDIT_KEY_COLUMNS",),
        _some_names,
        None,
        "the id's column",
        "what the table's key is on, with commas between them (`id,created_at` on a partitioned table)",
    ),
    Setting(
        "unmapped",
        ("OTEL_AUDIT_UNMAPPED",),
        _choice("fold", "drop", "error"),
        "fold",
        "`fold`",
        "what was said and no column takes: kept under `_audit` of `new_values`, left out, or refused",
    ),
    Setting(
        "ids",
        ("OTEL_AUDIT_IDS",),
        _choice("uuid", "text"),
        "uuid",
        "`uuid`",
        "`uuid`: entity, user and yacht ids must be UUIDs; `text`: any non-empty string or integer",
    ),
    Setting(
        "outbox",
        ("OTEL_AUDIT_OUTBOX",),
        _choice("disk", "fsync", "memory"),
        "disk",
        "`disk`",
        "`disk` survives the process, `fsync` a power loss too, `memory` neither",
    ),
    Setting(
        "outbox_dir",
        ("OTEL_AUDIT_OUTBOX_DIR",),
        _text,
        None,
        "`$STATE_DIRECTORY`, then the user's state directory",
        "where the outbox and the dead letters live (a local file system)",
    ),
    Setting(
        "outbox_max_bytes",
        ("OTEL_AUDIT_OUTBOX_MAX_BYTES",),
        _size,
        2**30,
        "1 GiB, at most half of the free disk",
        "per process, dead letters included; past it `OutboxFullError`",
    ),
    Setting(
        "on_outbox_error",
        ("OTEL_AUDIT_ON_OUTBOX_ERROR",),
        _choice("raise", "log"),
        "raise",
        "`raise`",
        "`log`: an event that the outbox refuses is logged as critical and counted, and the call returns",
    ),
    Setting(
        "schedule_delay_millis",
        ("OTEL_AUDIT_SCHEDULE_DELAY", "OTEL_BLRP_SCHEDULE_DELAY"),
        _number(int, 1, "milliseconds"),
        200,
        "200 ms",
        "how long the batch processor waits for a batch to fill",
    ),
    Setting(
        "max_queue_size",
        ("OTEL_AUDIT_MAX_QUEUE_SIZE", "OTEL_BLRP_MAX_QUEUE_SIZE"),
        _number(int, 1, "records"),
        4096,
        "4096",
        "the batch processor's queue; what overflows it is delivered from the outbox",
    ),
    Setting(
        "max_export_batch_size",
        ("OTEL_AUDIT_MAX_EXPORT_BATCH_SIZE", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"),
        _number(int, 1, "records"),
        512,
        "512",
        "rows in one request of the batch processor",
    ),
    Setting(
        "export_timeout_millis",
        ("OTEL_AUDIT_EXPORT_TIMEOUT", "OTEL_BLRP_EXPORT_TIMEOUT"),
        _number(int, 1, "milliseconds"),
        10_000,
        "10000 ms",
        "the whole of one attempt to write, and how long a call waits in sync mode",
    ),
    Setting(
        "foreign_key_grace_seconds",
        ("OTEL_AUDIT_FOREIGN_KEY_GRACE",),
        _number(float, 0, "seconds"),
        60.0,
        "60 s",
        "how long a row waits for the row that it refers to",
    ),
    Setting(
        "redact_keys",
        ("OTEL_AUDIT_REDACT_KEYS",),
        _names,
        DEFAULT_REDACT_KEYS,
        "the library's list",
        "keys whose values are redacted, with commas between them; empty switches it off",
    ),
    Setting(
        "redact_hook",
        (),
        _callable,
        None,
        "",
        "a callable, asked as `hook(path, value)` about every value that no key hides: what it returns is recorded",
    ),
    Setting(
        "max_value_bytes",
        ("OTEL_AUDIT_MAX_VALUE_BYTES",),
        _size,
        None,
        "no limit",
        "longer strings and bytes are cut there, and say how much was cut",
    ),
    Setting(
        "handle_sigterm",
        ("OTEL_AUDIT_HANDLE_SIGTERM",),
        _boolean,
        True,
        "`true`",
        "deliver on SIGTERM too, where nobody else handles it",
    ),
    Setting(
        "health_thresholds",
        ("OTEL_AUDIT_HEALTH_THRESHOLDS",),
        parse_thresholds,
        HealthThresholds(),
        "`HealthThresholds()`",
        "where a level of health begins: `name=number,...`, or a `HealthThresholds`",
    ),
    Setting(
        "slow_write_seconds",
        ("OTEL_AUDIT_SLOW_WRITE",),
        _number(float, 0, "seconds"),
        1.0,
        "1 s",
        "a write to the sink that takes longer is reported as slow; 0: none is",
    ),
    Setting(
        "on_health_change",
        (),
        _callable,
        None,
        "",
        "a callable, given the new `AuditHealth` once per change of its level",
    ),
    Setting(
        "shutdown_timeout_millis",
        ("OTEL_AUDIT_SHUTDOWN_TIMEOUT",),
        _number(int, 0, "milliseconds"),
        10_000,
        "10000 ms",
        "the time given at interpreter exit",
    ),
)

_BY_ARGUMENT: Final = {setting.argument: setting for setting in SETTINGS}
# An empty variable is an unset one (as in OpenTelemetry), but for a list that may be empty on purpose.
MAY_BE_EMPTY: Final = frozenset({"redact_keys"})


@dataclass(frozen=True)
class Settings:
    """The values in force. ``sources`` tells for each where it came from: an argument, a variable, or nothing."""

    values: Mapping[str, Any] = field(repr=False)
    sources: Mapping[str, str] = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self) -> str:
        shown = {
            name: "..." if _BY_ARGUMENT[name].secret else value
            for name, value in self.values.items()
            if value is not None
        }
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def chosen(self, name: str) -> bool:
        """Tell whether somebody set it, be it by argument or by variable."""
        return name in self.sources

    def arguments(self) -> dict[str, Any]:
        """Return what was set by argument."""
        return {name: self.values[name] for name, source in self.sources.items() if source == name}


def load_settings(arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings: ``arguments`` that are not None, then ``environ`` (default: the process's), then defaults.

    Raises :class:`AuditConfigurationError` that names every variable or argument at fault, what is wrong with it
    and what is allowed. A secret's value is in no message.
    """
    settings, problems = read_settings(arguments, environ)
    if problems:
        raise AuditConfigurationError("; ".join(problems))
    return settings


def read_settings(arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> tuple[Settings, list[str]]:
    """Return the settings, the default where a value cannot be read, and what is wrong with those values."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []
    for setting in SETTINGS:
        source, given = _find(setting, arguments, environ)
        values[setting.argument] = setting.default
        if source is None:
            continue
        sources[setting.argument] = source
        try:
            values[setting.argument] = setting.parse(given)
        except ValueError as error:
            shown = "" if setting.secret or _may_be_secret(str(given)) else f"={str(given)[:60]!r}"
            problems.append(f"{source}{shown}: {error}")
    problems.extend(f"{name}: there is no such setting" for name in arguments.keys() - _BY_ARGUMENT.keys())
    if not problems:
        problems.extend(_fit_batch_to_queue(values, sources))
    return Settings(values, sources), problems


def _may_be_secret(value: str) -> bool:
    """Tell whether a value that cannot be read may be an address with a password in it, or a key in a wrong place."""
    return "@" in value or "?" in value or value.strip().startswith(("eyJ", "sb_"))


def _find(setting: Setting, arguments: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str | None, Any]:
    if arguments.get(setting.argument) is not None:
        return setting.argument, arguments[setting.argument]
    for variable in setting.variables:
        text = environ.get(variable)
        if text is not None and (text.strip() or setting.argument in MAY_BE_EMPTY):
            return variable, text
    return None, None


def _fit_batch_to_queue(values: dict[str, Any], sources: Mapping[str, str]) -> list[str]:
    if values["max_export_batch_size"] <= values["max_queue_size"]:
        return []
    if "max_export_batch_size" in sources and "max_queue_size" in sources:
        batch, queue = sources["max_export_batch_size"], sources["max_queue_size"]
        return [
            f"{batch}: must not be larger than {queue} ({values['max_export_batch_size']} > {values['max_queue_size']})"
        ]
    smaller = "max_export_batch_size" if "max_queue_size" in sources else "max_queue_size"
    larger = "max_queue_size" if smaller == "max_export_batch_size" else "max_export_batch_size"
    values[smaller] = values[larger]
    return []


def default_outbox_dir(environ: Mapping[str, str] | None = None) -> str:
    """Return the directory for outboxes where none was named: systemd's state directory, else the user's.

    Raises :class:`AuditConfigurationError` where the user has no home directory.
    """
    environ = os.environ if environ is None else environ
    state = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if state:
        return os.path.join(state, "otel_audit_exporter")
    import platformdirs

    try:
        return platformdirs.user_state_dir("otel_audit_exporter", appauthor=False)
    except RuntimeError:
        raise AuditConfigurationError(
            "OTEL_AUDIT_OUTBOX_DIR is not set, and the user has no home directory (no HOME, no entry in the password "
            "database): set OTEL_AUDIT_OUTBOX_DIR to a directory for the outbox, or OTEL_AUDIT_OUTBOX=memory"
        ) from None


def settings_table() -> str:
    """Return the settings as the README's Markdown table."""
    lines = ["| argument | variable | default | meaning |", "| --- | --- | --- | --- |"]
    for setting in SETTINGS:
        variables = ", ".join(f"`{variable}`" for variable in setting.variables)
        lines.append(f"| `{setting.argument}` | {variables} | {setting.default_text} | {setting.meaning} |")
    return "\n".join(lines)
