"""A trail in each kind of table, which is read by whatever a test reads it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter import AuditPipeline, configure_audit, shutdown_audit
from tests.operations.serving import Serve, serving
from tests.stack import AuditTable, Stack

# What PostgREST's filters reserve, what LIKE and regular expressions do, and what a quote could end.
RESERVED = ("a,b", "a.b", "a:b", "(a)", 'a"b', "a\\b", "a*b", "a%b", "a_b", "a'b", "a b", "{a}", "[a]", "a&b=c", "a+b",
            "not.is.null", "^a$", "a|b", "a?b", "a#b", "ü", "null", ")or(id.neq.1", "a;b", "a--b", "a/b")  # fmt: skip

Configure = Callable[..., AuditPipeline]
KINDS = ("sqlite", "postgres", "supabase", "memory")


@pytest.fixture(autouse=True)
def _clean(bare_environment: None) -> None:
    """Have it for every test here."""


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve ASGI applications with uvicorn, on ports of their own."""
    with ExitStack() as running:
        yield lambda app: running.enter_context(serving(app))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of table."""
    return str(request.param)


@pytest.fixture
def configured(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Configure]:
    """Configure auditing for a table of the test's own; the arguments are those of ``configure_audit``."""
    where = _where(kind, tmp_path, request)  # now, so that the table is there until the end

    def configure(**options: Any) -> AuditPipeline:
        shutdown_audit()
        return configure_audit(kind, **where | {"outbox": "memory"} | options)

    yield configure
    shutdown_audit()


def _where(kind: str, directory: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    if kind == "memory":
        return {}
    if kind == "sqlite":
        return {"path": directory / "audit.db"}
    stack: Stack = request.getfixturevalue("stack")
    table: AuditTable = request.getfixturevalue("audit_table")
    if kind == "postgres":
        return {"dsn": stack.dsn(), "table": table.name}
    return {"url": stack.url, "key": stack.service_key, "table": table.name}
