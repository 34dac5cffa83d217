"""A workspace of its own for every command: no settings but its own directory's."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from otel_audit_exporter.cli.app import app
from otel_audit_exporter.config.options import SETTINGS
from tests.stack import AuditTable, Stack
from tests.support.made_tables import new_name

# A process that emits events to a table whose directory is not there, and then waits, or is gone at once.
_LEAVES_EVENTS = """
import os, sys, uuid
from otel_audit_exporter import audit_event, configure_audit
configure_audit("sqlite", path=sys.argv[1])
for _ in range(int(sys.argv[2])):
    ids = {name: uuid.uuid4() for name in ("entity_id", "yacht_id", "user_id")}
    audit_event("count_stock", entity_type="part", **ids)
print("emitted", flush=True)
if sys.argv[3] == "stay":
    sys.stdin.read()
os._exit(9)
"""


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, and what it said where."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of JSON on stdout."""
        return [orjson.loads(line) for line in self.out.splitlines()]


@dataclass
class Workspace:
    """A directory with a SQLite file and an outbox of its own."""

    directory: Path
    yacht_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def database(self) -> Path:
        return self.directory / "audit.db"

    @property
    def outbox(self) -> Path:
        return self.directory / "outbox"

    def run(self, *arguments: object, stdin: str | bytes | None = None) -> Done:
        """Run `otel-audit` with these arguments, in this process."""
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    def event(self, action: str = "update_part", **more: Any) -> dict[str, Any]:
        """A line's worth of event."""
        ids = {"entity_id": str(uuid.uuid4()), "user_id": str(uuid.uuid4())}
        return {"action": action, "entity_type": "part", "yacht_id": self.yacht_id, **ids, **more}

    def write_lines(self, *lines: dict[str, Any] | str) -> Path:
        """Write a file of JSON lines; a string is a line as it is."""
        path = self.directory / "events.jsonl"
        texts = (line if isinstance(line, str) else orjson.dumps(line).decode() for line in lines)
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        return path

    def rows(self, database: Path | None = None) -> list[dict[str, Any]]:
        """The rows in the table, the oldest first."""
        with closing(sqlite3.connect(database or self.database)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM pms_audit_log ORDER BY created_at, id")]

    def create_table(self, check: str) -> None:
        """Make the table with a CHECK constraint."""
        with closing(sqlite3.connect(self.database)) as connection:
            connection.execute(
                "CREATE TABLE pms_audit_log (id TEXT PRIMARY KEY, yacht_id, entity_type, action, entity_id,"
                f" created_by, created_at, old_values, new_values, CHECK ({check}))"
            )

    def relax_table(self) -> None:
        """Make the table anew without the constraint, with its rows."""
        with closing(sqlite3.connect(self.database)) as connection:
            connection.executescript(
                "CREATE TABLE relaxed (id TEXT PRIMARY KEY, yacht_id, entity_type, action, entity_id, created_by,"
                " created_at, old_values, new_values); INSERT INTO relaxed SELECT * FROM pms_audit_log;"
                " DROP TABLE pms_audit_log; ALTER TABLE relaxed RENAME TO pms_audit_log"
            )

    def leave_orphan(self, database: Path, events: int) -> None:
        """Have a process die with so many events in its outbox."""
        subprocess.run([*_python(database, events), "go"], check=False, capture_output=True)

    @contextmanager
    def living_process(self, database: Path, events: int) -> Iterator[int]:
        """Have a process that lives hold so many events in its outbox."""
        command = [*_python(database, events), "stay"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"emitted\n"
            yield process.pid
            process.kill()


def _python(database: Path, events: int) -> list[str]:
    return [sys.executable, "-c", _LEAVES_EVENTS, str(database), str(events)]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, object], None]:
    """An environment without settings but the directories; call it to set one."""
    for variable in [name for setting in SETTINGS for name in setting.variables]:
        monkeypatch.delenv(variable, raising=False)

    def put(name: str, value: object) -> None:
        monkeypatch.setenv(name, os.fspath(value) if isinstance(value, Path) else str(value))

    put("OTEL_AUDIT_OUTBOX_DIR", tmp_path / "outbox")
    put("OTEL_AUDIT_SQLITE_PATH", tmp_path / "audit.db")
    put("OTEL_AUDIT_SLOW_WRITE", 0)  # a busy machine may be slow, and that is no word of the command's
    monkeypatch.chdir(tmp_path)
    return put


@pytest.fixture
def workspace(tmp_path: Path, environment: Callable[[str, object], None]) -> Workspace:
    """A directory of its own, which the environment's settings name."""
    return Workspace(tmp_path)


@pytest.fixture(params=["sqlite", "postgres", "supabase"])
def kind(
    request: pytest.FixtureRequest, stack: Stack, audit_table: AuditTable, environment: Callable[[str, object], None]
) -> str:
    """The sink, set in the environment as a role that may read."""
    environment("OTEL_AUDIT_EXPORTER", request.param)
    environment("OTEL_AUDIT_TABLE", audit_table.name)
    environment("SUPABASE_URL", stack.url)
    environment("SUPABASE_KEY", stack.service_key)
    environment("OTEL_AUDIT_POSTGRES_DSN", stack.dsn())
    return str(request.param)


@pytest.fixture(params=["supabase", "postgres"])
def table(request: pytest.FixtureRequest, stack: Stack, environment: Callable[[str, object], None]) -> Iterator[str]:
    """A name, with the sink set in the environment as a role that may do anything with its table."""
    name = new_name()
    environment("OTEL_AUDIT_EXPORTER", request.param)
    environment("OTEL_AUDIT_TABLE", name)
    environment("SUPABASE_URL", stack.url)
    environment("SUPABASE_KEY", stack.service_key)
    environment("OTEL_AUDIT_POSTGRES_DSN", stack.dsn())
    yield name
    stack.sql(f"drop table if exists {name}")
