"""The table of fields, and what has to follow from it."""

from __future__ import annotations

import dataclasses
import inspect

from otel_audit_exporter import audit_event
from otel_audit_exporter.event.audit_event import AuditEvent
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS, FIELD_ALIASES, FIELD_TABLE, FIELDS
from otel_audit_exporter.event.routing import ROUTE_FIELDS


def test_the_default_columns_take_the_first_fields_in_order() -> None:
    assert tuple(DEFAULT_COLUMNS.values()) == FIELDS[: len(DEFAULT_COLUMNS)]


def test_an_audit_event_has_every_field() -> None:
    names = {one.name for one in dataclasses.fields(AuditEvent)}
    assert names == {*FIELDS, "idempotency_key", *ROUTE_FIELDS}


def test_a_call_takes_every_field_that_a_caller_may_give() -> None:
    taken = inspect.signature(audit_event).parameters.keys()
    assert {field.name for field in FIELD_TABLE if "call" in field.origins} <= taken
    assert FIELD_ALIASES.keys() <= taken


def test_every_field_is_explained() -> None:
    assert [field.name for field in FIELD_TABLE if not field.meaning] == []
    assert len({field.name for field in FIELD_TABLE}) == len(FIELD_TABLE)
