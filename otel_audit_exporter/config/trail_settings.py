"""The settings of trails, from arguments and from ``OTEL_AUDIT_TRAIL_<NAME>_<SETTING>``, and those of databases."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from otel_audit_exporter.config.options import SETTINGS, Setting
from otel_audit_exporter.config.settings import Settings, load_settings, may_be_secret, resolve_columns
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.routing import DEFAULT_TRAIL

TRAILS_VARIABLE: Final = "OTEL_AUDIT_TRAILS"
_PREFIX: Final = "OTEL_AUDIT_TRAIL_"
_is_name = re.compile(r"[a-z][a-z0-9-]*").fullmatch
_BY_ARGUMENT: Final = {setting.argument: setting for setting in SETTINGS}
ADDRESS_SETTINGS: Final = frozenset({"url", "key", "token", "dsn", "path", "endpoint"})
_SECRETS_OF: Final = {"url": ("key", "token")}  # what belongs to one address, and is sent to no other
# What is the table's own, and never inherited.
_OF_TABLE: Final = frozenset(
    {"table", "columns", "columns_before", "column_defaults", "key_columns", "ids", "unmapped", "tenants", "optional"}
)
_OF_TRAIL: Final = (
    frozenset(
        {"exporter", "schema", "surroundings", "ip", "redact_keys", "redact_hook", "max_value_bytes", "objects"}
        | {"on_invalid", "foreign_key_grace_seconds", "slow_write_seconds", "format"}
        | _OF_TABLE
        | ADDRESS_SETTINGS
    )
    & _BY_ARGUMENT.keys()
)
_SECRETS: Final = frozenset({"key", "token"})
CLIENT: Final = "client"  # the source of a setting that a supabase client brought with it
_OF_DATABASE: Final = ADDRESS_SETTINGS | {"schema"}


class _Given(NamedTuple):
    """One value that somebody gave for a trail, and where."""

    setting: Setting
    source: str
    value: Any


def trail_settings(
    base: Settings, trails: Mapping[str, Mapping[str, Any]] | None, environ: Mapping[str, str] | None = None
) -> dict[str, Settings]:
    """Return the settings of every trail but the default one, by name.

    ``trails`` are those of ``configure_audit``; the environment declares others, and sets what these do not. Raises
    :class:`AuditConfigurationError` that names every mistake.
    """
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    arguments = _checked_arguments(trails, problems)
    declared = [name.strip() for name in environ.get(TRAILS_VARIABLE, "").split(",") if name.strip()]
    names = list(dict.fromkeys((*arguments, *declared)))
    problems.extend(_wrong_names(names))
    of_environment = _from_environment(names, environ, problems)
    found = {name: _settings_of(name, base, arguments.get(name, {}), of_environment[name], problems) for name in names}
    if problems:
        raise AuditConfigurationError("; ".join(problems))
    return found


def _checked_arguments(
    trails: Mapping[str, Mapping[str, Any]] | None, problems: list[str]
) -> dict[str, Mapping[str, Any]]:
    if trails is None:
        return {}
    given: Any = trails
    if not isinstance(given, Mapping) or not all(isinstance(one, Mapping) for one in given.values()):
        raise AuditConfigurationError("trails: must be a mapping of name to a mapping of settings")
    for name, given in trails.items():
        problems.extend(_unknown(f"trails[{name!r}]", given, _OF_TRAIL | {"client"}))
    return {str(name): expand_client(given) for name, given in trails.items()}


def _unknown(where: str, given: Mapping[str, Any], allowed: frozenset[str]) -> Iterator[str]:
    for setting in given:
        if setting in allowed:
            continue
        why = "is a setting of the pipeline" if setting in _BY_ARGUMENT else "there is no such setting"
        yield f"{where}[{setting!r}]: {why}"


def _wrong_names(names: list[str]) -> Iterator[str]:
    by_variable: dict[str, str] = {}
    for name in names:
        if not _is_name(name):
            yield f"{TRAILS_VARIABLE}: {name[:40]!r} is no name of a trail: lower-case letters, digits and `-`"
        if name == DEFAULT_TRAIL:
            yield f"{TRAILS_VARIABLE}: {name!r} is the trail that the other settings describe"
        other = by_variable.setdefault(_in_variables(name), name)
        if other != name:
            yield f"{TRAILS_VARIABLE}: {other!r} and {name!r} read alike in variables"


def _in_variables(name: str) -> str:
    return name.upper().replace("-", "_")


def _from_environment(
    names: list[str], environ: Mapping[str, str], problems: list[str]
) -> dict[str, dict[str, _Given]]:
    """Return what the environment sets, by trail and argument; the longest declared name that fits a variable wins."""
    found: dict[str, dict[str, _Given]] = {name: {} for name in names}
    longest_first = sorted(names, key=len, reverse=True)
    for variable in sorted(environ):
        if not variable.startswith(_PREFIX) or not environ[variable].strip():
            continue
        rest = variable.removeprefix(_PREFIX)
        name = next((one for one in longest_first if rest.startswith(f"{_in_variables(one)}_")), None)
        if name is None:
            problems.append(f"{variable}: belongs to no trail that is declared ({TRAILS_VARIABLE})")
            continue
        setting = _BY_SUFFIX.get(rest.removeprefix(f"{_in_variables(name)}_"))
        if setting is None:
            problems.append(f"{variable}: there is no such setting of a trail")
            continue
        found[name].setdefault(setting.argument, _Given(setting, variable, environ[variable]))
    return found


def _suffixes() -> Iterator[tuple[str, Setting]]:
    for setting in SETTINGS:
        if setting.argument in _OF_TRAIL:
            yield setting.argument.upper(), setting
            yield from ((variable.removeprefix("OTEL_AUDIT_"), setting) for variable in setting.variables)


_BY_SUFFIX: Final = dict(_suffixes())


def _settings_of(
    name: str, base: Settings, arguments: Mapping[str, Any], of_environment: Mapping[str, _Given], problems: list[str]
) -> Settings:
    given = dict(of_environment)
    for argument, value in arguments.items():
        if value is not None and argument in _OF_TRAIL:
            given[argument] = _Given(_BY_ARGUMENT[argument], f"trails[{name!r}][{argument!r}]", value)
    changes = _reset(base, given)
    for argument, one in given.items():
        changes[argument] = _parsed(one, changes.get(argument), problems)
    if "table" not in given:
        problems.append(f"trail {name!r}: a trail has a table of its own (table, {_PREFIX}{_in_variables(name)}_TABLE)")
    if not problems:
        resolve_columns(changes)
    sources = {argument: one.source for argument, one in given.items()}
    inherited = {argument: source for argument, source in base.sources.items() if argument not in changes}
    return replace(base, **changes, sources={**inherited, **sources})


def _reset(base: Settings, given: Mapping[str, _Given]) -> dict[str, Any]:
    """Return the defaults of what a trail with these settings does not inherit."""
    not_inherited = set(_OF_TABLE)
    if "exporter" in given and _primary(str(given["exporter"].value)) != _primary(base.exporter or ""):
        not_inherited |= ADDRESS_SETTINGS
    for address, secrets in _SECRETS_OF.items():
        if address in given:
            not_inherited |= set(secrets)
    return {argument: _BY_ARGUMENT[argument].default for argument in not_inherited}


def _primary(exporter: str) -> str:
    return exporter.lower().replace(" ", "").partition(",")[0]


def _parsed(one: _Given, default: Any, problems: list[str]) -> Any:
    try:
        return one.setting.parse(one.value)
    except ValueError as error:
        shown = "" if one.setting.secret or may_be_secret(str(one.value)) else f"={str(one.value)[:60]!r}"
        problems.append(f"{one.source}{shown}: {error}")
        return default


# --- databases ------------------------------------------------------------------------------------------------------


def database_settings(base: Settings, name: str, given: object, allowed: tuple[str, ...]) -> Settings:
    """Return the settings of a trail (``base``) in a named database.

    ``given`` is what the name stands for, ``allowed`` the settings that the trail's exporter takes of it. Raises
    :class:`AuditConfigurationError` that says what is wrong with it, and holds no secret.
    """
    where = f"databases[{name!r}]"
    if not isinstance(given, Mapping):
        raise AuditConfigurationError(f"{where}: must be a mapping of settings, not {type(given).__name__}")
    said = {key: value for key, value in expand_client(given).items() if value is not None}
    problems = list(_unknown(where, said, _OF_DATABASE))
    used = [key for key in said if key in allowed]
    places = [setting for setting in allowed if setting not in _SECRETS]
    if not set(used).intersection(places):
        problems.append(f"{where}: must say {' or '.join(places)}, by which exporter {base.exporter} finds a database")
    changes: dict[str, Any] = {}
    if given.get("client") is not None and "schema" in allowed:
        changes["schema"] = schema_without_name(base)
    for address, secrets in _SECRETS_OF.items():
        if address in said:
            changes |= dict.fromkeys(secrets)
    for key in used:
        one = _Given(_BY_ARGUMENT[key], f"{where}[{key!r}]", said[key])
        changes[key] = _parsed(one, None, problems)
    if problems:
        raise AuditConfigurationError("; ".join(problems))
    sources = {key: f"{where}[{key!r}]" for key in used}
    return replace(base, **changes, sources={**base.sources, **sources})


def expand_client(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the URL, the key and the schema of a ready supabase client in its place."""
    taken = dict(options)
    client = taken.pop("client", None)
    if client is not None:
        read: Callable[[str], Any] = lambda name: getattr(client, name, None)  # noqa: E731  # three of a kind
        taken["url"] = taken.get("url") or str(read("supabase_url") or "") or None
        taken["key"] = taken.get("key") or read("supabase_key")
        taken["schema"] = taken.get("schema") or client_schema(client)
    return taken


def load_expanded(options: Mapping[str, Any]) -> Settings:
    """Return the settings of ``options``, a client among them; the schema of a client has the source ``CLIENT``."""
    settings = load_settings(expand_client(options))
    if options.get("schema") is None and client_schema(options.get("client")) is not None:
        settings = replace(settings, sources={**settings.sources, "schema": CLIENT})
    return settings


def schema_without_name(settings: Settings) -> str:
    """Return the schema of a client that names none: what was set, but not what another client brought with it."""
    return load_settings({}).schema if settings.sources.get("schema") == CLIENT else settings.schema


def client_url(client: object) -> str | None:
    """Return the URL of a supabase client; None where it has none, as a test's stand-in."""
    url = str(getattr(client, "supabase_url", None) or "")
    return url if url.startswith(("http://", "https://")) else None


def client_schema(client: object) -> str | None:
    """Return the schema that a supabase client asks for, where it is another than the usual one."""
    schema = getattr(getattr(client, "options", None), "schema", None)
    return schema if isinstance(schema, str) and schema != "public" else None
