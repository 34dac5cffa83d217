"""The drop-in for code that calls three functions already: it neither raises nor waits."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from supabase import Client, ClientOptions, create_client

import otel_audit_exporter
from otel_audit_exporter import configure_audit, get_audit_pipeline
from otel_audit_exporter.compat import get_audit_stats, shutdown_audit_logger, write_audit_log_async
from tests.stack import AuditTable, Stack
from tests.stack.faults import Delay
from tests.stack.waiting import wait_until
from tests.support.events import USER, YACHT
from tests.support.rows import sqlite_rows
from tests.support.running import run_python


def payload(**changes: Any) -> dict[str, Any]:
    return {
        "yacht_id": YACHT,
        "entity_type": "receiving",
        "action": "create_receiving",
        "entity_id": str(uuid4()),
        "user_id": USER,
    } | changes


@pytest.fixture
def db(stack: Stack, audit_table: AuditTable, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("OTEL_AUDIT_TABLE", audit_table.name)
    with httpx.Client(trust_env=False) as http:
        yield create_client(stack.url, stack.service_key, ClientOptions(httpx_client=http))


def test_the_first_call_builds_a_pipeline_around_the_client(db: Client, audit_table: AuditTable) -> None:
    said = payload(old_values={"qty": 1}, new_values={"qty": 2})
    record_id = write_audit_log_async(db, said)
    assert shutdown_audit_logger()
    (row,) = audit_table.rows()
    assert str(row["id"]) == record_id
    assert str(row["entity_id"]) == said["entity_id"]
    assert (row["old_values"], row["new_values"]) == ({"qty": 1}, {"qty": 2})
    assert str(row["created_by"]) == USER


def test_values_may_be_the_text_of_json(db: Client, audit_table: AuditTable) -> None:
    write_audit_log_async(db, payload(old_values=json.dumps({"a": [1]}), new_values='["b", null]'))
    assert shutdown_audit_logger()
    (row,) = audit_table.rows()
    assert (row["old_values"], row["new_values"]) == ({"a": [1]}, ["b", None])


def test_optional_keys_may_be_none_or_left_out(db: Client, audit_table: AuditTable) -> None:
    write_audit_log_async(db, payload())
    write_audit_log_async(db, payload(old_values=None, new_values=None))
    assert shutdown_audit_logger()
    assert [(row["old_values"], row["new_values"]) for row in audit_table.rows()] == [(None, None)] * 2


def test_it_uses_the_pipeline_that_is_configured(db: Client, audit_table: AuditTable) -> None:
    configure_audit("sqlite")
    write_audit_log_async(db, payload())
    assert shutdown_audit_logger()
    assert len(sqlite_rows("pms_audit_log.db", table=audit_table.name)) == 1
    assert audit_table.count() == 0


def test_what_is_no_client_goes_to_the_pipeline_that_runs(db: Client, audit_table: AuditTable) -> None:
    write_audit_log_async(db, payload())
    for _ in range(5):
        write_audit_log_async(object(), payload())
    assert shutdown_audit_logger()
    assert audit_table.count() == 6


def test_an_object_that_is_no_client_has_its_event_parked(
    stack: Stack, audit_table: AuditTable, db: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the environment says where events go."""
    monkeypatch.setenv("SUPABASE_URL", stack.url)
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", stack.service_key)
    record_id = write_audit_log_async(object(), payload())
    write_audit_log_async(db, payload())
    assert shutdown_audit_logger()
    (letter,) = get_audit_pipeline().dead_letters()
    assert (letter.record_id, list(letter.reasons or {})) == (record_id, ["db"])
    assert get_audit_stats()["failed"] == 1
    assert audit_table.count() == 1


def test_the_environment_s_exporter_takes_all_and_one_line_says_so(
    db: Client, audit_table: AuditTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_AUDIT_EXPORTER", "sqlite")
    caplog.set_level(logging.INFO, "otel_audit_exporter")
    for _ in range(3):
        write_audit_log_async(db, payload())
    assert shutdown_audit_logger()
    assert len(sqlite_rows("pms_audit_log.db", table=audit_table.name)) == 3
    assert sum("supabase clients" in record.message for record in caplog.records) == 1


@pytest.fixture
def clients(stack: Stack, audit_table: AuditTable, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Client]]:
    """Give two tenants' clients, by the schemas of one project."""
    monkeypatch.setenv("OTEL_AUDIT_TABLE", audit_table.name)
    other = AuditTable(stack.postgres, audit_table.name, "audit")
    other.create()
    stack.reload_schema_cache()
    with httpx.Client(trust_env=False) as http:
        yield {
            schema: create_client(stack.url, stack.service_key, ClientOptions(httpx_client=http, schema=schema))
            for schema in ("public", "audit")
        }
    other.drop()


@pytest.mark.parametrize("first", ["public", "audit"])
def test_the_clients_of_two_tenants_in_turn_never_mix(
    clients: dict[str, Client], stack: Stack, audit_table: AuditTable, first: str
) -> None:
    schemas = sorted(("public", "audit"), key=lambda schema: schema != first)
    for number in range(600):
        schema = schemas[number % 2]
        write_audit_log_async(clients[schema], payload(action=f"of_{schema}"))
    stats = get_audit_stats()
    assert stats["submitted"] == 600
    assert list(stats["databases"]) == [f"{stack.url} {schemas[1]}"]
    assert shutdown_audit_logger(timeout=60)
    for schema in ("public", "audit"):
        table = AuditTable(stack.postgres, audit_table.name, schema)
        assert {row["action"] for row in table.rows()} == {f"of_{schema}"}
        assert table.count() == 300


@pytest.mark.parametrize("schema", ["public", "audit"])
def test_a_clients_newest_key_delivers_what_an_older_could_not(
    clients: dict[str, Client], stack: Stack, audit_table: AuditTable, schema: str
) -> None:
    write_audit_log_async(clients["public"], payload())
    with httpx.Client(trust_env=False) as http:
        stale = create_client(stack.url, "sb_secret_stale", ClientOptions(httpx_client=http, schema=schema))
    write_audit_log_async(stale, payload(action="with_stale_key"))
    wait_until(lambda: get_audit_stats()["held"] >= 1, "the event is held")
    write_audit_log_async(create_renewed(stack, schema), payload(action="with_newest_key"))
    wait_until(lambda: get_audit_stats()["pending"] == 0, "everything is delivered", 30)
    table = AuditTable(stack.postgres, audit_table.name, schema)
    assert {"with_stale_key", "with_newest_key"} <= {row["action"] for row in table.rows()}


def create_renewed(stack: Stack, schema: str) -> Client:
    with httpx.Client(trust_env=False) as http:
        return create_client(stack.url, stack.secret_key, ClientOptions(httpx_client=http, schema=schema))


@pytest.mark.parametrize(
    "wrong",
    [
        payload(entity_id="no uuid"),
        payload(action=""),
        payload(user_id=None),
        payload(nonsense=1),
        {},
        None,
        "text",
        [payload()],
        {5: 6},
    ],
)
def test_a_bad_payload_is_parked_logged_and_counted_and_never_raised(
    db: Client, audit_table: AuditTable, caplog: pytest.LogCaptureFixture, wrong: Any
) -> None:
    write_audit_log_async(db, wrong)
    wait_until(lambda: get_audit_stats()["failed"] == 1, "it is parked")
    assert [record.levelno for record in caplog.records if "event(s) parked" in record.getMessage()] == [logging.ERROR]
    stats = get_audit_stats()
    assert (stats["rejected"], stats["submitted"], stats["failed"], stats["success_rate"]) == (0, 1, 1, "0.0%")
    write_audit_log_async(db, payload())
    assert shutdown_audit_logger()
    assert audit_table.count() == 1


@pytest.mark.parametrize("client", [None, object(), 5])
def test_a_wrong_client_is_logged_and_counted_but_never_raises(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    write_audit_log_async(client, payload())
    assert get_audit_stats()["rejected"] == 1
    assert "SUPABASE_URL" in caplog.text


def test_the_stats_are_zeros_before_the_first_call() -> None:
    stats = get_audit_stats()
    assert {name: stats[name] for name in ("submitted", "succeeded", "failed", "success_rate", "queue_size")} == {
        "submitted": 0,
        "succeeded": 0,
        "failed": 0,
        "success_rate": "100.0%",
        "queue_size": 0,
    }
    json.dumps(stats)


def test_the_stats_count_what_becomes_of_events(stack: Stack, db: Client, audit_table: AuditTable) -> None:
    audit_table.alter("add constraint no_bad check (action <> 'bad')")
    for _ in range(3):
        write_audit_log_async(db, payload())
    write_audit_log_async(db, payload(action="bad"))
    write_audit_log_async(db, payload())
    wait_until(lambda: get_audit_stats()["queue_size"] == 0, "everything is settled", 60)
    stats = get_audit_stats()
    assert (stats["submitted"], stats["succeeded"], stats["failed"]) == (5, 4, 1)
    assert stats["success_rate"] == "80.0%"
    assert "no_bad" in stats["last_error"]
    json.dumps(stats)


def test_the_stats_are_the_last_ones_after_shutdown(db: Client) -> None:
    write_audit_log_async(db, payload())
    shutdown_audit_logger()
    assert get_audit_stats()["succeeded"] == 1
    assert get_audit_stats()["queue_size"] == 0


def test_a_sink_that_is_away_neither_raises_nor_blocks(
    stack: Stack, db: Client, audit_table: AuditTable, caplog: pytest.LogCaptureFixture
) -> None:
    write_audit_log_async(db, payload())
    wait_until(lambda: get_audit_stats()["succeeded"] == 1, "the first row is stored")
    stack.gateway.refuse()
    began = time.monotonic()
    for _ in range(100):
        write_audit_log_async(db, payload())
    assert time.monotonic() - began < 8
    wait_until(lambda: get_audit_stats()["last_error"] is not None, "the failure is counted")
    assert get_audit_stats()["queue_size"] == 100
    assert len([record for record in caplog.records if "event(s) wait" in record.getMessage()]) == 1
    stack.gateway.accept()
    wait_until(lambda: get_audit_stats()["queue_size"] == 0, "everything is delivered")
    assert audit_table.count() == 101


def test_a_shutdown_keeps_to_its_time(stack: Stack, db: Client) -> None:
    write_audit_log_async(db, payload())
    stack.gateway.refuse()
    write_audit_log_async(db, payload())
    began = time.monotonic()
    assert not shutdown_audit_logger(wait=True, timeout=1.0)
    assert time.monotonic() - began < 8


def test_a_shutdown_without_a_limit_waits_until_everything_is_delivered(
    stack: Stack, db: Client, audit_table: AuditTable
) -> None:
    stack.gateway.inject(Delay(0.5), times=1)
    write_audit_log_async(db, payload())
    assert shutdown_audit_logger(wait=True, timeout=None)
    assert audit_table.count() == 1


def test_a_shutdown_need_not_wait(stack: Stack, db: Client) -> None:
    stack.gateway.refuse()
    write_audit_log_async(db, payload())
    began = time.monotonic()
    shutdown_audit_logger(wait=False)
    assert time.monotonic() - began < 8


def test_a_shutdown_without_any_call_is_no_trouble() -> None:
    assert shutdown_audit_logger()
    assert shutdown_audit_logger(wait=False)


def test_an_outbox_that_refuses_is_logged_and_counted(
    db: Client, stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_AUDIT_OUTBOX_MAX_BYTES", "1 MiB")
    stack.gateway.refuse()
    for _ in range(200):
        write_audit_log_async(db, payload(new_values={"text": "x" * 20_000}))
    stats = get_audit_stats()
    assert stats["rejected"] > 0
    assert (stats["submitted"], stats["failed"]) == (200, stats["rejected"])
    assert any(record.levelno == logging.CRITICAL for record in caplog.records)


def test_an_outbox_that_refuses_is_never_raised_whatever_the_configuration_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    configure_audit("sqlite", path="missing/rows.db", outbox="memory", outbox_max_bytes=100)
    write_audit_log_async(None, payload())
    assert get_audit_stats()["rejected"] == 1
    assert any(record.levelno == logging.CRITICAL for record in caplog.records)


def test_events_after_a_shutdown_are_never_raised(caplog: pytest.LogCaptureFixture) -> None:
    configure_audit("sqlite", outbox="memory")
    shutdown_audit_logger()
    write_audit_log_async(None, payload())
    assert get_audit_stats()["rejected"] == 1


def test_both_get_audit_stats_are_about_the_same_pipeline(db: Client) -> None:
    write_audit_log_async(db, payload())
    wait_until(lambda: get_audit_stats()["succeeded"] == 1, "the row is stored")
    assert otel_audit_exporter.get_audit_stats().succeeded == 1
    assert get_audit_pipeline().name == "supabase"


def test_a_child_forked_during_the_first_call_is_not_blocked() -> None:
    program = """
import os, signal, threading, warnings
warnings.simplefilter("ignore")  # of a fork beside threads, which is what this is about
from otel_audit_exporter import compat
held, over = threading.Event(), threading.Event()
def first_call():
    with compat._Built.lock:
        held.set()
        over.wait()
threading.Thread(target=first_call, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)
    compat.write_audit_log_async(None, {})
    os._exit(compat.get_audit_stats()["rejected"])
over.set()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(program).strip() == "1"
