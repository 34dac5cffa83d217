"""Tables made by the SQL that the library prints, on the real stack."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import orjson
from psycopg.sql import SQL, Identifier

from otel_audit_exporter.sinks.postgres.sink import PostgresSink
from otel_audit_exporter.sinks.supabase.sink import SupabaseSink
from otel_audit_exporter.table.ddl import TablePlan
from tests.stack import Stack

NOTIFY = "notify pgrst, 'reload schema';"
NOW = "2026-03-04T05:06:07.123456+00:00"


@dataclass(frozen=True)
class MadeTable:
    """A table that was made of a plan."""

    stack: Stack
    plan: TablePlan

    @property
    def name(self) -> Identifier:
        return Identifier(self.plan.schema, self.plan.table)

    def run(self) -> None:
        """Run the script, as an owner would.

        All but its call for PostgREST: the stack's own can be waited for, and of two at once the older may win.
        """
        self.stack.sql(self.plan.sql().removesuffix(NOTIFY))

    def row(self, **changes: Any) -> bytes:
        """Make a row with a value for every column."""
        said = dict.fromkeys(self.plan.columns)
        said |= {"id": str(uuid4()), "yacht_id": str(uuid4()), "entity_type": "part", "action": "receive"}
        said |= {"entity_id": str(uuid4()), "created_by": str(uuid4()), "created_at": NOW}
        said |= {"outcome": "success", "actor_type": "user"} if self.plan.full else {}
        return orjson.dumps(said | changes)

    def insert_directly(self, rows: Sequence[bytes], role: str = "audit_writer") -> None:
        """Insert as the postgres exporter does, with the settings that the plan names."""
        sink = PostgresSink(
            self.stack.dsn(role), table=self.plan.table, schema=self.plan.schema, columns=tuple(self.plan.columns)
        )
        with closing(sink):
            sink.insert(rows, time.monotonic() + 20)

    def insert_through_postgrest(self, rows: Sequence[bytes], role: str = "audit_writer") -> None:
        """Insert as the supabase exporter does, with a role's token and the settings that the plan names."""
        sink = SupabaseSink(
            self.stack.url,
            self.stack.anon_key,
            token=self.stack.token(role),
            table=self.plan.table,
            schema=self.plan.schema,
            columns=tuple(self.plan.columns),
            key_columns=self.plan.key_columns,
        )
        with closing(sink):
            sink.insert(rows, time.monotonic() + 20)

    def request(self, method: str, query: str, role: str, body: object = None, **claims: Any) -> httpx.Response:
        """Send PostgREST a request of a role's."""
        headers = {"apikey": self.stack.anon_key, "Authorization": f"Bearer {self.stack.token(role, **claims)}"}
        url = f"{self.stack.url}/rest/v1/{self.plan.table}?{query}"
        return httpx.request(method, url, headers=headers, json=body, timeout=20)

    def rows(self) -> list[dict[str, Any]]:
        return self.stack.sql(SQL("select * from {} order by created_at, id").format(self.name))

    def count(self) -> int:
        return len(self.rows())

    def partitions(self) -> dict[str, int]:
        """The partitions, by the end of their names, and how many rows are in each."""
        query = "select c.relname from pg_inherits i join pg_class c on c.oid = inhrelid where inhparent = %s::regclass"
        names = [str(row["relname"]) for row in self.stack.sql(query, [self.name.as_string()])]
        counts = {}
        for name in sorted(names):
            query_rows = SQL("select count(*) as rows from {}").format(Identifier(self.plan.schema, name))
            counts[name.removeprefix(f"{self.plan.table}_")] = int(self.stack.sql(query_rows)[0]["rows"])
        return counts


def new_name() -> str:
    return f"made_{secrets.token_hex(6)}"


def make_table(stack: Stack, **plan: Any) -> MadeTable:
    """Make a table of a new name."""
    table = MadeTable(stack, TablePlan(**{"table": new_name()} | plan))
    table.run()
    return table
