"""Trails as the environment and the arguments declare them, and every mistake of naming."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from otel_audit_exporter.config.settings import Settings, load_settings
from otel_audit_exporter.config.trail_settings import database_settings, load_expanded, trail_settings
from otel_audit_exporter.errors import AuditConfigurationError

TABLES = {"OTEL_AUDIT_TRAIL_LEDGER_TABLE": "ledger_events"}
URL, KEY = "https://a.supabase.co", "sb_secret_a"


def base(**arguments: Any) -> Settings:
    return load_settings({"exporter": "supabase", "url": URL, "key": KEY, **arguments}, {})


def read(environ: Mapping[str, str], trails: Any = None, **arguments: Any) -> dict[str, Settings]:
    return trail_settings(base(**arguments), trails, environ)


def test_the_environment_declares_names_and_sets_them() -> None:
    environ = {"OTEL_AUDIT_TRAILS": "ledger, eu-west", **TABLES, "OTEL_AUDIT_TRAIL_EU_WEST_TABLE": "west"}
    found = read(environ | {"OTEL_AUDIT_TRAIL_EU_WEST_COLUMNS": "+severity=metadata.severity"})
    assert {name: settings.table for name, settings in found.items()} == {"ledger": "ledger_events", "eu-west": "west"}
    assert (found["eu-west"].columns or {})["severity"] == "metadata.severity"
    assert "id" in (found["eu-west"].columns or {})


def test_what_the_table_has_is_never_inherited_and_the_rest_is() -> None:
    columns = {"id": "record_id", "metadata": "metadata", "a": "action"}
    said: dict[str, Any] = {
        "columns": columns,
        "ids": "text",
        "unmapped": "drop",
        "tenants": False,
        "optional": ("user_id",),
        "schema": "audit",
        "ip": "off",
        "redact_keys": ["pin"],
    }
    (ledger,) = read({"OTEL_AUDIT_TRAILS": "ledger", **TABLES}, **said).values()
    assert (ledger.columns, ledger.ids, ledger.unmapped, ledger.tenants, ledger.optional) == (
        *(None, "uuid", "fold", True),
        (),
    )
    assert (ledger.schema, ledger.ip, ledger.redact_keys, ledger.url, ledger.key) == (
        "audit",
        "off",
        ("pin",),
        URL,
        KEY,
    )


def test_another_exporter_inherits_no_address() -> None:
    (ledger,) = read({"OTEL_AUDIT_TRAILS": "ledger", **TABLES, "OTEL_AUDIT_TRAIL_LEDGER_EXPORTER": "postgres"}).values()
    assert (ledger.exporter, ledger.url, ledger.key) == ("postgres", None, None)


def test_another_url_inherits_no_key() -> None:
    (ledger,) = read({}, {"ledger": {"table": "x", "url": "https://b.supabase.co"}}).values()
    assert (ledger.url, ledger.key) == ("https://b.supabase.co", None)


def test_an_argument_goes_before_the_environment() -> None:
    (ledger,) = read({"OTEL_AUDIT_TRAILS": "ledger", **TABLES}, {"ledger": {"table": "argued"}}).values()
    assert ledger.table == "argued"


def test_the_longest_declared_name_wins() -> None:
    environ = {
        "OTEL_AUDIT_TRAILS": "eu,eu-west",
        "OTEL_AUDIT_TRAIL_EU_TABLE": "eu",
        "OTEL_AUDIT_TRAIL_EU_WEST_TABLE": "west",
    }
    assert {name: settings.table for name, settings in read(environ).items()} == {"eu": "eu", "eu-west": "west"}


@pytest.mark.parametrize(
    ("environ", "trails", "words"),
    [
        ({"OTEL_AUDIT_TRAILS": "a-b,a_b"}, None, "is no name of a trail"),
        ({"OTEL_AUDIT_TRAILS": "default"}, None, "is the trail that the other settings describe"),
        ({"OTEL_AUDIT_TRAILS": "Ledger"}, None, "is no name of a trail"),
        (TABLES, None, "belongs to no trail that is declared"),
        ({"OTEL_AUDIT_TRAILS": "ledger"}, None, "a trail has a table of its own"),
        ({"OTEL_AUDIT_TRAILS": "ledger", **TABLES, "OTEL_AUDIT_TRAIL_LEDGER_X": "1"}, None, "no such setting"),
        ({"OTEL_AUDIT_TRAILS": "ledger", **TABLES, "OTEL_AUDIT_TRAIL_LEDGER_IDS": "int"}, None, "LEDGER_IDS='int'"),
        ({}, {"ledger": {"table": "x", "mode": "sync"}}, "is a setting of the pipeline"),
        ({}, {"ledger": {"table": "x", "colums": {}}}, "there is no such setting"),
        ({}, {"ledger": "ledger_events"}, "must be a mapping"),
        ({}, ["ledger"], "must be a mapping"),
    ],
)
def test_every_mistake_of_naming_is_reported(environ: dict[str, str], trails: Any, words: str) -> None:
    with pytest.raises(AuditConfigurationError) as caught:
        read(environ, trails)
    assert words in str(caught.value)


@pytest.mark.parametrize("suffix", ["KEY", "SUPABASE_SERVICE_ROLE_KEY", "DSN", "TOKEN"])
def test_no_message_or_repr_has_a_secret_of_a_trail(suffix: str) -> None:
    secret = "postgresql://u:hunter2@" if suffix == "DSN" else "hunter2\nhunter2"
    environ = {"OTEL_AUDIT_TRAILS": "ledger", **TABLES, f"OTEL_AUDIT_TRAIL_LEDGER_{suffix}": secret}
    try:
        shown = repr(read(environ))
    except AuditConfigurationError as error:
        shown = str(error)
    assert "hunter2" not in shown


class TestDatabases:
    ALLOWED = ("url", "key", "token", "schema")

    def test_a_url_comes_with_a_key_of_its_own(self) -> None:
        found = database_settings(base(), "acme", {"url": "https://b.supabase.co", "key": "sb_b"}, self.ALLOWED)
        assert (found.url, found.key) == ("https://b.supabase.co", "sb_b")
        assert database_settings(base(), "acme", {"url": "https://b.supabase.co"}, self.ALLOWED).key is None

    def test_a_schema_alone_is_one_of_the_configured_project(self) -> None:
        found = database_settings(base(), "acme", {"schema": "acme"}, self.ALLOWED)
        assert (found.url, found.key, found.schema) == (URL, KEY, "acme")

    @pytest.mark.parametrize(
        "given", [None, "x", {}, {"key": "sb_b"}, {"dsn": "postgresql://u:pw@h/d"}, {"table": "x"}]
    )
    def test_what_names_no_place_is_refused_without_its_secrets(self, given: Any) -> None:
        with pytest.raises(AuditConfigurationError, match="acme") as caught:
            database_settings(base(), "acme", given, self.ALLOWED)
        assert "pw" not in str(caught.value)
        assert "sb_b" not in str(caught.value)


def client(schema: str) -> SimpleNamespace:
    return SimpleNamespace(supabase_url="https://a.example", supabase_key="key", options=SimpleNamespace(schema=schema))


@pytest.mark.parametrize(("base", "schema"), [({"client": client("tenant")}, "public"), ({"schema": "own"}, "own")])
def test_a_client_without_a_schema_of_its_own_takes_no_other_client_s(base: dict[str, Any], schema: str) -> None:
    settings = load_expanded({"exporter": "supabase", **base})
    found = database_settings(settings, "acme", {"client": client("public")}, ("url", "key", "schema"))
    assert found.schema == schema
