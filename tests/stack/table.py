"""An audit table of one test's own."""

from dataclasses import dataclass
from typing import Any

from psycopg.sql import SQL, Identifier

from tests.stack.postgres import Postgres

_TEMPLATE = Identifier("public", "pms_audit_log")


@dataclass(frozen=True)
class AuditTable:
    """A table with the nine default columns, served by PostgREST."""

    postgres: Postgres
    name: str
    schema: str = "public"

    @property
    def identifier(self) -> Identifier:
        return Identifier(self.schema, self.name)

    def create(self) -> None:
        create = SQL("create table {} (like {} including all)").format(self.identifier, _TEMPLATE)
        self.postgres.sql(create)
        self.postgres.protect_table(self.identifier)

    def drop(self) -> None:
        self.postgres.sql(SQL("drop table if exists {}").format(self.identifier))

    def alter(self, change: str) -> None:
        """Run `alter table <this> <change>`; PostgREST's cache does not notice by itself."""
        self.postgres.sql(SQL("alter table {} ").format(self.identifier) + SQL(change))

    def run_before_insert(self, body: str) -> None:
        """Have PL/pgSQL run before the insert of each row, in place of what ran before."""
        function = Identifier(self.schema, f"before_insert_on_{self.name}")
        begin = SQL("create or replace function {}() returns trigger language plpgsql as ").format(function)
        self.postgres.sql(begin + SQL("$$ begin {} end $$").format(SQL(body)))
        trigger = SQL("create or replace trigger before_insert before insert on {} for each row execute function {}()")
        self.postgres.sql(trigger.format(self.identifier, function))

    def run_nothing_before_insert(self) -> None:
        self.postgres.sql(SQL("drop trigger before_insert on {}").format(self.identifier))

    def rows(self) -> list[dict[str, Any]]:
        """Every row as a dict of Python values, oldest first."""
        return self.postgres.sql(SQL("select * from {} order by created_at, id").format(self.identifier))

    def count(self) -> int:
        rows = self.postgres.sql(SQL("select count(*) as rows from {}").format(self.identifier))
        return int(rows[0]["rows"])

    def ids(self) -> list[str]:
        """Every id as a string, in order of the ids."""
        rows = self.postgres.sql(SQL("select id::text from {} order by id").format(self.identifier))
        return [row["id"] for row in rows]
