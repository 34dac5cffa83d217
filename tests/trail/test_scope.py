"""Who may see what: a reader of one tenant gets nothing of another's, whatever is asked."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI

from otel_audit_exporter import AuditConfigurationError, read_events
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS
from otel_audit_exporter.integrations.fastapi import audit_trail_router
from otel_audit_exporter.trail import ALL, Reader
from tests.stack import AuditTable, Stack
from tests.support.trail_events import PARTS, USERS, YACHTS, write
from tests.trail.asking import AppClient, client_of
from tests.trail.conftest import RESERVED, Configure

SECRET = "secret-of-the-other-yacht"
PATHS = ("/", "/events", "/export.csv", "/export.jsonl", "/frame")
PARAMETERS = ("entity_type", "entity_id", "user", "tenant", "action", "outcome", "request_id", "trace_id", "since",
              "until", "text", "trail", "database", "order", "access", "after", "limit", "count",
              "tenants")  # fmt: skip


@pytest.fixture
def trail_of_two(configured: Configure) -> list[str]:
    """Two events of the first yacht and two of the second, which must not be seen."""
    other = {"yacht_id": YACHTS[1], "action": SECRET, "new_values": {SECRET: SECRET}, "entity_id": PARTS[1]}
    return write(configured(), {}, other, {"outcome": "failure"}, other | {"user_id": USERS[1], "outcome": "failure"})


def ids(client: AppClient, address: str = "/trail/events") -> list[str]:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    return [event["record_id"] for event in answer.json()["events"]]


def test_a_reader_sees_the_own_tenants_events_only(trail_of_two: list[str]) -> None:
    first, second, third, fourth = trail_of_two
    assert ids(client_of(Reader(USERS[0], tenants=[YACHTS[0].upper()]))) == [third, first]
    assert ids(client_of(Reader(USERS[0], tenants=[YACHTS[1]]))) == [fourth, second]
    assert ids(client_of(Reader(USERS[0], tenants=YACHTS))) == [fourth, third, second, first]
    assert ids(client_of(Reader(USERS[0], tenants=ALL))) == [fourth, third, second, first]
    assert ids(client_of(Reader(USERS[0]))) == []


def hostile_values() -> Iterator[str]:
    yield from RESERVED
    yield from (YACHTS[1], YACHTS[1].upper(), f"{YACHTS[0]},{YACHTS[1]}", f'"{YACHTS[1]}"', "*", "%", "not.is.null")
    yield from (f"in.({YACHTS[1]})", f"eq.{YACHTS[1]}", f"x)),or(yacht_id.eq.{YACHTS[1]}", "' or 1=1 --", "1; select 1")
    yield from (SECRET[:9], PARTS[1], USERS[1], "failure", "oldest", "1", "default", "\0", "\x1b", "\ud800", "9" * 600)


def test_no_parameter_shows_another_tenants_events(trail_of_two: list[str]) -> None:
    client = client_of(Reader(USERS[0], tenants=[YACHTS[0]]))
    of_others = [event.mark for event in read_events(tenant=YACHTS[1])]
    asked = [(name, value) for name in PARAMETERS for value in hostile_values()]
    asked += [("after", mark) for mark in of_others]
    for number, (name, value) in enumerate(asked):
        query = {name: value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")}
        path = PATHS[number % len(PATHS)]
        if path == "/frame":
            query = {"entity_type": "part", "entity_id": PARTS[1]} | query
        answer = client.get(f"/trail{path}", params=query)
        assert answer.status_code in (200, 400, 403, 422, 503), (path, query, answer.status_code)
        shown = answer.text.replace(value, "")
        assert not any(one in shown for one in (SECRET, trail_of_two[1], trail_of_two[3])), (path, query)


def test_the_page_and_the_exports_have_what_the_reader_may_see(trail_of_two: list[str]) -> None:
    client = client_of(Reader(USERS[0], tenants=[YACHTS[0]]))
    page = client.get("/trail/").text
    assert [page.count(one) for one in trail_of_two] == [1, 0, 1, 0]
    rows = list(csv.DictReader(io.StringIO(client.get("/trail/export.csv").text)))
    lines = client.get("/trail/export.jsonl").text.splitlines()
    assert [row["record_id"] for row in rows] == [trail_of_two[2], trail_of_two[0]]
    assert len(lines) == 2


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
def test_without_identify_reader_nothing_is_served(trail_of_two: list[str]) -> None:
    app = FastAPI()
    app.include_router(audit_trail_router(), prefix="/trail")
    closed = AppClient(app)
    for path in PATHS:
        assert closed.get(f"/trail{path}").status_code == 403
        for nobody in (None, {}, "admin", True, {"tenants": ALL}):
            answer = client_of(nobody).get(f"/trail{path}")
            assert (answer.status_code, answer.json()) == (403, {"error": "not for you"})


@pytest.mark.parametrize("kind", ["postgres", "supabase"], indirect=True)
def test_an_event_without_a_tenant_is_only_for_unrestricted_readers(
    stack: Stack, audit_table: AuditTable, configured: Configure
) -> None:
    write(configured(), {})
    audit_table.alter("alter yacht_id drop not null")
    stack.sql(
        f"insert into {audit_table.name} select gen_random_uuid(), null, entity_type, action, entity_id, created_by,"
        f" created_at from {audit_table.name}"
    )
    assert len(ids(client_of(Reader(USERS[0], tenants=ALL)))) == 2
    assert len(ids(client_of(Reader(USERS[0], tenants=YACHTS)))) == 1


@pytest.mark.parametrize("kind", ["sqlite", "memory"], indirect=True)
def test_a_table_without_tenants_is_shown_to_readers_of_all_only(
    configured: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {column: field for column, field in DEFAULT_COLUMNS.items() if field != "yacht_id"}
    pipeline = configured(columns=columns)
    written = write(pipeline, {"yacht_id": None})
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="otel_audit_exporter"):
        client = client_of(Reader(USERS[0], tenants=YACHTS))
        assert ids(client) == []
        assert "says no tenants" in client.get("/trail/").text
    assert [record.getMessage() for record in caplog.records].count(
        "audit: no column takes yacht_id, so the trail shows nothing to a reader who may not see ALL"
    ) == 1
    assert ids(client_of(Reader(USERS[0], tenants=ALL))) == written


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
def test_a_trail_that_is_not_the_readers_is_refused(trail_of_two: list[str]) -> None:
    client = client_of(Reader(USERS[0], tenants=ALL, trails=["ledger"]))
    for path in PATHS:
        where = {"entity_type": "part", "entity_id": PARTS[0]}
        assert client.get(f"/trail{path}", params=where).status_code == 403
        assert client.get(f"/trail{path}", params=where | {"trail": "default"}).status_code == 403
        assert client.get(f"/trail{path}", params=where | {"trail": "ledger"}).status_code == 503


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
def test_the_source_is_shown_to_whom_may_see_it(configured: Configure) -> None:
    columns = {**DEFAULT_COLUMNS, "source_ip": "source_ip", "user_agent": "user_agent"}
    pipeline = configured(columns=columns)
    write(pipeline, {"source_ip": "203.0.113.9", "user_agent": "Agent/7"})
    for sees, count in ((True, 1), (False, 0)):
        client = client_of(Reader(USERS[0], tenants=ALL, sees_source=sees))
        for path in ("/", "/events", "/export.csv", "/export.jsonl"):
            text = client.get(f"/trail{path}").text
            assert (text.count("203.0.113.9"), text.count("Agent/7")) == (count, count), path


def test_a_reader_that_cannot_be_meant_is_refused() -> None:
    wrong: list[Callable[[], Reader]] = [
        lambda: Reader("u", tenants=YACHTS[0]),
        lambda: Reader("u", trails="default"),
        lambda: Reader(""),
    ]
    for make in wrong:
        with pytest.raises(AuditConfigurationError):
            make()


@pytest.mark.parametrize("kind", ["postgres", "supabase"], indirect=True)
def test_a_connection_that_the_server_ended_is_opened_again(stack: Stack, trail_of_two: list[str]) -> None:
    client = client_of(Reader(USERS[0], tenants=YACHTS))
    assert len(ids(client)) == 4
    for role in ("postgres", "authenticator"):
        stack.postgres.terminate_backends(role)
    stack.wait_until_serving()
    assert len(ids(client)) == 4
