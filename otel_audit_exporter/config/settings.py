"""The settings in force: a value comes from an argument, else from the environment, else it is the default."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from otel_audit_exporter.config.options import MAY_BE_EMPTY, SETTINGS, Setting
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS
from otel_audit_exporter.event.redaction import RedactionHook
from otel_audit_exporter.observability.health import AuditHealth, HealthThresholds

_BY_ARGUMENT: Final = {setting.argument: setting for setting in SETTINGS}


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """The values in force, one attribute for each of ``SETTINGS``.

    ``sources``: for each setting that was set, the name of the argument or variable that it came from.
    """

    exporter: str | None
    mode: Literal["batch", "sync"]
    profile: Literal["server", "ephemeral"]
    response_deadline_millis: int
    past_deadline: Literal["log", "raise", "stdout"]
    url: str | None
    key: str | None
    token: str | Callable[[], str] | None
    dsn: str | None
    endpoint: str | None
    format: Literal["text", "json"]
    path: str
    table: str
    schema: str
    columns: Mapping[str, str] | None
    columns_before: Mapping[datetime, Mapping[str, str]] | None
    column_defaults: Mapping[str, Any] | None
    key_columns: tuple[str, ...] | None
    unmapped: Literal["fold", "drop", "error"]
    surroundings: Literal["drop", "ids", "all"]
    ip: Literal["full", "truncated", "off"]
    tenants: bool
    optional: tuple[str, ...]
    ids: Literal["uuid", "text"]
    outbox: Literal["disk", "fsync", "memory"]
    outbox_dir: str | None
    outbox_max_bytes: int
    outbox_write: Literal["auto", "mapped", "written"]
    on_outbox_error: Literal["raise", "log"]
    on_invalid: Literal["raise", "park"]
    schedule_delay_millis: int
    max_queue_size: int
    max_export_batch_size: int
    export_timeout_millis: int
    foreign_key_grace_seconds: float
    redact_keys: tuple[str, ...]
    redact_hook: RedactionHook | None
    max_value_bytes: int | None
    objects: Literal["members", "text"]
    max_connections: int
    metrics_database: bool
    handle_sigterm: bool
    health_thresholds: HealthThresholds
    slow_write_seconds: float
    on_health_change: Callable[[AuditHealth], None] | None
    shutdown_timeout_millis: int
    sources: Mapping[str, str]

    @property
    def values(self) -> dict[str, Any]:
        """Every setting's value, by argument."""
        return {setting.argument: getattr(self, setting.argument) for setting in SETTINGS}

    def __repr__(self) -> str:
        shown = {
            name: "..." if _BY_ARGUMENT[name].secret else value
            for name, value in self.values.items()
            if value is not None
        }
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def chosen(self, name: str) -> bool:
        """Return whether somebody set it, by an argument or by a variable."""
        return name in self.sources

    def arguments(self) -> dict[str, Any]:
        """Return what was set by argument."""
        return {name: getattr(self, name) for name, source in self.sources.items() if source == name}


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
            shown = "" if setting.secret or may_be_secret(str(given)) else f"={str(given)[:60]!r}"
            problems.append(f"{source}{shown}: {error}")
    problems.extend(f"{name}: there is no such setting" for name in arguments.keys() - _BY_ARGUMENT.keys())
    if values["profile"] == "ephemeral" and "outbox" not in sources:
        values["outbox"] = "memory"
    if not problems:
        resolve_columns(values)
        problems.extend(_fit_batch_to_queue(values, sources))
    return Settings(**values, sources=sources), problems


def resolve_columns(values: dict[str, Any]) -> None:
    """Put the default columns among those that add to them."""
    tenants = values["tenants"]
    values["columns"] = _resolved_columns(values["columns"], tenants=tenants)
    before = values["columns_before"] or {}
    values["columns_before"] = {
        until: _resolved_columns(columns, tenants=tenants) for until, columns in before.items()
    } or None


def _resolved_columns(columns: Mapping[str, str] | None, *, tenants: bool) -> dict[str, str] | None:
    """Return the columns with the default ones among them, where ``columns`` adds to these; None: the default ones."""
    added = columns is not None and all(name.startswith("+") for name in columns)
    if columns is not None and not added:
        return dict(columns)
    if columns is None and tenants:
        return None
    default = {name: field for name, field in DEFAULT_COLUMNS.items() if tenants or field != "yacht_id"}
    return default | {name.removeprefix("+"): source for name, source in (columns or {}).items()}


def may_be_secret(value: str) -> bool:
    """Return whether a value that cannot be read may be an address with a password in it, or a key in a wrong place."""
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
