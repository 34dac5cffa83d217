"""The audit table as this library would make it, as plain SQL for PostgreSQL that runs twice without harm."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Literal

import orjson

from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS, FIELDS
from otel_audit_exporter.sinks.sql_names import quoted

FULL_COLUMNS: Final[Mapping[str, str]] = {
    **DEFAULT_COLUMNS,
    **{name: name for name in ("outcome", "actor_type", "metadata", "signature")},
    **{name: name for name in ("source_ip", "user_agent", "request_id", "trace_id", "span_id")},
}
MONTHS_AHEAD: Final = 3

_INDEXES: Final = (
    *("yacht_index", "entity_index", "user_index", "action_index", "time_index"),
    *("entity_type_index", "entity_id_index"),
    *("yacht_type_index", "yacht_action_index", "yacht_user_index"),
    *("folded_outcome_index", "folded_request_index", "folded_trace_index"),
    *("outcome_index", "trace_index", "request_index", "search_index"),
)
_TEMPLATES: Final = files(__package__).joinpath("sql")
_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")
_DOLLAR_QUOTE: Final = re.compile(r"\$\w*\$")
_NAME_BYTES: Final = 63
_UUID: Final = "~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'"


@dataclass(frozen=True, kw_only=True)
class TablePlan:
    """What the table is to be. Raises :class:`AuditConfigurationError` for a plan that cannot be carried out."""

    table: str = "pms_audit_log"
    schema: str = "public"
    ids: Literal["uuid", "text"] = "uuid"
    full: bool = False
    add: bool = False
    tenant_column: str = "yacht_id"
    actor_column: str = "created_by"
    indexes: bool = False
    search: bool = False
    rls: bool = False
    reader_role: str = "authenticated"
    yacht_claim: str = "yacht_id"
    writer_role: str | None = None
    writer_per_tenant: bool = False
    received_at: bool = False
    append_only: bool = False
    event_triggers: bool = False
    partitioned: bool = False
    retention_months: int | None = None

    def __post_init__(self) -> None:
        names = (self.table, self.schema, self.reader_role, self.yacht_claim, self.writer_role or "writer")
        for name in (*names, self.tenant_column, self.actor_column):
            if not name.strip() or not name.isprintable() or _DOLLAR_QUOTE.search(name):
                raise AuditConfigurationError(f"{name!r} is no name: it is empty, or holds control characters or $$")
            if len(name.encode()) > _NAME_BYTES:
                raise AuditConfigurationError(f"{name!r} is longer than the {_NAME_BYTES} bytes of a name")
        if self.retention_months is not None and not self.partitioned:
            raise AuditConfigurationError("--retention-months goes with --partitioned: it drops whole partitions")
        if self.add and not self.full:
            raise AuditConfigurationError("--add goes with --full: it adds what the full table has")
        if len(self.columns) < len(FULL_COLUMNS if self.full else DEFAULT_COLUMNS):
            raise AuditConfigurationError("--tenant-column and --actor-column must be names of their own")
        if self.writer_per_tenant and self.writer_role is None:
            raise AuditConfigurationError(
                "--writer-per-tenant goes with --writer-role: it says what that role may write"
            )
        if self.event_triggers and self.partitioned:
            raise AuditConfigurationError(
                "--event-triggers goes without --partitioned: partitions are made by altering the table"
            )
        if self.writer_role == self.reader_role and self.rls:
            raise AuditConfigurationError("--writer-role and --reader-role must be two roles")

    @property
    def columns(self) -> Mapping[str, str]:
        """Which column takes which field."""
        renamed = {"yacht_id": self.tenant_column, "created_by": self.actor_column}
        columns = FULL_COLUMNS if self.full else DEFAULT_COLUMNS
        return {renamed.get(column, column): field for column, field in columns.items()}

    @property
    def key_columns(self) -> tuple[str, ...]:
        """What the primary key is on."""
        return ("id", "created_at") if self.partitioned else ("id",)

    def settings(self) -> dict[str, str]:
        """Return the variables that fit the table, where they are not the defaults."""
        settings = {}
        if self.table != "pms_audit_log":
            settings["OTEL_AUDIT_TABLE"] = self.table
        if self.schema != "public":
            settings["OTEL_AUDIT_SCHEMA"] = self.schema
        if dict(self.columns) != dict(DEFAULT_COLUMNS):
            settings["OTEL_AUDIT_COLUMNS"] = columns_text(self.columns)
        if self.partitioned:
            settings["OTEL_AUDIT_KEY_COLUMNS"] = ",".join(self.key_columns)
        if self.ids != "uuid":
            settings["OTEL_AUDIT_IDS"] = self.ids
        return settings

    def sql(self) -> str:
        """Return the whole script."""
        names = self._names()
        parts = [_fill((_TEMPLATES / f"{name}.sql").read_text(encoding="utf-8"), names) for name in self._parts()]
        return "\n".join(
            [self._head(), *parts, "-- PostgREST looks at the tables anew.\nnotify pgrst, 'reload schema';"]
        )

    def _parts(self) -> Iterator[str]:
        chosen = {
            "table_schema": self.schema != "public" and not self.add,
            "table_event_triggers_off": self.event_triggers,
            "table_plain": not self.partitioned and not self.add,
            "table_partitioned": self.partitioned and not self.add,
            "table_full": self.full,
            "table_take_over": self.add,
            "table_indexes": self.indexes,
            "table_indexes_full": self.indexes and self.full,
            "table_search": self.search,
            "table_append_only": self.append_only,
            "table_append_only_partitions": self.append_only and self.partitioned,
            "table_received_at": self.received_at,
            "table_yachts": self.rls or self.writer_per_tenant,
            "table_rls": self.rls,
            "table_writer": self.writer_role is not None,
            "table_writer_per_tenant": self.writer_per_tenant,
            "table_retention": self.retention_months is not None,
            "table_event_triggers": self.event_triggers,
        }
        return (part for part, wanted in chosen.items() if wanted)

    def _head(self) -> str:
        lines = [
            "-- The audit table, as `otel-audit schema` makes it. It runs twice without harm (PostgreSQL 14 and newer)."
        ]
        settings = self.settings()
        if settings:
            lines.append("-- The settings that fit it:")
            lines += [f"-- {variable}={value}" for variable, value in settings.items()]
        return "\n".join([*lines, ""])

    def _names(self) -> dict[str, str]:
        inside = self._inside
        names = {
            "schema": quoted(self.schema),
            "schema_literal": _literal(self.schema),
            "table": self._qualified(self.table),
            "table_literal": _literal(self._qualified(self.table)),
            "table_in_string": _in_string(self._qualified(self.table)),
            "table_in_format": _in_format(self._qualified(self.table)),
            "id_type": self.ids,
            "id_operators": "" if self.ids == "uuid" else " text_pattern_ops",
            "id_pattern": _UUID if self.ids == "uuid" else "<> ''",
            "months_ahead": str(MONTHS_AHEAD),
            "retention_months": str(self.retention_months),
            "columns": ", ".join(map(quoted, self.columns)),
            "tenant": quoted(self.tenant_column),
            "actor": quoted(self.actor_column),
            "key": "id",
            "fields": ", ".join(map(_literal, FIELDS)),
            "keys": ", ".join(self.key_columns),
            "reader": quoted(self.reader_role),
            "reader_literal": _literal(self.reader_role),
            "claim": self.yacht_claim,
            "claim_literal": _literal(self.yacht_claim),
            "writer": quoted(self.writer_role or ""),
            "writer_literal": _literal(self.writer_role or ""),
            "writer_check": f"{quoted(self.tenant_column)} in (select {self._qualified(inside('reader_yachts'))}())"
            if self.writer_per_tenant
            else "true",
            "name_literal": _literal(self.table),
            **self._identities(),
            "default_name_literal": _literal(inside("default")),
            "default_partition_literal": _literal(self._qualified(inside("default"))),
            "default_partition_in_string": _in_string(self._qualified(inside("default"))),
            "moving_name_in_string": _in_string(quoted(inside("moving"))),
            "moving_in_string": _in_string(self._qualified(inside("moving"))),
            "partition_prefix_literal": _literal(inside("YYYY_MM").removesuffix("YYYY_MM")),
            "no_truncate_literal": _literal(inside("no_truncate")),
            "refuse_change_literal": _literal(self._qualified(inside("refuse_change"))),
            "refuse_change_in_format": _in_format(self._qualified(inside("refuse_change"))),
        }
        for index in (*_INDEXES, "no_change", "no_row_change", "stamp_trigger"):
            names[index] = quoted(inside(index))
        for policy in ("readers_policy", "writer_inserts_policy", "writer_finds_policy"):
            names[policy] = quoted(inside(policy.removesuffix("_policy")))
        for function in (
            "make_partition",
            "make_partitions",
            "drop_partitions",
            "refuse_change",
            "reader_yachts",
            "stamp",
            "guard",
        ):
            names[function] = self._qualified(inside(function))
        for trigger in ("guard_alter", "guard_rewrite", "guard_drop"):  # these have no schema of their own
            names[trigger] = quoted(inside(trigger) if self.schema == "public" else self._of_schema(trigger))
        arguments = {
            "make_partition": "text, text",
            "make_partitions": "integer, integer",
            "drop_partitions": "integer",
        }
        for function, types in arguments.items():
            names[f"{function}_signature"] = _literal(f"{names[function]}({types})")
        return names

    def _identities(self) -> dict[str, str]:
        """Return the table's name as PostgreSQL prints it of an object that was dropped: quoted only where needed."""
        identity = ".".join(map(_quoted_if_needed, (self.schema, self.table)))
        return {
            "on_table_identity_literal": _literal(f" on {identity}"),
            "identity_length": str(len(f" on {identity}")),
        }

    def _of_schema(self, suffix: str) -> str:
        digest = hashlib.blake2b(f"{self.schema}.{self.table}".encode(), digest_size=6).hexdigest()
        return f"otel_audit_{digest}_{suffix}"

    def _qualified(self, name: str) -> str:
        return f"{quoted(self.schema)}.{quoted(name)}"

    def _inside(self, suffix: str) -> str:
        """Return the name of something that belongs to the table: never cut by the server, and never shared."""
        name = f"{self.table}_{suffix}"
        if len(name.encode()) <= _NAME_BYTES:
            return name
        digest = hashlib.blake2b(self.table.encode(), digest_size=4).hexdigest()
        room = _NAME_BYTES - len(suffix) - len(digest) - 2
        return f"{self.table.encode()[:room].decode(errors='ignore')}_{digest}_{suffix}"


def add_key_sql(schema: str, table: str, column: str, exporter: str) -> str:
    """Return the SQL that adds a unique column for the record's id to a table that has rows."""
    if exporter == "sqlite":
        name = quoted(table)
        index = quoted(f"{table}_{column}_key")
        return f"alter table {name} add column {column} text;\ncreate unique index {index} on {name} ({column});"
    return f"alter table {quoted(schema)}.{quoted(table)} add column {column} uuid unique;"


def columns_text(columns: Mapping[str, str]) -> str:
    """Return a mapping of columns as ``OTEL_AUDIT_COLUMNS`` has it."""
    if any("," in column or column != column.strip() for column in columns):
        return orjson.dumps(dict(columns)).decode()
    return ",".join(f"{column}={field}" for column, field in columns.items())


def _fill(template: str, names: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: names[found[1]], template)


def _quoted_if_needed(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else quoted(name)


def _literal(text: str) -> str:
    return f"'{_in_string(text)}'"


def _in_string(text: str) -> str:
    """Return text as it stands inside a literal with single quotes."""
    return text.replace("'", "''")


def _in_format(text: str) -> str:
    """Return text as it stands inside the literal that ``format()`` is given."""
    return _in_string(text).replace("%", "%%")
