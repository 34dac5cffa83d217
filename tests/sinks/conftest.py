"""Both sinks behind which a PostgreSQL stands, on one table of the real stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, Protocol

import pytest

from otel_audit_exporter.sinks.base import Sink
from otel_audit_exporter.sinks.postgres.sink import PostgresSink
from otel_audit_exporter.sinks.supabase.sink import SupabaseSink
from tests.sinks.rows import COLUMNS
from tests.sinks.tcp_proxy import TcpProxy, proxying
from tests.stack import AuditTable, Stack

KINDS = ("supabase", "postgres")


class MakeSink(Protocol):
    """Makes a sink of one kind, for a role."""

    kind: str

    def __call__(self, role: str = ..., columns: Sequence[str] = ..., **options: Any) -> Sink: ...


class SinkMaker:
    """Makes sinks that write to one table, and closes them."""

    def __init__(self, kind: str, stack: Stack, table: AuditTable, cleanup: ExitStack) -> None:
        self.kind = kind
        self._stack = stack
        self._table = table
        self._cleanup = cleanup

    def __call__(
        self, role: str = "audit_writer", columns: Sequence[str] = COLUMNS, **options: Any
    ) -> SupabaseSink | PostgresSink:
        where = {"table": self._table.name, "schema": self._table.schema, "columns": columns} | options
        sink: SupabaseSink | PostgresSink
        if self.kind == "supabase":
            token = self._stack.token(role)
            sink = SupabaseSink(self._stack.url, self._stack.anon_key, **{"token": token} | where)
        else:
            sink = PostgresSink(where.pop("dsn", self._stack.dsn(role)), **where)
        return self._cleanup.enter_context(closing(sink))


@pytest.fixture(params=KINDS)
def make_sink(request: pytest.FixtureRequest, stack: Stack, audit_table: AuditTable) -> Iterator[MakeSink]:
    """Make sinks of each kind, as the role with the least privileges unless told otherwise."""
    with ExitStack() as cleanup:
        yield SinkMaker(request.param, stack, audit_table, cleanup)


@pytest.fixture
def sink(make_sink: MakeSink) -> Sink:
    return make_sink()


@pytest.fixture
def supabase_sink(stack: Stack, audit_table: AuditTable) -> Iterator[SupabaseSink]:
    """A sink with the service role's key."""
    sink = SupabaseSink(stack.url, stack.service_key, table=audit_table.name, columns=COLUMNS)
    with closing(sink):
        yield sink


@pytest.fixture
def postgres_sink(stack: Stack, audit_table: AuditTable) -> Iterator[PostgresSink]:
    """A sink that is logged in as the role with the least privileges."""
    sink = PostgresSink(stack.dsn("audit_writer"), table=audit_table.name, columns=COLUMNS)
    with closing(sink):
        yield sink


@pytest.fixture
def proxy(stack: Stack) -> Iterator[TcpProxy]:
    """A proxy before the database."""
    with proxying(stack.postgres.port) as proxy:
        yield proxy
