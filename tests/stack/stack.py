"""The whole of it: gateway, PostgREST and PostgreSQL as one Supabase project."""

import secrets
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from psycopg.sql import SQL, Composed, Identifier

from tests.stack.gateway import Gateway
from tests.stack.postgres import Postgres
from tests.stack.postgrest import PostgREST
from tests.stack.table import AuditTable
from tests.stack.tokens import TokenSigner
from tests.stack.waiting import wait_until

# Tables are made in batches because each reload of the schema cache takes longer than a table.
_BATCH = 16


class Stack:
    """A running project: a context manager that starts it and leaves nothing behind."""

    url: str
    """The project's URL, for a supabase client."""
    anon_key: str
    service_key: str
    secret_key: str
    """A key of the new kind, no JWT, with the rights of service_role."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="audit-stack-"))
        self._signer = TokenSigner(secrets.token_hex(32))
        self._parts = ExitStack()
        self._reloads = 0
        self._recovered_cuts = 0
        self._spare_tables: dict[str, list[AuditTable]] = {}

    def __enter__(self) -> "Stack":
        with ExitStack() as parts:
            parts.callback(shutil.rmtree, self._directory, ignore_errors=True)
            self._http = parts.enter_context(httpx.Client(trust_env=False, timeout=5.0))
            self._start(parts)
            self._parts = parts.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.close()

    def token(self, role: str, *, expires_in_seconds: float = 86_400, **claims: Any) -> str:
        """Sign a token for `role`, which the gateway then takes as an API key too."""
        token = self._signer.sign(role, expires_in_seconds=expires_in_seconds, **claims)
        self.gateway.keys.add(token)
        return token

    def sql(self, query: str | Composed, params: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        """Run SQL as superuser and return the rows as dicts."""
        return self.postgres.sql(query, params)

    def dsn(self, role: str = "postgres") -> str:
        """Give the direct address for postgres, authenticator or audit_writer."""
        return self.postgres.dsn(role)

    def create_table(self, schema: str = "public") -> AuditTable:
        """Give an empty table with the nine default columns that PostgREST serves already."""
        spare = self._spare_tables.setdefault(schema, [])
        if not spare:
            spare += [AuditTable(self.postgres, f"audit_{secrets.token_hex(6)}", schema) for _ in range(_BATCH)]
            for table in spare:
                table.create()
            self.reload_schema_cache()
        return spare.pop()

    def reload_schema_cache(self) -> None:
        """Return once PostgREST knows every table, column and function that there is now."""
        # A function, because tables are read without a look into the cache.
        self._reloads += 1
        marker = Identifier("marker", f"reload_{self._reloads}")
        self.sql(SQL("create function {}() returns int language sql as 'select 1'").format(marker))
        self.postgrest.reload_schema_cache()
        path = f"rpc/reload_{self._reloads}"
        wait_until(lambda: self._serves("marker", path), "PostgREST has reloaded its schema cache")
        self.sql(SQL("drop function {}").format(marker))

    def wait_until_serving(self, timeout: float = 60.0) -> None:
        """Return once PostgREST answers from the database, after either was away."""
        wait_until(lambda: self._serves("public", "pms_audit_log?limit=0"), "PostgREST serves tables", timeout)
        if self._recovered_cuts != (cuts := self.postgres.cuts):
            # So far it may have served by what it knew before; where loading that anew fails, it knows nothing for a
            # while, and answers 503. A reload that has come through also leaves no dead connection in its pool.
            self.reload_schema_cache()
            self._recovered_cuts = cuts

    def heal(self) -> None:
        """Undo what a test did to the parts: they run, are reachable, and no fault is left."""
        self.gateway.clear()
        if not self.postgres.running:
            self.postgres.start()
        if not self.postgrest.running:
            self.postgrest.start()
        self.postgrest.resume()
        self.wait_until_serving()
        self.gateway.wait_until_idle()

    def _start(self, parts: ExitStack) -> None:
        self.postgres = Postgres(self._directory)
        parts.callback(self.postgres.stop)
        self.postgres.start()
        self.postgres.create_roles_and_tables()
        self.postgrest = PostgREST(self._directory, dsn=self.dsn("authenticator"), jwt_secret=self._signer.secret)
        parts.callback(self.postgrest.stop)
        self.postgrest.start()
        self.gateway = Gateway(self.postgrest.port)
        self.gateway.start()
        parts.callback(self.gateway.stop)
        self.url = self.gateway.url
        self._make_keys()

    def _make_keys(self) -> None:
        self.anon_key = self.token("anon")
        self.service_key = self.token("service_role")
        self.secret_key = f"sb_secret_{secrets.token_urlsafe(24)}"
        self.gateway.keys.add(self.secret_key, self.service_key)

    def _serves(self, schema: str, path: str) -> bool:
        headers = {"authorization": f"Bearer {self.service_key}", "accept-profile": schema}
        try:
            return self._http.get(f"{self.postgrest.url}/{path}", headers=headers).is_success
        except httpx.TransportError:
            return False
