"""The table of settings: each is declared once, and is parsed, explained and documented from here."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from otel_audit_exporter.config import parsers
from otel_audit_exporter.event.redaction import DEFAULT_REDACT_KEYS
from otel_audit_exporter.observability.health import HealthThresholds, parse_thresholds


class Setting(NamedTuple):
    """One setting: its argument, its variables in order of precedence, how it is read and what it means."""

    argument: str
    variables: tuple[str, ...]
    parse: parsers.Parser
    default: Any
    default_text: str
    meaning: str
    secret: bool = False


SETTINGS: Final = (
    Setting("exporter", ("OTEL_AUDIT_EXPORTER",), parsers.as_is, None, "`sqlite`", "which exporter"),
    Setting(
        "mode",
        ("OTEL_AUDIT_MODE",),
        parsers.choice_of("batch", "sync"),
        "batch",
        "`batch`",
        "`batch`: rows are sent in the background; `sync`: the call waits for the sink (the rollback switch)",
    ),
    Setting(
        "profile",
        ("OTEL_AUDIT_PROFILE",),
        parsers.choice_of("server", "ephemeral"),
        "server",
        "`server`",
        "`ephemeral`: for functions and containers that are frozen or removed after the answer: the outbox is in "
        "memory, and a response waits until the rows of its request are in the table",
    ),
    Setting(
        "response_deadline_millis",
        ("OTEL_AUDIT_RESPONSE_DEADLINE",),
        parsers.number_of(int, 0, "milliseconds"),
        2000,
        "2000 ms",
        "with `ephemeral`: how long a response waits at most (on Lambda never longer than the remaining time less "
        "500 ms)",
    ),
    Setting(
        "past_deadline",
        ("OTEL_AUDIT_PAST_DEADLINE",),
        parsers.choice_of("log", "raise", "stdout"),
        "log",
        "`log`",
        "with `ephemeral`, for each event that is not in the table then: `log` its id, action and entity; `raise`: the "
        "request fails, too; `stdout`: print the whole event as one line that `otel-audit emit` takes",
    ),
    Setting("url", ("SUPABASE_URL",), parsers.parse_url, None, "", "the Supabase project"),
    Setting(
        "key",
        ("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SERVICE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_KEY"),
        parsers.parse_text,
        None,
        "",
        "its key: an old JWT key or a new `sb_secret_` one",
        secret=True,
    ),
    Setting(
        "token",
        ("OTEL_AUDIT_SUPABASE_TOKEN",),
        parsers.parse_token,
        None,
        "the key",
        "the token of a lesser role for Authorization (the argument may be a callable)",
        secret=True,
    ),
    Setting(
        "dsn",
        ("OTEL_AUDIT_POSTGRES_DSN", "DATABASE_URL"),
        parsers.parse_dsn,
        None,
        "",
        "the direct PostgreSQL connection",
        secret=True,
    ),
    Setting(
        "endpoint",
        (),  # the official exporter reads its own variables, which others may have set for gRPC
        parsers.parse_url,
        None,
        "`OTEL_EXPORTER_OTLP_*`",
        "where `otlp` sends to, with `/v1/logs`",
        secret=True,  # some receivers take their key in the address
    ),
    Setting(
        "format",
        ("OTEL_AUDIT_CONSOLE_FORMAT",),
        parsers.choice_of("text", "json"),
        "text",
        "`text`",
        "how `console` prints",
    ),
    Setting(
        "path",
        ("OTEL_AUDIT_SQLITE_PATH",),
        parsers.parse_path,
        "pms_audit_log.db",
        "`pms_audit_log.db`",
        "the file of the embedded table",
    ),
    Setting("table", ("OTEL_AUDIT_TABLE",), parsers.parse_text, "pms_audit_log", "`pms_audit_log`", "the table"),
    Setting("schema", ("OTEL_AUDIT_SCHEMA",), parsers.parse_text, "public", "`public`", "its schema"),
    Setting(
        "columns",
        ("OTEL_AUDIT_COLUMNS",),
        parsers.parse_columns,
        None,
        "the nine",
        "which column takes which field, or path into one (`metadata.severity`): `column=field,...`, or a JSON object; "
        "`+` before the first column (in code: before each) adds to the nine",
    ),
    Setting(
        "columns_before",
        ("OTEL_AUDIT_COLUMNS_BEFORE",),
        parsers.parse_columns_before,
        None,
        "",
        "for reading: which columns rows from before a time were written with, a JSON object of time and columns "
        '(`{"2026-03-01T00:00:00Z": {"id": "record_id", ...}}`)',
    ),
    Setting(
        "column_defaults",
        ("OTEL_AUDIT_COLUMN_DEFAULTS",),
        parsers.parse_json_object,
        None,
        "",
        "a JSON object of column and the value to write where the event has none",
    ),
    Setting(
        "key_columns",
        ("OTEL_AUDIT_KEY_COLUMNS",),
        parsers.parse_some_names,
        None,
        "the id's column",
        "what the table's key is on, with commas between them (`id,created_at` on a partitioned table)",
    ),
    Setting(
        "unmapped",
        ("OTEL_AUDIT_UNMAPPED",),
        parsers.choice_of("fold", "drop", "error"),
        "fold",
        "`fold`",
        "what the caller gave and no column takes: kept under `_audit` of `new_values` (else `metadata`, else "
        "`old_values`), left out, or refused",
    ),
    Setting(
        "surroundings",
        ("OTEL_AUDIT_SURROUNDINGS",),
        parsers.choice_of("drop", "ids", "all"),
        "drop",
        "`drop`",
        "what a middleware or the current span knows and no column takes: left out; `ids`: request, trace and span ids "
        "are kept under `_audit`; `all`: the source address and the user agent, too",
    ),
    Setting(
        "ip",
        ("OTEL_AUDIT_IP",),
        parsers.choice_of("full", "truncated", "off"),
        "full",
        "`full`",
        "how much of a source address is recorded; `truncated`: its network (/24, IPv6: /48)",
    ),
    Setting(
        "tenants",
        ("OTEL_AUDIT_TENANTS",),
        parsers.parse_boolean,
        True,
        "`true`",
        "`false`: the application has no tenants, so `yacht_id` is not required and has no default column",
    ),
    Setting(
        "optional",
        ("OTEL_AUDIT_OPTIONAL",),
        parsers.parse_optional,
        (),
        "",
        "fields that a call may leave out although a column takes them, with commas between them (`user_id,entity_id`)",
    ),
    Setting(
        "ids",
        ("OTEL_AUDIT_IDS",),
        parsers.choice_of("uuid", "text"),
        "uuid",
        "`uuid`",
        "`uuid`: entity, user and yacht ids must be UUIDs; `text`: any non-empty string or integer",
    ),
    Setting(
        "outbox",
        ("OTEL_AUDIT_OUTBOX",),
        parsers.choice_of("disk", "fsync", "memory"),
        "disk",
        "`disk`",
        "`disk` survives the process, `fsync` a power loss too, `memory` neither",
    ),
    Setting(
        "outbox_dir",
        ("OTEL_AUDIT_OUTBOX_DIR",),
        parsers.parse_path,
        None,
        "`$STATE_DIRECTORY`, then the user's state directory",
        "where the outbox and the dead letters live (a local file system)",
    ),
    Setting(
        "outbox_max_bytes",
        ("OTEL_AUDIT_OUTBOX_MAX_BYTES",),
        parsers.parse_size,
        2**30,
        "1 GiB, at most half of the free disk",
        "per process, dead letters included; past it `OutboxFullError`",
    ),
    Setting(
        "outbox_write",
        ("OTEL_AUDIT_OUTBOX_WRITE",),
        parsers.choice_of("auto", "mapped", "written"),
        "auto",
        "`auto`",
        "how the outbox on disk is written: `mapped` (a store into memory, which waits for nothing) where the file "
        "system is known to carry it (ext4, xfs, tmpfs), else `written` (by system calls)",
    ),
    Setting(
        "on_outbox_error",
        ("OTEL_AUDIT_ON_OUTBOX_ERROR",),
        parsers.choice_of("raise", "log"),
        "raise",
        "`raise`",
        "`log`: an event that the outbox refuses is logged as critical and counted, and the call returns",
    ),
    Setting(
        "on_invalid",
        ("OTEL_AUDIT_ON_INVALID",),
        parsers.choice_of("raise", "park"),
        "raise",
        "`raise`",
        "`park`: an event that is wrong goes to the dead letters with its reasons, and the call returns",
    ),
    Setting(
        "schedule_delay_millis",
        ("OTEL_AUDIT_SCHEDULE_DELAY", "OTEL_BLRP_SCHEDULE_DELAY"),
        parsers.number_of(int, 1, "milliseconds"),
        200,
        "200 ms",
        "how long the batch processor waits for a batch to fill",
    ),
    Setting(
        "max_queue_size",
        ("OTEL_AUDIT_MAX_QUEUE_SIZE", "OTEL_BLRP_MAX_QUEUE_SIZE"),
        parsers.number_of(int, 1, "records"),
        4096,
        "4096",
        "the batch processor's queue; what overflows it is delivered from the outbox",
    ),
    Setting(
        "max_export_batch_size",
        ("OTEL_AUDIT_MAX_EXPORT_BATCH_SIZE", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"),
        parsers.number_of(int, 1, "records"),
        512,
        "512",
        "rows in one request of the batch processor",
    ),
    Setting(
        "export_timeout_millis",
        ("OTEL_AUDIT_EXPORT_TIMEOUT", "OTEL_BLRP_EXPORT_TIMEOUT"),
        parsers.number_of(int, 1, "milliseconds"),
        10_000,
        "10000 ms",
        "the whole of one attempt to write, and how long a call waits in sync mode",
    ),
    Setting(
        "foreign_key_grace_seconds",
        ("OTEL_AUDIT_FOREIGN_KEY_GRACE",),
        parsers.number_of(float, 0, "seconds"),
        60.0,
        "60 s",
        "how long a row waits for the row that it refers to",
    ),
    Setting(
        "redact_keys",
        ("OTEL_AUDIT_REDACT_KEYS",),
        parsers.parse_names,
        DEFAULT_REDACT_KEYS,
        "the library's list",
        "keys whose values are redacted, with commas between them; empty switches it off",
    ),
    Setting(
        "redact_hook",
        (),
        parsers.parse_callable,
        None,
        "",
        "a callable, asked as `hook(path, value)` about every value that no key hides: what it returns is recorded",
    ),
    Setting(
        "max_value_bytes",
        ("OTEL_AUDIT_MAX_VALUE_BYTES",),
        parsers.parse_size,
        None,
        "no limit",
        "longer strings and bytes are cut there, and say how much was cut",
    ),
    Setting(
        "objects",
        ("OTEL_AUDIT_OBJECTS",),
        parsers.choice_of("members", "text"),
        "members",
        "`members`",
        "an object of the application's own that holds only plain values is recorded by its members, or by its text",
    ),
    Setting(
        "max_connections",
        ("OTEL_AUDIT_MAX_CONNECTIONS",),
        parsers.number_of(int, 1, "connections"),
        50,
        "50",
        "connections to sinks that are open at once, over all trails and databases",
    ),
    Setting(
        "metrics_database",
        ("OTEL_AUDIT_METRICS_DATABASE",),
        parsers.parse_boolean,
        False,
        "`false`",
        "give metrics the attribute `database`, too: a series of each for every named database",
    ),
    Setting(
        "handle_sigterm",
        ("OTEL_AUDIT_HANDLE_SIGTERM",),
        parsers.parse_boolean,
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
        parsers.number_of(float, 0, "seconds"),
        1.0,
        "1 s",
        "a write to the sink that takes longer is reported as slow; 0: none is",
    ),
    Setting(
        "on_health_change",
        (),
        parsers.parse_callable,
        None,
        "",
        "a callable, given the new `AuditHealth` once per change of its level",
    ),
    Setting(
        "shutdown_timeout_millis",
        ("OTEL_AUDIT_SHUTDOWN_TIMEOUT",),
        parsers.number_of(int, 0, "milliseconds"),
        10_000,
        "10000 ms",
        "the time given at interpreter exit",
    ),
)

# An empty variable counts as unset (as in OpenTelemetry), except for a list that may be empty on purpose.
MAY_BE_EMPTY: Final = frozenset({"redact_keys"})


def settings_table() -> str:
    """Return the settings as the Markdown table of the documentation."""
    lines = ["| argument | variable | default | meaning |", "| --- | --- | --- | --- |"]
    for setting in SETTINGS:
        variables = ", ".join(f"`{variable}`" for variable in setting.variables)
        lines.append(f"| `{setting.argument}` | {variables} | {setting.default_text} | {setting.meaning} |")
    return "\n".join(lines)
