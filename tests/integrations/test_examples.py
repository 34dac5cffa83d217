"""The examples: every command of their READMEs, copied and pasted, works."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.stack import AuditTable, Stack
from tests.stack.waiting import wait_until
from tests.support.rows import sqlite_rows
from tests.support.servers import Server, environment, running, to_table

EXAMPLES = Path(__file__).parents[2] / "examples"
USER = "11111111-1111-4111-8111-111111111111"
YACHT = "22222222-2222-4222-8222-222222222222"
PART = "33333333-3333-4333-8333-333333333333"


class Example:
    """A copy of one example, and its README's commands in order."""

    def __init__(self, name: str, folder: Path) -> None:
        shutil.copytree(EXAMPLES / name, folder, dirs_exist_ok=True)
        self.folder = folder
        self.commands: list[str] = re.findall(r"```sh\n(.+)\n```", (folder / "README.md").read_text())

    def run(self, command: str, **environ: str) -> str:
        result = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=environment(self.folder, **environ),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    @contextmanager
    def served(self, **environ: str) -> Iterator[Callable[[], str]]:
        """Run the first command as a server, and give the second one, which asks it."""
        command, ask = self.commands
        port = re.search(r"127\.0\.0\.1:(\d+)", ask)
        with self._running(command, environ, serves=port is not None) as server:
            there = ask if port is None else ask.replace(port[0], f"127.0.0.1:{server.port}")
            yield lambda: self.run(there, **environ)
            server.end()

    @contextmanager
    def _running(self, command: str, environ: dict[str, str], *, serves: bool) -> Iterator[Server]:
        # Each server's own way to be told a port; the commands stay as they are.
        ports = dict.fromkeys(("UVICORN_PORT", "FLASK_RUN_PORT", "PORT"), "{port}")
        full = environment(self.folder, **environ, **ports)
        with running(self.folder, command.split(), full, serves=serves) as server:
            yield server

    def rows(self) -> list[dict[str, Any]]:
        return sqlite_rows(self.folder / "pms_audit_log.db")


def check_order(row: dict[str, Any], action: str = "order_part") -> None:
    assert (row["action"], str(row["created_by"]), str(row["yacht_id"])) == (action, USER, YACHT)


def test_every_example_that_is_listed_is_there_and_tested() -> None:
    listed = re.findall(r"\]\((\w+)\)", (EXAMPLES / "README.md").read_text())
    assert len(listed) >= 8
    assert all((EXAMPLES / name / "README.md").exists() for name in listed)
    assert all(f'"{name}"' in Path(__file__).read_text() for name in listed)


def test_fastapi_supabase(tmp_path: Path, stack: Stack, audit_table: AuditTable) -> None:
    example = Example("fastapi_supabase", tmp_path)
    with example.served(**to_table(stack, audit_table)) as ask:
        created = json.loads(ask())["id"]
    (row,) = audit_table.rows()
    check_order(row, "create_receiving")
    assert str(row["entity_id"]) == created
    assert row["new_values"] == {"vendor": "Shipyard Palma", "total": "18250.00"}


@pytest.mark.parametrize("name", ["flask_app", "django_app", "cloud_run"])
def test_web_applications(name: str, tmp_path: Path) -> None:
    example = Example(name, tmp_path)
    with example.served() as ask:
        assert json.loads(ask()) == {"ordered": PART}
    (row,) = example.rows()
    check_order(row)


def test_celery_app(tmp_path: Path) -> None:
    example = Example("celery_app", tmp_path)
    with example.served() as ask:
        ask()
        wait_until(lambda: len(example.rows()) == 1, "the worker's row is there", 60)
    check_order(example.rows()[0])


@pytest.mark.parametrize("name", ["aws_lambda", "kubernetes_job"])
def test_what_has_no_disk_that_lasts(name: str, tmp_path: Path) -> None:
    example = Example(name, tmp_path)
    (command,) = example.commands
    example.run(command)
    (row,) = example.rows()
    assert (row["action"], str(row["entity_id"]), str(row["yacht_id"])) == ("order_part", PART, YACHT)


def test_zero_code(tmp_path: Path) -> None:
    example = Example("zero_code", tmp_path)
    (command,) = example.commands
    example.run(command)
    (row,) = example.rows()
    check_order(row)


def test_environment_swap(tmp_path: Path, stack: Stack, audit_table: AuditTable) -> None:
    example = Example("environment_swap", tmp_path)
    development, test, production = example.commands
    example.run(development)
    check_order(example.rows()[0], "use_part")
    assert "1 passed" in example.run(test)
    assert len(example.rows()) == 1
    example.run(production, **to_table(stack, audit_table))
    (row,) = audit_table.rows()
    check_order(row, "use_part")


@pytest.mark.parametrize("name", ["migrate_write_audit_log", "migrate_insert"])
def test_migrations(name: str, tmp_path: Path, stack: Stack, audit_table: AuditTable) -> None:
    example = Example(name, tmp_path)
    (command,) = example.commands
    example.run(command, **to_table(stack, audit_table))
    (row,) = audit_table.rows()
    check_order(row)
    assert row["new_values"] == {"ordered": True}


def test_tenants_and_a_ledger_give_the_rows_of_handwritten_inserts(tmp_path: Path) -> None:
    example = Example("tenants_and_ledger", tmp_path / "tenants_and_ledger")
    for command in example.commands:
        example.run(command)

    def rows(name: str, table: str) -> list[dict[str, Any]]:
        with sqlite3.connect(example.folder / f"{name}.db") as connection:
            connection.row_factory = sqlite3.Row
            found = [dict(row) for row in connection.execute(f'SELECT * FROM "{table}"')]
        changing = {"id", "at", "created_at"}
        documents = {"old_values", "new_values", "details"}
        return [
            {key: json.loads(value) if key in documents else value for key, value in row.items() if key not in changing}
            for row in found
        ]

    for tenant in ("acme", "blue"):
        for table in ("pms_audit_log", "ledger_events"):
            (before,), (after,) = rows(f"before-{tenant}", table), rows(tenant, table)
            assert after == before
