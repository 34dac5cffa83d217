"""Tables that `otel-audit check` looks at, and what it prints."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.cli.conftest import Done
from tests.stack import Stack


def make(stack: Stack, table: str, sql: str) -> None:
    """Run SQL about a table, `{}` in it, and have PostgREST know."""
    stack.sql(sql.replace("{}", "\0").replace("'\0'", "'{}'").replace("\0", table))
    stack.sql(f"grant all on {table} to service_role; grant usage on all sequences in schema public to service_role")
    stack.reload_schema_cache()


def settings_in(done: Done) -> dict[str, str]:
    """The settings that the command printed."""
    return dict(line.split("=", 1) for line in done.out.splitlines() if line.startswith("OTEL_AUDIT_"))


def todo_in(done: Done) -> set[str]:
    """The columns that it left open."""
    return set(re.findall(r'^# TODO column "([^"]+)"', done.out, re.MULTILINE))


def holds(row: dict[str, Any], place: str) -> bool:
    """Say whether a place that the command names is there, with something in it."""
    value: Any = row
    for key in place.split("."):
        value = json.loads(value) if isinstance(value, str) and value[:1] == "{" else value
        if not isinstance(value, dict) or value.get(key) is None:
            return False
        value = value[key]
    return True
