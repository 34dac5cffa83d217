"""Which column takes which field, guessed from names and types alone."""

from __future__ import annotations

from typing import Any

import pytest

from otel_audit_exporter.config.settings import load_settings
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS
from otel_audit_exporter.table.compatibility import (
    Column,
    ColumnMapping,
    TableDescription,
    examine,
    values_that_fit,
    wrong_type,
)
from otel_audit_exporter.table.ddl import columns_text
from otel_audit_exporter.table.mapping import TableMapping
from otel_audit_exporter.table.suggestion import suggest

DEFAULT = ColumnMapping(DEFAULT_COLUMNS, {}, "uuid")
TIME = "timestamp with time zone"


def table(key: str, *columns: tuple[Any, ...], keys: tuple[tuple[str, ...], ...] | None = None) -> TableDescription:
    return TableDescription([Column(*column) for column in columns], (tuple(key.split()),) if keys is None else keys)


TABLES = [
    pytest.param(
        table(
            "id",
            ("id", "uuid", True),
            ("tenant_id", "uuid", True),
            ("actor_id", "uuid"),
            ("event", "text", True),
            ("resource_type", "text"),
            ("resource_id", "text"),
            ("before", "jsonb"),
            ("after", "jsonb"),
            ("occurred_at", TIME, True),
        ),
        "id=record_id,tenant_id=yacht_id,resource_type=entity_type,event=action,resource_id=entity_id,"
        "actor_id=user_id,occurred_at=timestamp,before=old_values,after=new_values",
        {"OTEL_AUDIT_IDS": "text"},
        (),
        id="a tenant's",
    ),
    pytest.param(
        table(
            "",
            ("id", "bigint", True, True),
            ("record_id", "uuid", True),
            ("table_name", "text", True),
            ("row_id", "bigint", True),
            ("operation", "text", True),
            ("old_data", "jsonb"),
            ("new_data", "jsonb"),
            ("performed_by", "uuid"),
            ("timestamp", "timestamp without time zone", True, True),
            keys=(("id",), ("record_id",)),
        ),
        "record_id=record_id,table_name=entity_type,operation=action,row_id=entity_id,performed_by=user_id,"
        "timestamp=timestamp,old_data=old_values,new_data=new_values",
        {"OTEL_AUDIT_IDS": "text"},
        (),
        id="a trigger's",
    ),
    pytest.param(
        table(
            "id",
            ("id", "uuid", True, True),
            ("record_id", "uuid", True),
            ("orgId", "uuid", True),
            ("entityType", "character varying(50)", True),
            ("verb", "text", True),
            ("userId", "uuid"),
            ("createdAt", TIME, True, True),
            ("metadata", "json", True),
            ("ip_address", "inet"),
            ("status", "integer"),
        ),
        "id=record_id,orgId=yacht_id,entityType=entity_type,verb=action,record_id=entity_id,userId=user_id,"
        "createdAt=timestamp,metadata=metadata,ip_address=source_ip",
        {},
        ("metadata",),
        id="camel case",
    ),
    pytest.param(
        table(
            "id created_at",
            ("id", "uuid", True),
            ("yacht_id", "uuid", True),
            ("action", "text", True),
            ("created_at", TIME, True),
            ("logged_at", TIME, True),
            ("level", "smallint", True),
            ("done", "boolean", True),
            ("computed", "text", True, True, True),
        ),
        "id=record_id,yacht_id=yacht_id,action=action,created_at=timestamp,logged_at=timestamp",
        {"OTEL_AUDIT_KEY_COLUMNS": "id,created_at"},
        ("level", "done"),
        id="partitioned",
    ),
]


@pytest.mark.parametrize(("facts", "columns", "others", "todo"), TABLES)
def test_usual_names_are_known_and_the_suggested_settings_fit(
    facts: TableDescription, columns: str, others: dict[str, str], todo: tuple[str, ...]
) -> None:
    """Except for what the suggestion names as to do."""
    suggested = suggest(facts, DEFAULT)
    fit = suggested.fit
    assert columns_text(fit.columns) == columns
    assert fit.variables() == {"OTEL_AUDIT_COLUMNS": columns, **others}
    assert tuple(suggested.todo) == todo
    faults = examine(facts, fit).faults
    assert sorted(fault.split('"')[1] for fault in faults) == sorted(todo)
    assert examine(facts, DEFAULT).faults != []
    assert TableMapping(fit.columns, fit.defaults, "drop").key_column == fit.id_column


def test_what_fits_already_stays() -> None:
    facts = table("id", *((name, "text", True) for name in DEFAULT_COLUMNS), ("event", "text"))
    present = ColumnMapping({**DEFAULT_COLUMNS, "event": "action"}, {"old_values": {}, "new_values": {}}, "uuid")
    fit = suggest(facts, present).fit
    assert (dict(fit.columns), dict(fit.defaults)) == (dict(present.columns), dict(present.defaults))


@pytest.mark.parametrize(
    ("facts", "new_key"),
    [
        (table("id", ("id", "bigint", True, True), ("action", "text")), "audit_id"),
        (table("", ("audit_id", "uuid"), ("action", "text"), keys=()), "audit_record_id"),
        (table("id", ("id", "character varying(20)", True)), "audit_id"),
    ],
)
def test_a_new_column_is_named_where_none_can_be_the_key(facts: TableDescription, new_key: str) -> None:
    suggested = suggest(facts, DEFAULT)
    assert suggested.new_key == suggested.fit.id_column == new_key
    assert examine(facts, DEFAULT).faults


@pytest.mark.parametrize(
    ("type_", "field", "ids", "fits"),
    [
        ("uuid", "record_id", "uuid", True),
        ("bigint", "record_id", "text", False),
        ("text", "record_id", "uuid", True),
        ("bigint", "entity_id", "uuid", False),
        ("bigint", "entity_id", "text", True),
        ("character varying(10)", "entity_id", "uuid", False),
        ("character varying(10)", "entity_id", "text", True),
        ("timestamp without time zone", "timestamp", "uuid", True),
        ("timestamp(3) with time zone", "timestamp", "uuid", True),
        ("date", "timestamp", "uuid", False),
        ("text", "new_values", "uuid", True),
        ("jsonb", "action", "uuid", False),
        ("jsonb", "metadata", "uuid", True),
        ("text[]", "action", "uuid", False),
        ("inet", "source_ip", "uuid", True),
    ],
)
def test_types_are_compared_with_what_a_field_is(type_: str, field: str, ids: str, fits: bool) -> None:
    assert (wrong_type(Column("c", type_), field, ids) is None) is fits


def test_a_column_that_is_generated_cannot_be_written() -> None:
    facts = table("id", ("id", "uuid", True), ("action", "text", True, True, True))
    faults = examine(facts, ColumnMapping({"id": "record_id", "action": "action"}, {}, "uuid")).faults
    assert faults == ['column "action" is generated by the database: nothing can be written to it']


@pytest.mark.parametrize(
    ("labels", "field", "said"),
    [
        (("success", "failure", "unknown"), "outcome", None),
        (("success", "failed"), "outcome", "does not take failure, unknown"),
        (("create",), "action", None),
        (("create",), "user_id", "takes no user_id: its values are an enumeration"),
    ],
)
def test_an_enumeration_takes_a_field_whose_values_it_may_hold(
    labels: tuple[str, ...], field: str, said: str | None
) -> None:
    assert wrong_type(Column("c", "kind", labels=labels), field, "uuid") == said


def test_a_made_up_event_says_what_the_columns_take() -> None:
    columns = [
        Column("id", "uuid"),
        Column("action", "kind", labels=("create", "delete")),
        Column("entity_type", "character varying(4)"),
        Column("entity_id", "bigint"),
        Column("yacht_id", "character varying(50)"),
        Column("created_by", "text", any_type=True),
    ]
    found = values_that_fit(TableDescription(columns, [("id",)]), DEFAULT)
    assert found == {"action": "create", "entity_type": "otel", "entity_id": 1}


@pytest.mark.parametrize("name", ["of whom, and when", " padded ", "{curly", "a=b", 'quo"ted, {x}', "ordinary"])
def test_the_line_for_columns_is_read_back_as_it_was_meant(name: str) -> None:
    columns = {"id": "record_id", name: "user_id"}
    assert load_settings({}, {"OTEL_AUDIT_COLUMNS": columns_text(columns)}).columns == columns
