"""`otel-audit schema`: what it prints runs, and what it says fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from otel_audit_exporter import audit_event, configure_audit
from tests.cli.conftest import Workspace
from tests.stack import Stack
from tests.support.made_tables import NOTIFY, new_name

Environment = Callable[[str, object], None]
EVERYTHING = (
    *("--full", "--indexes", "--rls", "--append-only", "--writer-role", "audit_writer"),
    *("--partitioned", "--retention-months", "12"),
)


def named_settings(script: str) -> dict[str, str]:
    """The settings that a script's comments name."""
    lines = (line.removeprefix("-- ") for line in script.splitlines() if line.startswith("-- OTEL_AUDIT_"))
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("exporter", ["supabase", "postgres"])
@pytest.mark.parametrize("flags", [("--writer-role", "audit_writer"), EVERYTHING], ids=["nine", "everything"])
def test_the_script_runs_and_its_settings_let_an_application_write(
    stack: Stack, workspace: Workspace, environment: Environment, flags: tuple[str, ...], exporter: str
) -> None:
    table = new_name()
    done = workspace.run("schema", *flags, "--table", table)
    assert (done.code, done.err) == (0, "")
    for _ in range(2):
        stack.sql(done.out.strip().removesuffix(NOTIFY))
    stack.reload_schema_cache()
    settings = named_settings(done.out) | {
        "SUPABASE_URL": stack.url,
        "SUPABASE_KEY": stack.anon_key,
        "OTEL_AUDIT_SUPABASE_TOKEN": stack.token("audit_writer"),
        "OTEL_AUDIT_POSTGRES_DSN": stack.dsn("audit_writer"),
    }
    for variable, value in settings.items():
        environment(variable, value)
    with configure_audit(exporter) as pipeline:
        ids: dict[str, Any] = {name: uuid4() for name in ("entity_id", "yacht_id", "user_id")}
        receipt = audit_event("receive", entity_type="part", outcome="failure", **ids)
        assert receipt.result(60).record_id == receipt.record_id
        assert pipeline.stats().succeeded == 1
    row = stack.sql(f"select * from {table}")[0]  # the name is the test's own
    said = row["outcome"] if "--full" in flags else row["new_values"]["_audit"]["outcome"]
    assert said == "failure"


def test_table_schema_and_ids_default_to_the_environment(workspace: Workspace, environment: Environment) -> None:
    environment("OTEL_AUDIT_TABLE", "from_env")
    environment("OTEL_AUDIT_SCHEMA", "audit")
    environment("OTEL_AUDIT_IDS", "text")
    assert 'create table if not exists "audit"."from_env"' in workspace.run("schema").out
    other = workspace.run("schema", "--table", "other", "--schema", "public", "--ids", "uuid").out
    assert 'create table if not exists "public"."other"' in other
    assert "OTEL_AUDIT_IDS" not in other


@pytest.mark.parametrize("flags", [("--retention-months", "3"), ("--table", "a\nb"), ("--ids", "int")], ids=str)
def test_a_wrong_option_is_reported_and_no_script_is_printed(workspace: Workspace, flags: tuple[str, ...]) -> None:
    done = workspace.run("schema", *flags)
    assert (done.code, done.out) == (2, "")
    assert done.err
