"""An event goes to the destination that it names, or nowhere; the call asks nobody where that is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter import (
    AuditConfigurationError,
    AuditEvent,
    AuditEventError,
    AuditPipeline,
    audit_context,
    audit_event,
    audited,
    configure_audit,
    flush_audit,
    get_audit_stats,
    shutdown_audit,
    update_audit_context,
)
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.trails.tables import LEDGER, actions


@pytest.fixture
def configured(files: Path) -> Callable[..., AuditPipeline]:
    """Give what configures a ledger beside the audit table, and a file for every database that is asked for."""

    def configure(**changes: Any) -> AuditPipeline:
        def resolve(name: str) -> Mapping[str, Any]:
            return {"path": str(files / f"{name}.db")}

        given: dict[str, Any] = {"path": str(files / "main.db"), "trails": LEDGER, "databases": resolve}
        return configure_audit("sqlite", **(given | changes))

    return configure


def test_an_event_goes_to_the_one_destination_that_it_names(configured: Callable[..., Any], files: Path) -> None:
    configured()
    audit_event(**arguments(action="plain"))
    audit_event(**arguments(action="booked"), trail="ledger")
    audit_event(**arguments(action="of_acme"), database="acme")
    audit_event(**arguments(action="booked_by_acme"), trail="ledger", database="acme")
    assert shutdown_audit()
    assert actions(files / "main.db") == ["plain"]
    assert actions(files / "main.db", "ledger_events") == ["booked"]
    assert actions(files / "acme.db") == ["of_acme"]
    assert actions(files / "acme.db", "ledger_events") == ["booked_by_acme"]


def test_the_inner_context_wins_and_the_call_wins_over_all(configured: Callable[..., Any], files: Path) -> None:
    configured()
    with audit_context(database="outer", trail="ledger"):
        audit_event(**arguments(action="one"))
        with audit_context(database="inner"):
            audit_event(**arguments(action="two"))
            update_audit_context(trail="default")
            audit_event(**arguments(action="three"))
            audit_event(**arguments(action="four"), database="said")
    assert shutdown_audit()
    assert actions(files / "outer.db", "ledger_events") == ["one"]
    assert actions(files / "inner.db", "ledger_events") == ["two"]
    assert actions(files / "inner.db") == ["three"]
    assert actions(files / "said.db") == ["four"]


def test_events_and_decorated_functions_name_destinations_too(configured: Callable[..., Any], files: Path) -> None:
    pipeline = configured()
    pipeline.emit(AuditEvent(**arguments(action="emitted"), trail="ledger"))

    @audited("booked", entity_type="receiving", trail="ledger", database="tenant", entity_id="id")
    def book(id: str, tenant: str) -> None:  # noqa: A002  # as applications call it
        pass

    with audit_context(**{name: arguments()[name] for name in ("yacht_id", "user_id")}):
        book(arguments()["entity_id"], "acme")
    assert shutdown_audit()
    assert actions(files / "main.db", "ledger_events") == ["emitted"]
    assert actions(files / "acme.db", "ledger_events") == ["booked"]


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"trail": "unknown"}, "trail"),
        ({"trail": 5}, "trail"),
        ({"database": ""}, "database"),
        ({"trail": " "}, "trail"),
    ],
)
def test_a_trail_that_nobody_configured_is_reported_at_the_call(
    configured: Callable[..., Any], named: dict[str, Any], field: str
) -> None:
    configured()
    with pytest.raises(AuditEventError) as caught:
        audit_event(**arguments(), **named)
    assert set(caught.value.problems) == {field}
    assert get_audit_stats().rejected == 1


def test_a_database_where_none_is_configured_is_reported_at_the_call(configured: Callable[..., Any]) -> None:
    configured(databases=None)
    with pytest.raises(AuditEventError, match="no databases are configured"):
        audit_event(**arguments(), database="acme")


def test_each_trail_validates_by_its_own_settings(configured: Callable[..., Any], files: Path) -> None:
    columns = {"id": "record_id", "what": "action", "who": "actor_id", "at": "timestamp"}
    configured(trails={"ledger": {"table": "ledger", "columns": columns, "ids": "text", "unmapped": "drop"}})
    audit_event(**arguments(action="paid", user_id="u-1"), trail="ledger")
    with pytest.raises(AuditEventError, match="user_id"):
        audit_event(**arguments(user_id="u-1"))
    assert shutdown_audit()
    (row,) = configured_rows(files / "main.db", "ledger")
    assert (row["what"], row["who"]) == ("paid", "u-1")


def configured_rows(path: Path, table: str) -> list[dict[str, Any]]:
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f'SELECT * FROM "{table}"')]


class TestResolving:
    def test_a_call_does_not_wait_for_the_callable(self, configured: Callable[..., Any], files: Path) -> None:
        go_on = threading.Event()
        asked_by: list[str] = []

        def resolve(name: str) -> Mapping[str, Any]:
            asked_by.append(threading.current_thread().name)
            assert go_on.wait(30)
            return {"path": str(files / f"{name}.db")}

        configured(databases=resolve)
        receipt = audit_event(**arguments(action="waits"), database="acme")
        assert receipt.state == "pending"
        go_on.set()
        receipt.result(30)
        assert actions(files / "acme.db") == ["waits"]
        assert threading.current_thread().name not in asked_by

    def test_a_name_that_hangs_holds_up_no_other(self, configured: Callable[..., Any], files: Path) -> None:
        never = threading.Event()

        def resolve(name: str) -> Mapping[str, Any]:
            if name == "hanging":
                never.wait(60)
            return {"path": str(files / f"{name}.db")}

        try:
            configured(databases=resolve)
            audit_event(**arguments(action="waits"), database="hanging")
            receipts = [audit_event(**arguments(), database=f"tenant{number}") for number in range(5)]
            for receipt in receipts:
                receipt.result(20)
            assert get_audit_stats().databases["hanging"].pending == 1
        finally:
            never.set()

    @pytest.mark.parametrize("answer", ["nothing", "LookupError", "ValueError"])
    def test_a_name_that_cannot_be_resolved_is_held_and_reported_once(
        self, configured: Callable[..., Any], files: Path, caplog: pytest.LogCaptureFixture, answer: str
    ) -> None:
        known: dict[str, Mapping[str, Any]] = {}

        def resolve(name: str) -> Mapping[str, Any] | None:
            if answer == "LookupError":
                return known[name]
            if answer == "ValueError" and name not in known:
                raise ValueError("secret words")
            return known.get(name)

        configured(databases=resolve)
        receipt = audit_event(**arguments(action="held"), database="acme")
        wait_until(lambda: get_audit_stats().databases["acme"].held == 1, "the event is held")
        assert not flush_audit(1500)
        lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(lines) == 1
        assert "acme" in lines[0]
        assert "secret words" not in lines[0]
        known["acme"] = {"path": str(files / "acme.db")}
        receipt.result(30)
        assert actions(files / "acme.db") == ["held"]

    def test_another_address_for_a_name_holds_its_events(
        self, configured: Callable[..., Any], files: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        configured(databases={"acme": {"path": str(files / "acme.db")}})
        audit_event(**arguments(action="before"), database="acme").result(30)
        assert shutdown_audit()
        configured(databases={"acme": {"path": str(files / "other.db")}})
        receipt = audit_event(**arguments(action="after"), database="acme")
        wait_until(lambda: get_audit_stats().databases["acme"].held == 1, "the event is held")
        assert "otel-audit outbox readdress acme" in caplog.text
        assert not (files / "other.db").exists()
        assert receipt.state == "pending"

    @pytest.mark.parametrize("given", [{}, {"url": "https://a.example", "key": "sb_secret_x"}, {"nonsense": 1}, "text"])
    def test_settings_that_name_no_place_of_this_kind_deliver_nothing(
        self, configured: Callable[..., Any], files: Path, given: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        configured(databases={"acme": given})
        audit_event(**arguments(), database="acme")
        wait_until(lambda: get_audit_stats().databases["acme"].held == 1, "the event is held")
        assert actions(files / "main.db") == []
        assert "databases['acme']" in caplog.text
        assert "sb_secret_x" not in caplog.text


class TestStats:
    def test_trails_and_databases_are_counted_apart_and_together(self, configured: Callable[..., Any]) -> None:
        configured()
        for named in ({}, {"trail": "ledger"}, {"database": "acme"}, {"trail": "ledger", "database": "acme"}):
            audit_event(**arguments(**named))
        assert flush_audit()
        stats = get_audit_stats()
        assert (stats.submitted, stats.succeeded) == (4, 4)
        assert {name: part.succeeded for name, part in stats.trails.items()} == {"default": 2, "ledger": 2}
        assert {name: part.succeeded for name, part in stats.databases.items()} == {"acme": 2}
        for part in (stats, *stats.trails.values(), *stats.databases.values()):
            assert part.submitted + part.recovered == part.succeeded + part.failed + part.pending


class TestConfiguring:
    def test_two_trails_never_write_to_one_table(self, configured: Callable[..., Any]) -> None:
        with pytest.raises(AuditConfigurationError, match="write to one table"):
            configured(trails={"ledger": {"table": "pms_audit_log"}})

    def test_sinks_in_one_place_take_no_databases(self, configured: Callable[..., Any]) -> None:
        with pytest.raises(AuditConfigurationError, match="in one place only"):
            configure_audit("console", databases={"acme": {"path": "x"}})

    def test_a_second_call_with_other_trails_is_refused(self, configured: Callable[..., Any]) -> None:
        configured(databases=None)
        assert configured(databases=None).closed is False
        with pytest.raises(AuditConfigurationError, match="configured already"):
            configured(databases=None, trails={"ledger": {"table": "other"}})
