"""Faults of the configuration: everything is held, said once with what to fix, and resumed without a restart."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.conftest import Running, Start
from tests.stack import AuditTable, Stack
from tests.stack.waiting import wait_until


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "otel_audit_exporter")
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def assert_held_and_told(running: Running, errors: Callable[[], list[str]], remedy: str) -> None:
    """Hold twenty events, say what to do in one line, park none."""
    running.emit(20)
    wait_until(lambda: running.pipeline.stats().held == 20, "everything is held")
    running.pipeline.force_flush(1)
    running.assert_nothing_stored()
    (told,) = errors()
    assert remedy in told


def assert_resumed(running: Running) -> None:
    running.wait_until_delivered()
    running.assert_each_good_one_stored_once()


def test_a_wrong_key(stack: Stack, start: Start, errors: Callable[[], list[str]]) -> None:
    running = start(key="a-key-of-another-project")
    assert_held_and_told(running, errors, "SUPABASE_SERVICE_ROLE_KEY")
    assert "a-key-of-another-project" not in errors()[0]
    stack.gateway.keys.add("a-key-of-another-project", stack.service_key)
    assert_resumed(running)


def test_an_expired_token(stack: Stack, start: Start, errors: Callable[[], list[str]]) -> None:
    tokens = [stack.token("service_role", expires_in_seconds=-60)]
    running = start(token=lambda: tokens[-1])
    assert_held_and_told(running, errors, "issue a new token")
    tokens.append(stack.token("service_role"))
    assert_resumed(running)


@pytest.mark.parametrize(
    ("breaks", "mends", "remedy"),
    [
        ("drop column new_values", "add column new_values jsonb", 'add column "new_values"'),
        ("rename to {}_gone", "", "create the table"),
        ("drop constraint {}_pkey", "add primary key (id)", "primary key or unique"),
    ],
    ids=["a dropped column", "a renamed table", "no unique constraint"],
)
def test_a_table_that_does_not_fit(
    stack: Stack,
    start: Start,
    audit_table: AuditTable,
    errors: Callable[[], list[str]],
    breaks: str,
    mends: str,
    remedy: str,
) -> None:
    audit_table.alter(breaks.format(audit_table.name))
    stack.reload_schema_cache()
    running = start()
    running.emit(20)
    wait_until(lambda: running.pipeline.stats().held == 20, "everything is held")
    running.pipeline.force_flush(1)
    (told,) = errors()
    assert remedy in told
    assert running.pipeline.stats().failed == 0
    if mends:
        audit_table.alter(mends)
    else:
        stack.sql(f"alter table {audit_table.name}_gone rename to {audit_table.name}")
    stack.reload_schema_cache()
    assert_resumed(running)


@pytest.mark.parametrize(
    ("options", "breaks", "mends", "remedy"),
    [
        ({}, "revoke insert on {} from service_role", "grant insert on {} to service_role", "insert on the columns"),
        (
            {"role": "authenticated"},
            "select 1",
            "create policy mended on {} for all to authenticated using (true) with check (true)",
            "create policies",
        ),
        (
            {"role": "audit_writer"},
            "revoke select (id) on {} from audit_writer",
            "grant select (id) on {} to audit_writer",
            "select on the key column",
        ),
        (
            {"role": "audit_writer"},
            "drop policy audit_writer_inserts on {}",
            "create policy mended on {} for insert to audit_writer with check (true)",
            "one for insert",
        ),
    ],
    ids=["a revoked grant", "a role without a policy", "no select on the key", "a policy that refuses"],
)
def test_rights_that_are_missing(
    stack: Stack,
    start: Start,
    audit_table: AuditTable,
    errors: Callable[[], list[str]],
    options: dict[str, Any],
    breaks: str,
    mends: str,
    remedy: str,
) -> None:
    stack.sql(breaks.format(audit_table.name))
    running = start(**({"token": stack.token(options["role"])} if options else {}))
    assert_held_and_told(running, errors, remedy)
    stack.sql(mends.format(audit_table.name))
    assert_resumed(running)
