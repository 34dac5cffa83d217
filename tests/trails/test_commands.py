"""The command line for named databases: what waits is delivered, a new address is allowed, dead letters are found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from otel_audit_exporter import audit_event, configure_audit, get_audit_pipeline, get_audit_stats, shutdown_audit
from otel_audit_exporter.cli.app import app
from otel_audit_exporter.operations.handler import OperationsHandler, OperationsRequest
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.rows import sqlite_rows
from tests.trails.tables import LEDGER


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def configure(files: Path, acme: Path | None) -> None:
    databases: Mapping[str, Any] = {} if acme is None else {"acme": {"path": str(acme)}}
    configure_audit("sqlite", path=str(files / "main.db"), trails=LEDGER, databases=databases)


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_AUDIT_TRAILS", "ledger")
    monkeypatch.setenv("OTEL_AUDIT_TRAIL_LEDGER_TABLE", "ledger_events")


@pytest.mark.usefixtures("declared")
def test_what_waits_for_a_database_that_nobody_knows_is_drained(files: Path) -> None:
    configure(files, None)
    audit_event(**arguments(action="plain", database="acme"))
    audit_event(**arguments(action="booked", database="acme", trail="ledger"))
    assert not shutdown_audit(0)
    done = run("outbox", "drain", "--database", "acme", "--path", str(files / "acme.db"))
    assert (done.exit_code, "2 events found, 2 delivered" in done.output) == (0, True), done.output
    assert [row["action"] for row in sqlite_rows(files / "acme.db")] == ["plain"]
    assert [row["action"] for row in sqlite_rows(files / "acme.db", "ledger_events")] == ["booked"]


@pytest.mark.usefixtures("declared")
def test_events_of_a_trail_and_a_named_database_are_printed(files: Path) -> None:
    configure(files, files / "acme.db")
    audit_event(**arguments(action="plain"))
    audit_event(**arguments(action="of_acme", database="acme"))
    audit_event(**arguments(action="booked", database="acme", trail="ledger"))
    assert shutdown_audit()

    def printed(*options: str, path: str = "acme.db") -> list[str]:
        shown = run("events", "--format", "json", "--path", str(files / path), *options)
        return [orjson.loads(line)["action"] for line in shown.stdout.splitlines()]

    assert printed(path="main.db") == ["plain"]
    assert printed("--database", "acme") == ["of_acme"]
    assert printed("--database", "acme", "--trail", "ledger") == ["booked"]
    refused = run("events", "--database", "acme", "--path", str(files / "main.db"))
    assert refused.exit_code != 0
    assert f"database acme: its rows are at sqlite {files / 'acme.db'}" in " ".join(refused.output.split())


def test_another_address_is_used_once_somebody_has_confirmed_it(files: Path) -> None:
    configure(files, files / "acme.db")
    audit_event(**arguments(action="before", database="acme")).result(30)
    assert shutdown_audit()
    configure(files, files / "moved.db")
    receipt = audit_event(**arguments(action="after", database="acme"))
    wait_until(lambda: get_audit_stats().databases["acme"].held == 1, "the event is held")
    assert run("outbox", "readdress", "nobody").exit_code == 1
    done = run("outbox", "readdress", "acme")
    assert done.exit_code == 0
    assert str(files / "acme.db") in done.output
    receipt.result(60)
    assert [row["action"] for row in sqlite_rows(files / "moved.db")] == ["after"]


@pytest.mark.usefixtures("declared")
def test_dead_letters_are_those_of_the_destination_that_is_named(files: Path) -> None:
    configure(files, files / "acme.db")
    audit_event(**arguments(action="good", database="acme", trail="ledger")).result(30)
    channel = get_audit_pipeline().exporter_of("ledger", "acme").channel
    body = get_audit_pipeline().exporter_of("ledger").rules.compose(arguments(action="parked")).body
    from otel_audit_exporter.sinks.base import SinkError

    channel.parking.park_unsent(body, SinkError(Verdict(Fault.RECORD), "is wrong"))
    assert len(get_audit_pipeline().dead_letters("ledger", "acme")) == 1
    assert len(get_audit_pipeline().dead_letters()) == 0
    handler = OperationsHandler(guarded=True)
    query = {"trail": "ledger", "database": "acme"}
    answer = handler.answer(OperationsRequest("GET", "/dead-letters", query=query))
    assert orjson.loads(answer.body)["count"] == 1
    unknown = handler.answer(OperationsRequest("GET", "/dead-letters", query={"trail": "other"}))
    assert (unknown.status, "there is no trail" in unknown.body.decode()) == (400, True)
    assert get_audit_stats().failed == 1
    shutdown_audit()
    where = ("--path", str(files / "acme.db"), "--trail", "ledger", "--database", "acme")
    assert "parked" in run("dead-letters", "list", "--format", "json", *where).output
    assert "1 of 1 dead letter in the table now" in run("dead-letters", "retry", *where).output
    assert {row["action"] for row in sqlite_rows(files / "acme.db", "ledger_events")} == {"good", "parked"}


def test_the_status_names_trails_and_databases(files: Path) -> None:
    configure(files, None)
    audit_event(**arguments(database="acme", trail="ledger"))
    assert not shutdown_audit(0)
    assert "database acme, trail ledger" in run("status").output.replace("\n", " ")
    shown = [orjson.loads(line) for line in run("status", "--format", "json").stdout.splitlines()]
    assert ("ledger", "acme", 1) in [(one["trail"], one["database"], one["pending"]) for one in shown]
    assert os.environ["OTEL_AUDIT_OUTBOX_DIR"]


@pytest.mark.usefixtures("declared")
def test_only_old_events_of_the_named_trail_and_database_are_purged(files: Path) -> None:
    configure(files, files / "acme.db")
    old = {"timestamp": datetime(2020, 1, 1, tzinfo=UTC)}
    audit_event(**arguments(action="main", **old)).result(30)
    for trail in ("default", "ledger"):
        for when in (old, {}):
            audit_event(**arguments(action=trail, database="acme", trail=trail, **when)).result(30)
    assert shutdown_audit()
    ours = ["--database", "acme", "--path", str(files / "acme.db"), "--yes"]
    done = run("purge", "--older-than", "1y", "--trail", "ledger", *ours)
    assert (done.exit_code, "1 event deleted" in done.output) == (0, True), done.output
    actions = [row["action"] for row in sqlite_rows(files / "acme.db", "ledger_events")]
    assert sorted(actions) == ["audit.purge_started", "audit.purged", "ledger"]
    assert [row["action"] for row in sqlite_rows(files / "acme.db")] == ["default", "default"]
    assert [row["action"] for row in sqlite_rows(files / "main.db")] == ["main"]
    assert run("purge", "--older-than", "1y", "--trail", "nonsense", *ours).exit_code == 2
