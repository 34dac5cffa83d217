"""Who looked is recorded: beside what was looked at, or in a trail of its own, and shown to whom asks for it."""

from __future__ import annotations

from typing import Any

import pytest

from otel_audit_exporter import StoredEvent, audit_context, flush_audit, read_events
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.trail import ALL, Reader
from tests.support.trail_events import USERS, YACHTS, write
from tests.trail.asking import AppClient, client_of
from tests.trail.conftest import Configure

ACCESS = {"access": {"table": "who_looked", "ids": "text"}}
ACCESS_READER = Reader(USERS[1], tenants=ALL, trails=["default", "access"])
own_trail = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
in_memory = pytest.mark.parametrize("kind", ["memory"], indirect=True)


def recorded(**asked: Any) -> list[StoredEvent]:
    assert flush_audit()
    return list(read_events(newest_first=False, **asked))


def ids(client: AppClient, query: str = "") -> list[str]:
    return [event["record_id"] for event in client.get(f"/trail/events{query}").json()["events"]]


@own_trail
def test_a_trail_called_access_takes_exports_and_looks(configured: Configure) -> None:
    written = write(configured(trails=ACCESS), {})
    client = client_of(ACCESS_READER, record_views=True)
    client.get("/trail/")
    client.get("/trail/export.csv?user=" + USERS[0])
    viewed, exported = recorded(trail="access")
    assert (viewed.action, viewed.entity_type, viewed.entity_id) == ("audit.viewed", "audit_trail", "default")
    assert (exported.action, exported.user_id) == ("audit.exported", USERS[1])
    assert exported.new_values == {"filter": {"user": USERS[0]}, "format": "csv", "count": 1}
    assert [event.record_id for event in recorded()] == written
    assert ids(client, "?access=1") == written


@own_trail
def test_readers_of_the_trail_called_access_see_it_as_it_is(configured: Configure) -> None:
    write(configured(trails=ACCESS), {})
    client = client_of(ACCESS_READER)
    client.get("/trail/export.jsonl")
    (exported,) = recorded(trail="access")
    assert ids(client, "?trail=access") == [exported.record_id]
    assert exported.record_id in client.get("/trail/?trail=access").text
    outsider = client_of(Reader(USERS[1], tenants=ALL))
    assert outsider.get("/trail/events?trail=access").status_code == 403


@own_trail
def test_ids_are_held_to_those_of_the_trail_called_access(configured: Configure) -> None:
    write(configured(trails=ACCESS), {})
    assert client_of(Reader("ada", tenants=ALL)).get("/trail/export.csv").status_code == 200
    (exported,) = recorded(trail="access")
    assert (exported.user_id, exported.yacht_id) == ("ada", "00000000-0000-0000-0000-000000000000")


@own_trail
def test_a_named_database_keeps_who_looked_into_it(configured: Configure, tmp_path: Any) -> None:
    pipeline = configured(trails=ACCESS, databases={"acme": {"path": tmp_path / "acme.db"}})
    with audit_context(database="acme"):
        write(pipeline, {})
    answer = client_of(ACCESS_READER).get("/trail/export.csv?database=acme")
    assert (answer.status_code, len(answer.text.splitlines())) == (200, 2)
    assert len(recorded(trail="access", database="acme")) == 1
    assert recorded(trail="access") == []


@in_memory
def test_looks_are_recorded_once_an_hour_for_each_reader_and_filter(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(configured(), {})
    begin = 1_780_000_000 // 3600 * 3600
    wall = [begin]
    monkeypatch.setattr(Clock, "wall", staticmethod(lambda: float(wall[0])))
    ada, bob = (client_of(Reader(user, tenants=ALL), record_views=True) for user in USERS)
    for address in ("/trail/", "/trail/events", "/trail/", "/trail/?action=receive"):
        ada.get(address)
    bob.get("/trail/")
    client_of(Reader(USERS[0], tenants=[YACHTS[0]])).get("/trail/")  # an application that does not ask for it
    assert len(recorded(action="audit.viewed")) == 3
    wall[0] = begin + 3599
    ada.get("/trail/")
    assert len(recorded(action="audit.viewed")) == 3
    wall[0] = begin + 3600
    ada.get("/trail/")
    assert len(recorded(action="audit.viewed")) == 4


@in_memory
def test_exports_and_looks_are_shown_to_whom_asks_for_them(configured: Configure) -> None:
    (written,) = write(configured(), {})
    client = client_of(Reader(USERS[1], tenants=[YACHTS[0]]), record_views=True)
    client.get("/trail/export.csv")
    client.get("/trail/")
    exported, viewed = (event.record_id for event in recorded() if event.record_id != written)
    plain = client.get("/trail/").text
    assert [one in plain for one in (written, exported, viewed)] == [True, False, False]
    assert 'href="?access=1"' in plain
    asked = client.get("/trail/?access=1").text
    assert [one in asked for one in (written, exported, viewed)] == [True, True, True]
    assert 'href="?"' in asked  # what takes it away again
