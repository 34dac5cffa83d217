"""Settings: argument, then environment, then default; and what a wrong one says."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from otel_audit_exporter.config.options import SETTINGS, settings_table
from otel_audit_exporter.config.settings import Settings, default_outbox_dir, load_settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS
from otel_audit_exporter.event.redaction import DEFAULT_REDACT_KEYS

SECRET = "S3CRET-VALUE"
BATCH_VARIABLES = {
    "schedule_delay_millis": "SCHEDULE_DELAY",
    "max_queue_size": "MAX_QUEUE_SIZE",
    "max_export_batch_size": "MAX_EXPORT_BATCH_SIZE",
    "export_timeout_millis": "EXPORT_TIMEOUT",
}

# argument, its variable, the variable's text, what that means, an argument's value, what that means, the default
PRECEDENCE: list[tuple[str, str, str, Any, Any, Any, Any]] = [
    ("exporter", "OTEL_AUDIT_EXPORTER", "supabase", "supabase", "memory", "memory", None),
    ("mode", "OTEL_AUDIT_MODE", "sync", "sync", "batch", "batch", "batch"),
    ("url", "SUPABASE_URL", "https://a.example/", "https://a.example", "http://b", "http://b", None),
    ("key", "SUPABASE_SERVICE_ROLE_KEY", "k1", "k1", "k2", "k2", None),
    ("token", "OTEL_AUDIT_SUPABASE_TOKEN", "t1", "t1", "t2", "t2", None),
    ("dsn", "OTEL_AUDIT_POSTGRES_DSN", "postgresql://a", "postgresql://a", "postgresql://b", "postgresql://b", None),
    ("format", "OTEL_AUDIT_CONSOLE_FORMAT", "json", "json", "text", "text", "text"),
    ("path", "OTEL_AUDIT_SQLITE_PATH", "a.db", "a.db", Path("b.db"), "b.db", "pms_audit_log.db"),
    ("table", "OTEL_AUDIT_TABLE", "a", "a", "b", "b", "pms_audit_log"),
    ("schema", "OTEL_AUDIT_SCHEMA", "a", "a", "b", "b", "public"),
    (
        "columns",
        "OTEL_AUDIT_COLUMNS",
        "id=record_id, who = user_id",
        {"id": "record_id", "who": "user_id"},
        {"key": "record_id"},
        {"key": "record_id"},
        None,
    ),
    (
        "columns_before",
        "OTEL_AUDIT_COLUMNS_BEFORE",
        '{"2026-03-01T02:00:00+02:00": {"id": "record_id"}}',
        {datetime(2026, 3, 1, tzinfo=UTC): {"id": "record_id"}},
        {datetime(2026, 3, 1, tzinfo=UTC): {"key": "record_id"}},
        {datetime(2026, 3, 1, tzinfo=UTC): {"key": "record_id"}},
        None,
    ),
    ("column_defaults", "OTEL_AUDIT_COLUMN_DEFAULTS", '{"a": {}}', {"a": {}}, {"b": 1}, {"b": 1}, None),
    ("key_columns", "OTEL_AUDIT_KEY_COLUMNS", "id, at", ("id", "at"), ["id"], ("id",), None),
    ("unmapped", "OTEL_AUDIT_UNMAPPED", "drop", "drop", "error", "error", "fold"),
    ("surroundings", "OTEL_AUDIT_SURROUNDINGS", "ids", "ids", "all", "all", "drop"),
    ("ip", "OTEL_AUDIT_IP", "truncated", "truncated", "off", "off", "full"),
    ("tenants", "OTEL_AUDIT_TENANTS", "false", False, True, True, True),
    ("optional", "OTEL_AUDIT_OPTIONAL", "actor_id, entity_id", ("user_id", "entity_id"), ["user_id"], ("user_id",), ()),
    ("ids", "OTEL_AUDIT_IDS", "text", "text", "uuid", "uuid", "uuid"),
    ("outbox", "OTEL_AUDIT_OUTBOX", "memory", "memory", "fsync", "fsync", "disk"),
    ("profile", "OTEL_AUDIT_PROFILE", "ephemeral", "ephemeral", "server", "server", "server"),
    ("response_deadline_millis", "OTEL_AUDIT_RESPONSE_DEADLINE", "50", 50, 60, 60, 2000),
    ("past_deadline", "OTEL_AUDIT_PAST_DEADLINE", "raise", "raise", "stdout", "stdout", "log"),
    ("outbox_dir", "OTEL_AUDIT_OUTBOX_DIR", "a", "a", "b", "b", None),
    ("outbox_max_bytes", "OTEL_AUDIT_OUTBOX_MAX_BYTES", "2 MiB", 2**21, 4096, 4096, 2**30),
    ("outbox_write", "OTEL_AUDIT_OUTBOX_WRITE", "written", "written", "mapped", "mapped", "auto"),
    ("on_outbox_error", "OTEL_AUDIT_ON_OUTBOX_ERROR", "log", "log", "raise", "raise", "raise"),
    ("on_invalid", "OTEL_AUDIT_ON_INVALID", "park", "park", "raise", "raise", "raise"),
    ("schedule_delay_millis", "OTEL_AUDIT_SCHEDULE_DELAY", "5", 5, 6, 6, 200),
    ("max_queue_size", "OTEL_AUDIT_MAX_QUEUE_SIZE", "5000", 5000, 6000, 6000, 4096),
    ("max_export_batch_size", "OTEL_AUDIT_MAX_EXPORT_BATCH_SIZE", "5", 5, 6, 6, 512),
    ("export_timeout_millis", "OTEL_AUDIT_EXPORT_TIMEOUT", "5", 5, 6, 6, 10_000),
    ("foreign_key_grace_seconds", "OTEL_AUDIT_FOREIGN_KEY_GRACE", "1.5", 1.5, 2, 2.0, 60.0),
    ("redact_keys", "OTEL_AUDIT_REDACT_KEYS", "pin, iban", ("pin", "iban"), ["x"], ("x",), DEFAULT_REDACT_KEYS),
    ("max_value_bytes", "OTEL_AUDIT_MAX_VALUE_BYTES", "1 KiB", 1024, 5, 5, None),
    ("max_connections", "OTEL_AUDIT_MAX_CONNECTIONS", "9", 9, 3, 3, 50),
    ("metrics_database", "OTEL_AUDIT_METRICS_DATABASE", "true", True, False, False, False),
    ("objects", "OTEL_AUDIT_OBJECTS", "text", "text", "members", "members", "members"),
    ("slow_write_seconds", "OTEL_AUDIT_SLOW_WRITE", "0.5", 0.5, 2, 2.0, 1.0),
    ("handle_sigterm", "OTEL_AUDIT_HANDLE_SIGTERM", "off", False, True, True, True),
    ("shutdown_timeout_millis", "OTEL_AUDIT_SHUTDOWN_TIMEOUT", "0", 0, 5, 5, 10_000),
]


def complaint(arguments: dict[str, Any] | None = None, /, **environ: str) -> str:
    with pytest.raises(AuditConfigurationError) as caught:
        load_settings(arguments or {}, environ)
    return str(caught.value)


class TestPrecedence:
    @pytest.mark.parametrize(
        ("name", "variable", "text", "from_text", "argument", "from_argument", "default"),
        PRECEDENCE,
        ids=[row[0] for row in PRECEDENCE],
    )
    def test_an_argument_goes_before_the_environment_and_that_before_the_default(
        self, name: str, variable: str, text: str, from_text: Any, argument: Any, from_argument: Any, default: Any
    ) -> None:
        assert load_settings({}, {}).values[name] == default
        assert load_settings({}, {variable: text}).values[name] == from_text
        assert load_settings({name: argument}, {variable: text}).values[name] == from_argument
        assert load_settings({name: None}, {variable: text}).values[name] == from_text

    def test_every_setting_of_the_environment_is_in_the_table_above(self) -> None:
        elsewhere = {"health_thresholds"}  # with the tests of health
        assert {setting.argument for setting in SETTINGS if setting.variables} - elsewhere == {
            row[0] for row in PRECEDENCE
        }

    @pytest.mark.parametrize(("name", "rest"), BATCH_VARIABLES.items(), ids=list(BATCH_VARIABLES))
    def test_the_batch_processor_s_own_variables_go_before_the_sdk_s(self, name: str, rest: str) -> None:
        both = {f"OTEL_AUDIT_{rest}": "100", f"OTEL_BLRP_{rest}": "200"}
        sdk_only = {f"OTEL_BLRP_{rest}": "200"}
        assert load_settings({name: 50}, both).values[name] == 50
        assert load_settings({}, both).values[name] == 100
        assert load_settings({}, sdk_only).values[name] == 200

    def test_supabase_keys_have_their_order(self) -> None:
        names = ("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_KEY")
        environ = {name: name.lower() for name in names}
        for name in names:
            assert load_settings({}, environ).key == name.lower()
            del environ[name]
        assert load_settings({}, {"DATABASE_URL": "b", "OTEL_AUDIT_POSTGRES_DSN": "a"}).dsn == "a"
        assert load_settings({}, {"DATABASE_URL": "b"}).dsn == "b"

    def test_an_empty_variable_is_an_unset_one(self) -> None:
        settings = load_settings({}, {"OTEL_AUDIT_MODE": "", "OTEL_AUDIT_TABLE": "  ", "OTEL_AUDIT_SCHEDULE_DELAY": ""})
        assert (settings.mode, settings.table, settings.schedule_delay_millis) == ("batch", "pms_audit_log", 200)
        assert not settings.chosen("mode")

    def test_an_empty_list_of_redacted_keys_switches_redaction_off(self) -> None:
        assert load_settings({}, {"OTEL_AUDIT_REDACT_KEYS": ""}).redact_keys == ()
        assert load_settings({"redact_keys": []}, {}).redact_keys == ()

    def test_it_is_known_who_chose_a_value(self) -> None:
        settings = load_settings({"table": "t"}, {"SUPABASE_URL": "https://a.example", "OTEL_BLRP_MAX_QUEUE_SIZE": "9"})
        assert settings.sources["table"] == "table"
        assert settings.sources["url"] == "SUPABASE_URL"
        assert settings.sources["max_queue_size"] == "OTEL_BLRP_MAX_QUEUE_SIZE"
        assert not settings.chosen("schema")

    def test_the_process_s_environment_is_the_default_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_AUDIT_TABLE", "from_env")
        assert load_settings({}).table == "from_env"


class TestBatchFitsQueue:
    def test_the_one_that_was_chosen_carries_the_other_along(self) -> None:
        assert load_settings({"max_queue_size": 100}, {}).max_export_batch_size == 100
        assert load_settings({"max_export_batch_size": 9000}, {}).max_queue_size == 9000

    def test_both_chosen_have_to_fit(self) -> None:
        said = complaint({"max_queue_size": 10}, OTEL_AUDIT_MAX_EXPORT_BATCH_SIZE="20")
        assert said == "OTEL_AUDIT_MAX_EXPORT_BATCH_SIZE: must not be larger than max_queue_size (20 > 10)"


BAD: list[tuple[str, str, str]] = [
    ("OTEL_AUDIT_MODE", "fast", "must be one of batch, sync"),
    ("OTEL_AUDIT_UNMAPPED", "keep", "must be one of fold, drop, error"),
    ("OTEL_AUDIT_IDS", "int", "must be one of uuid, text"),
    ("OTEL_AUDIT_OUTBOX", "ram", "must be one of disk, fsync, memory"),
    ("OTEL_AUDIT_ON_OUTBOX_ERROR", "ignore", "must be one of raise, log"),
    ("OTEL_AUDIT_HANDLE_SIGTERM", "maybe", "must be true or false"),
    ("OTEL_AUDIT_OUTBOX_MAX_BYTES", "1 XB", "must be a whole number of bytes (or with the unit KiB, MiB or GiB), 1"),
    ("OTEL_AUDIT_OUTBOX_MAX_BYTES", "x GiB", "must be a whole number of KiB, MiB or GiB, 1 or more"),
    ("OTEL_AUDIT_OUTBOX_MAX_BYTES", "0", "1 or more"),
    ("OTEL_AUDIT_SCHEDULE_DELAY", "soon", "must be a whole number of milliseconds, 1 or more"),
    ("OTEL_BLRP_SCHEDULE_DELAY", "-1", "must be a whole number of milliseconds, 1 or more"),
    ("OTEL_AUDIT_MAX_QUEUE_SIZE", "0", "must be a whole number of records, 1 or more"),
    ("OTEL_AUDIT_MAX_EXPORT_BATCH_SIZE", "1.5", "must be a whole number of records, 1 or more"),
    ("OTEL_AUDIT_EXPORT_TIMEOUT", "10s", "must be a whole number of milliseconds, 1 or more"),
    ("OTEL_AUDIT_SHUTDOWN_TIMEOUT", "-5", "must be a whole number of milliseconds, 0 or more"),
    ("OTEL_AUDIT_FOREIGN_KEY_GRACE", "nan", "must be a number of seconds, 0 or more"),
    ("OTEL_AUDIT_FOREIGN_KEY_GRACE", "inf", "must be a number of seconds, 0 or more"),
    ("OTEL_AUDIT_COLUMNS", "id", "must be column=field pairs with commas between them"),
    ("OTEL_AUDIT_COLUMNS", "id=record_id,=action", "must be column=field pairs with commas between them"),
    ("OTEL_AUDIT_COLUMNS", '{"id": 1}', "must map column names to field names"),
    ("OTEL_AUDIT_COLUMNS", "id=nonsense", "no field is called nonsense; fields are record_id, yacht_id, "),
    ("OTEL_AUDIT_COLUMNS", "what=action", "exactly one column (a unique one) must take record_id"),
    ("OTEL_AUDIT_COLUMNS", "a=record_id,b=record_id", "exactly one column (a unique one) must take record_id"),
    ("OTEL_AUDIT_COLUMN_DEFAULTS", "{", "must be a JSON object of column and value"),
    ("OTEL_AUDIT_COLUMN_DEFAULTS", "[1]", "must be a JSON object of column and value"),
    ("SUPABASE_URL", "abcdefgh.supabase.co", "must be a URL such as https://abcdefgh.supabase.co"),
    ("SUPABASE_URL", "ftp://x", "must be a URL such as https://abcdefgh.supabase.co"),
    ("SUPABASE_URL", "https://[", "must be a URL such as https://abcdefgh.supabase.co"),
]


class TestFaults:
    @pytest.mark.parametrize(("variable", "value", "allowed"), BAD)
    def test_a_bad_value_names_variable_value_and_what_is_allowed(
        self, variable: str, value: str, allowed: str
    ) -> None:
        said = complaint(None, **{variable: value})
        assert said.startswith(f"{variable}={value!r}: ")
        assert allowed in said

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("mode", 5),
            ("table", ""),
            ("table", 5),
            ("path", b"x"),
            ("columns", {}),
            ("columns", {"id": 5}),
            ("columns", {5: "record_id"}),
            ("columns", {"id": ["record_id"]}),
            ("columns", ["id"]),
            ("column_defaults", 5),
            ("columns_before", 5),
            ("columns_before", {"2026-03-01": {"id": "record_id"}}),
            ("columns_before", {"then": {"id": "record_id"}}),
            ("redact_keys", 5),
            ("redact_keys", [5]),
            ("schedule_delay_millis", True),
            ("schedule_delay_millis", 1.5),
            ("schedule_delay_millis", None.__class__),
            ("max_queue_size", "many"),
            ("outbox_max_bytes", True),
            ("foreign_key_grace_seconds", "x"),
            ("handle_sigterm", 5),
            ("url", 5),
        ],
    )
    def test_a_bad_argument_is_reported_like_a_bad_variable(self, name: str, value: Any) -> None:
        assert complaint({name: value}).startswith(f"{name}=")

    def test_one_error_names_every_fault(self) -> None:
        said = complaint({"table": ""}, OTEL_AUDIT_MODE="x", OTEL_AUDIT_IDS="y")
        assert all(name in said for name in ("table=", "OTEL_AUDIT_MODE=", "OTEL_AUDIT_IDS="))

    def test_an_unknown_argument_is_named(self) -> None:
        assert complaint({"tabel": "x"}) == "tabel: there is no such setting"

    def test_a_long_value_is_not_repeated_at_full_length(self) -> None:
        assert len(complaint(OTEL_AUDIT_MODE="x" * 5000)) < 200


class TestSecrets:
    @pytest.mark.parametrize("name", ["key", "token", "dsn"])
    def test_a_bad_secret_is_not_repeated(self, name: str) -> None:
        said = complaint({name: [SECRET]})
        assert said == f"{name}: must be a non-empty string"

    @pytest.mark.parametrize(
        "url", [f"https://user:{SECRET}@x.example", f"https://:{SECRET}@x.example", f"{SECRET}@x", f"//{SECRET}@x"]
    )
    def test_a_password_in_the_address_is_refused_and_not_repeated(self, url: str) -> None:
        said = complaint(SUPABASE_URL=url)
        assert "SUPABASE_URL" in said
        assert SECRET not in said

    @pytest.mark.parametrize("name", ["url", "mode", "outbox_max_bytes"])
    @pytest.mark.parametrize("value", ["eyJhbGciOi.S3CRET-VALUE.x", "sb_secret_S3CRET-VALUE", "x?key=S3CRET-VALUE"])
    def test_a_key_in_a_wrong_place_is_not_repeated(self, name: str, value: str) -> None:
        said = complaint({name: value, "ids": "x"})
        assert SECRET not in said

    def test_the_representation_shows_no_secret(self) -> None:
        settings = load_settings({"key": SECRET, "token": SECRET, "dsn": f"postgresql://u:{SECRET}@h/d"}, {})
        assert SECRET not in repr(settings)
        assert SECRET not in str(settings)
        assert "mode='batch'" in repr(settings)
        assert "key=" not in repr(load_settings({}, {}))

    @pytest.mark.parametrize(
        ("given", "read"),
        [
            ("postgresql://u:p@ss@h:5/d", "postgresql://u:p%40ss@h:5/d"),
            ("postgresql://u:p/s/s@h:5/d?sslmode=require", "postgresql://u:p%2Fs%2Fs@h:5/d?sslmode=require"),
            ("postgresql+psycopg://u:a@b/c@h/d?user=x@y", "postgresql+psycopg://u:a%40b%2Fc@h/d?user=x@y"),
            *(
                (same, same)
                for same in (
                    "postgresql://u:p%40ss@h:5/d",
                    "postgresql://u:p@h/d?options=-c%20a%3Db",
                    "postgresql://u@h/d?password=p@ss",
                    "postgresql:///d?host=/run/postgresql",
                    "postgresql://h/d",
                    "postgresql://h:5432,i:5433/d",
                    "host=h password=a://b@c@d",
                )
            ),
        ],
    )
    def test_a_password_in_a_dsn_need_not_be_encoded(self, given: str, read: str) -> None:
        assert load_settings({"dsn": given}, {}).dsn == read

    def test_a_token_may_be_a_callable(self) -> None:
        def token() -> str:
            return SECRET

        assert load_settings({"token": token}, {}).token is token


class TestOutboxDirectory:
    def test_systemd_s_state_directory_goes_first(self) -> None:
        assert default_outbox_dir({"STATE_DIRECTORY": "/var/lib/api:/var/lib/more"}) == (
            "/var/lib/api/otel_audit_exporter"
        )

    def test_else_it_is_the_user_s(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        found = Path(default_outbox_dir({}))
        assert found.name == "otel_audit_exporter"
        assert found.is_relative_to(tmp_path)

    def test_a_user_without_a_home_is_asked_to_name_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_home(*args: object, **kwargs: object) -> str:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr("platformdirs.user_state_dir", no_home)
        with pytest.raises(AuditConfigurationError, match="OTEL_AUDIT_OUTBOX_DIR"):
            default_outbox_dir({})


def test_the_readme_s_table_has_every_argument_and_variable() -> None:
    table = settings_table()
    for setting in SETTINGS:
        assert f"`{setting.argument}`" in table
        assert all(f"`{variable}`" in table for variable in setting.variables)
    assert len(table.splitlines()) == 2 + len(SETTINGS)


def test_every_setting_is_an_attribute_of_the_settings() -> None:
    names = [one.name for one in dataclasses.fields(Settings) if one.name != "sources"]
    assert names == [setting.argument for setting in SETTINGS]


class TestAddedColumns:
    NINE: ClassVar[dict[str, str]] = dict(DEFAULT_COLUMNS)

    def test_they_add_to_the_nine_in_code_and_in_the_variable(self) -> None:
        added = {"severity": "metadata.severity", "ip": "source_ip"}
        for settings in (
            load_settings({"columns": {f"+{name}": source for name, source in added.items()}}, {}),
            load_settings({}, {"OTEL_AUDIT_COLUMNS": "+severity=metadata.severity,ip=source_ip"}),
            load_settings({}, {"OTEL_AUDIT_COLUMNS": '+{"severity": "metadata.severity", "ip": "source_ip"}'}),
        ):
            assert settings.columns == self.NINE | added

    def test_without_tenants_they_add_to_the_other_eight(self) -> None:
        settings = load_settings({"columns": {"+ip": "source_ip"}, "tenants": False}, {})
        assert settings.columns == {**{k: v for k, v in self.NINE.items() if k != "yacht_id"}, "ip": "source_ip"}

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            ({"+ip": "source_ip", "ua": "user_agent"}, "either every column begins with"),
            ("+ip=source_ip,+ua=user_agent", "must begin with one"),
            ("id=record_id,+ua=user_agent", "either every column begins with"),
            ({"+created_by": "on_behalf_of"}, "created_by: must be a new column"),
            ({"+other": "id"}, "record_id has its column"),
            ({"+ip": "nothing"}, "no field is called nothing"),
            ({"+ip": "source_ip.a"}, "only old_values, new_values, metadata, signature hold documents"),
        ],
    )
    def test_what_cannot_be_is_refused(self, columns: Any, words: str) -> None:
        given = ({"columns": columns}, {}) if isinstance(columns, dict) else ({}, {"OTEL_AUDIT_COLUMNS": columns})
        with pytest.raises(AuditConfigurationError, match=re.escape(words)):
            load_settings(*given)

    def test_sources_may_be_second_names(self) -> None:
        columns = {"k": "id", "t": "tenant_id", "a": "actor_id", "by": "created_by", "m": 'metadata."b.c".d'}
        assert load_settings({"columns": columns}, {}).columns == {
            "k": "record_id",
            "t": "yacht_id",
            "a": "user_id",
            "by": "user_id",
            "m": 'metadata."b.c".d',
        }


def test_the_usual_name_of_supabases_key_is_read_too() -> None:
    assert load_settings({}, {"SUPABASE_SERVICE_KEY": "k"}).key == "k"
