"""The page, its exports and its JSON, as a browser and as a program see them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import httpx
import orjson
import pytest
from fastapi import FastAPI

from otel_audit_exporter import (
    AuditConfigurationError,
    StoredEvent,
    configure_audit,
    count_events,
    flush_audit,
    read_events,
    shutdown_audit,
)
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS, FIELDS
from otel_audit_exporter.integrations.fastapi import audit_trail_router
from otel_audit_exporter.trail import ALL, Reader, trail_asgi_app, trail_wsgi_app
from otel_audit_exporter.trail.handler import PAGE
from tests.operations.serving import Serve
from tests.stack.waiting import wait_until
from tests.support.trail_events import PARTS, START, USERS, YACHTS, write
from tests.trail.asking import AppClient, client_of
from tests.trail.conftest import Configure

AUDITOR = Reader(USERS[1], tenants=ALL, sees_source=True)
FULL = {**DEFAULT_COLUMNS, **{name: name for name in (
    "outcome", "actor_type", "on_behalf_of", "metadata", "signature", "source_ip", "request_id", "user_agent",
    "trace_id", "span_id",
)}}  # fmt: skip
HOSTILE = "</bdi><script>alert(1)</script>\u202egnp.exe\u2066\u200b\x1b[2J\U000e0041\"'"

pytestmark = pytest.mark.parametrize("kind", ["memory"], indirect=True)


class Document(HTMLParser):
    """What a page is made of: its elements, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self) -> list[str]:
        return [str(attributes["href"]) for tag, attributes in self.elements if tag == "a"]


def page_of(client: AppClient, address: str = "/trail/") -> Document:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    return Document(answer.text)


def sentences(document: Document) -> str:
    return re.sub(r"\s+", " ", document.text)


def test_a_sentence_says_who_changed_what_for_whom(configured: Configure) -> None:
    write(
        configured(columns=FULL),
        {"old_values": {"stock": 2, "shelf": "A"}, "new_values": {"stock": 14, "shelf": "A"}, "on_behalf_of": USERS[1]},
        {"new_values": {"a": 1, "b": 2, "c": 3, "d": 4, "e": None}},
        {"old_values": {"a": 1}},
        {"action": "login"},
        {"action": "approve", "outcome": "failure", "new_values": {"state": "approved"}},
    )
    names = {USERS[0]: "Ada", USERS[1]: "Bob", PARTS[0]: "X"}
    asked: list[frozenset[str]] = []

    def resolve(ids: frozenset[str]) -> dict[str, str]:
        asked.append(ids)
        return names

    said = sentences(page_of(client_of(AUDITOR, resolve=resolve)))
    assert "Ada changed stock 2 → 14 on part X, for Bob" in said
    assert "Ada set a 1, b 2, c 3 and 2 more on part X" in said
    assert "Ada removed a 1 on part X" in said
    assert "Ada did login on part X" in said
    assert "Ada tried approve on part X failed" in said
    assert asked == [frozenset({*USERS, PARTS[0], YACHTS[0]})]


def test_details_have_the_difference_and_every_field(configured: Configure) -> None:
    said = {
        "old_values": {"stock": 2, "same": 1},
        "new_values": {"stock": 14, "same": 1},
        "on_behalf_of": USERS[1],
        "metadata": {"reason": "count"},
        "signature": {"by": "key-1"},
        "source_ip": "203.0.113.9",
        "user_agent": "Agent/7",
        "request_id": "req-1",
        "trace_id": "0" * 31 + "1",
        "span_id": "0" * 15 + "2",
    }
    (record_id,) = write(configured(columns=FULL), said)
    page = page_of(client_of(AUDITOR, trace_link="https://traces.example/t/{trace_id}?x=1"))
    for text in (record_id, "203.0.113.9", "Agent/7", "req-1", "key-1", '"reason": "count"', USERS[1], '"same": 1'):
        assert text in page.text, text
    assert f"https://traces.example/t/{'0' * 31}1?x=1" in page.links()
    for link in (f"?entity_type=part&entity_id={PARTS[0]}", f"?user={USERS[0]}", "?request_id=req-1"):
        assert link in page.links()


def test_nothing_that_an_event_says_is_obeyed(configured: Configure) -> None:
    written = write(
        configured(ids="text", columns=FULL),
        {
            "action": HOSTILE, "entity_type": HOSTILE, "entity_id": HOSTILE, "user_id": HOSTILE, "yacht_id": HOSTILE,
            "old_values": {HOSTILE: HOSTILE}, "new_values": HOSTILE, "on_behalf_of": HOSTILE, "request_id": HOSTILE,
            "metadata": {HOSTILE: [HOSTILE]}, "user_agent": HOSTILE,
        },
    )  # fmt: skip
    client = client_of(AUDITOR, resolve=lambda ids: dict.fromkeys(ids, HOSTILE), describe=lambda event: HOSTILE)
    for address in ("/trail/", f"/trail/?{httpx.QueryParams({'user': HOSTILE, 'text': HOSTILE})}"):
        answer = client.get(address)
        document = Document(answer.text)
        assert not {"script", "img", "h3"} & {tag for tag, _ in document.elements}
        assert not any(name.startswith("on") for _, attributes in document.elements for name in attributes)
        assert all(char.isprintable() or char == "\n" for char in answer.text), ascii(answer.text)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
    assert written[0] in client.get("/trail/").text
    assert "\\u202egnp.exe" in client.get("/trail/").text


def test_nothing_outside_is_loaded_and_no_script_is_needed(configured: Configure) -> None:
    write(configured(), {})
    page = page_of(client_of(AUDITOR))
    assert "script" not in {tag for tag, _ in page.elements}
    outside = [
        attributes for _, attributes in page.elements for value in attributes.values() if value and "//" in value
    ]
    assert outside == []
    assert all(attributes.get("href") for tag, attributes in page.elements if tag == "a")


def test_the_filter_is_in_the_address_and_can_be_removed(configured: Configure) -> None:
    """Each part of it can be removed by itself."""
    written = write(configured(), {}, {"action": "dispose"}, {"action": "dispose", "user_id": USERS[1]})
    client = client_of(AUDITOR)
    page = page_of(client, f"/trail/?action=dispose&user={USERS[1]}")
    assert [page.text.count(one) for one in written] == [0, 0, 1]
    assert "1 event" in page.text
    assert f"?user={USERS[1]}" in page.links()
    assert "?action=dispose" in page.links()
    assert f"export.csv?user={USERS[1]}&action=dispose" in page.links()
    fields = {attributes["name"]: attributes.get("value") for tag, attributes in page.elements if tag == "input"}
    assert (fields["action"], fields["user"], fields["text"]) == ("dispose", USERS[1], "")
    assert "There are no events that fit." in page_of(client, "/trail/?action=nothing").text


def test_pages_are_walked_by_links(configured: Configure) -> None:
    written = write(configured(), *({} for _ in range(2 * PAGE + 1)))
    client = client_of(AUDITOR)
    seen: list[str] = []
    page = page_of(client)
    while True:
        seen += re.findall(r"Record([0-9a-f-]{36})", page.text)
        more = [link for link in page.links() if "after=" in link]
        if not more:
            break
        page = page_of(client, f"/trail/{more[0].removeprefix('.')}")
    assert seen == written[::-1]
    assert f"{2 * PAGE + 1} events" in page.text
    assert page_of(client, "/trail/?order=oldest").text.index(written[0]) > 0


def test_an_impossible_query_is_reported_on_the_page(configured: Configure) -> None:
    configured()
    client = client_of(AUDITOR)
    for query in ("user=nobody", "since=yesterday", "after=x", "order=up", "outcome=done", f"text={'x' * 501}"):
        answer = client.get(f"/trail/?{query}")
        assert (answer.status_code, "This cannot be asked" in answer.text) == (400, True), query
    assert client.get("/trail/events?user=nobody").status_code == 400
    for limit in ("0", "-1", "x", "9" * 5000, "1.5"):
        assert client.get("/trail/events", params={"limit": limit}).status_code == 400
    assert client.get("/trail/nothing").status_code == 404
    assert client.post("/trail/").status_code == 405


def test_the_reason_for_an_unreadable_table_is_only_in_the_log(
    configured: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutdown_audit()
    (tmp_path / "broken.db").write_bytes(b"no database at all" * 100)
    with configure_audit("sqlite", path=tmp_path / "broken.db", outbox="memory"):
        client = client_of(AUDITOR)
        for path in ("/", "/events", "/export.csv"):
            answer = client.get(f"/trail{path}")
            assert (answer.status_code, "cannot be read now" in answer.text) == (503, True)
            assert "database" not in answer.text
    assert "file is not a database" in caplog.text


def test_exports_are_exactly_the_filter_and_are_recorded(configured: Configure) -> None:
    written = write(configured(), *({"action": "dispose" if number % 2 else "receive"} for number in range(1200)))
    client = client_of(Reader(USERS[1], tenants=[YACHTS[0]]))
    answer = client.get("/trail/export.csv?action=dispose")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["record_id"] for row in rows] == written[::-1][::2]
    assert answer.headers["x-audit-count"] == "600"
    assert set(rows[0]) == set(FIELDS)
    lines = client.get("/trail/export.jsonl?action=dispose").text.splitlines()
    assert [orjson.loads(line)["record_id"] for line in lines] == written[::-1][::2]
    assert flush_audit()
    exported = list(read_events(action="audit.exported", newest_first=False))
    assert [event.new_values for event in exported] == [
        {"filter": {"action": "dispose"}, "format": form, "count": 600} for form in ("csv", "jsonl")
    ]
    assert {(event.user_id, event.yacht_id, event.outcome) for event in exported} == {(USERS[1], YACHTS[0], "success")}
    assert client.get("/trail/events?count=1").json()["count"] == {"value": 1200, "exact": True}
    assert client.get("/trail/events?count=1&access=1").json()["count"] == {"value": 1202, "exact": True}
    assert len(client.get("/trail/events?action=audit.exported").json()["events"]) == 2


def test_an_export_that_could_not_be_recorded_is_refused(
    configured: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    written = write(configured(), {})
    answer = client_of(Reader("ada", tenants=ALL)).get("/trail/export.csv")
    assert (answer.status_code, written[0] in answer.text) == (503, False)
    assert "Reader: id is no UUID" in caplog.text


def test_a_frame_shows_one_entity_to_the_origins_that_may(configured: Configure) -> None:
    written = write(configured(), {}, {"entity_id": PARTS[1]})
    where = f"entity_type=part&entity_id={PARTS[0]}"
    answer = client_of(AUDITOR).get(f"/trail/frame?{where}")
    assert "frame-ancestors https://a.example" in answer.headers["content-security-policy"]
    assert "x-frame-options" not in answer.headers
    assert [answer.text.count(one) for one in written] == [1, 0]
    assert client_of(AUDITOR).get("/trail/frame").status_code == 400
    app = FastAPI()
    app.include_router(audit_trail_router(identify_reader=lambda request: AUDITOR))
    assert AppClient(app).get(f"/frame?{where}").status_code == 404


def test_the_pages_texts_can_be_replaced(configured: Configure) -> None:
    write(configured(), {"old_values": {"stock": 2}, "new_values": {"stock": 14}})
    texts = {"language": "de", "title": "Protokoll", "changed": "{who} änderte {changes} an {entity}"}
    page = page_of(client_of(AUDITOR, texts=texts, resolve=lambda ids: {USERS[0]: "Ada", PARTS[0]: "X"}))
    assert "Protokoll" in page.text
    assert "Ada änderte stock 2 → 14 an part X" in sentences(page)
    for wrong in ({"no_such": "x"}, {"title": "{who}"}, {"changed": "{who.__class__}"}, {"title": "{"}):
        with pytest.raises(AuditConfigurationError, match="texts"):
            audit_trail_router(texts=wrong)


def test_an_application_describes_events_and_may_fail_to(configured: Configure) -> None:
    write(configured(), {"action": "known"}, {"action": "unknown"}, {"action": "raises"})

    def describe(event: StoredEvent) -> str | None:
        if event.action == "raises":
            raise LookupError
        return "Ada did as she <b>knows</b>" if event.action == "known" else None

    def resolve(ids: frozenset[str]) -> dict[str, str]:
        raise LookupError

    said = sentences(page_of(client_of(AUDITOR, describe=describe, resolve=resolve)))
    assert "Ada did as she <b>knows</b>" in said
    assert "did unknown on" in said
    assert "did raises on" in said


def test_wrong_links_and_origins_are_refused(configured: Configure) -> None:
    wrong: list[dict[str, Any]] = [
        {"trace_link": "javascript:alert({trace_id})"},
        {"trace_link": "https://traces.example/"},
        {"frame_origins": "https://a.example"},
        {"frame_origins": ["*"]},
        {"frame_origins": ["https://a.example; script-src *"]},
    ]
    for options in wrong:
        with pytest.raises(AuditConfigurationError):
            audit_trail_router(**options)


def test_json_is_in_the_openapi_document_with_its_filters(configured: Configure) -> None:
    app = FastAPI()
    app.include_router(audit_trail_router(identify_reader=lambda request: AUDITOR), prefix="/trail")
    described = app.openapi()["paths"]
    assert list(described) == ["/trail/events"]
    parameters = {one["name"] for one in described["/trail/events"]["get"]["parameters"]}
    assert {"entity_type", "entity_id", "user", "tenant", "action", "outcome", "since", "until", "after"} <= parameters


def test_reader_page_csv_and_json_say_the_same(configured: Configure) -> None:
    write(
        configured(columns=FULL),
        *({"timestamp": START + timedelta(minutes=number), "new_values": {"n": number}} for number in range(120)),
    )
    client = client_of(AUDITOR)
    read = [event.document() for event in read_events()]
    assert [orjson.loads(line) for line in client.get("/trail/export.jsonl").text.splitlines()] == read
    first = client.get("/trail/events?limit=70").json()
    second = client.get("/trail/events", params={"limit": "70", "after": first["next"]}).json()
    listed = [*first["events"], *second["events"]]
    assert [{name: value for name, value in event.items() if name != "mark"} for event in listed] == read
    assert second["next"] is None
    rows = csv.DictReader(io.StringIO(client.get("/trail/export.csv").text))
    assert [(row["record_id"], orjson.loads(row["new_values"])) for row in rows] == [
        (event["record_id"], event["new_values"]) for event in read
    ]


async def _asked_reader(scope: Any) -> Reader | None:
    return AUDITOR if (b"x-user", b"ada") in scope["headers"] else None


def test_the_asgi_application_serves_and_stays_closed(configured: Configure, serve: Serve) -> None:
    written = write(configured(), {})
    address = serve(trail_asgi_app(identify_reader=_asked_reader))
    with (
        httpx.Client(base_url=address, headers={"x-user": "ada"}, timeout=60) as ada,
        httpx.Client(base_url=address, timeout=60) as nobody,
    ):
        assert written[0] in ada.get("/").text
        assert written[0] in ada.get("/export.csv").text
        assert ada.head("/export.csv").text == ""
        assert ada.get("/events").json()["events"][0]["record_id"] == written[0]
        assert nobody.get("/").status_code == 403
    assert httpx.get(serve(trail_asgi_app()), timeout=60).status_code == 403


@pytest.mark.parametrize("as_router", [False, True])
def test_an_export_that_breaks_off_is_recorded_as_that(configured: Configure, serve: Serve, as_router: bool) -> None:
    write(configured(), *({"new_values": {"x": "y" * 5000}} for _ in range(5000)))
    app: Any = trail_asgi_app(identify_reader=_asked_reader)
    if as_router:
        app = FastAPI()
        app.include_router(audit_trail_router(identify_reader=lambda request: AUDITOR))
    address = serve(app)
    with httpx.stream("GET", f"{address}/export.csv", headers={"x-user": "ada"}, timeout=60) as answer:
        next(answer.iter_bytes())
    wait_until(lambda: flush_audit() and count_events(action="audit.exported").value == 1, "the export is recorded")
    (event,) = read_events(action="audit.exported")
    assert (event.outcome, event.new_values["count"] < 5000) == ("failure", True)


def ask(app: Callable[..., Any], path: str, user: str = "ada", script: str = "") -> tuple[str, dict[str, str], str]:
    environ: dict[str, Any] = {"HTTP_X_USER": user}
    setup_testing_defaults(environ)
    path, _, query = path.partition("?")
    environ |= {"PATH_INFO": path, "QUERY_STRING": query, "SCRIPT_NAME": script}
    told: list[Any] = []
    body = b"".join(app(environ, lambda status, headers: told.append((status, dict(headers)))))
    return told[0][0], told[0][1], unescape(body.decode())


def test_the_wsgi_application_serves_and_stays_closed(configured: Configure) -> None:
    written = write(configured(), {})
    app = trail_wsgi_app(identify_reader=lambda environ: AUDITOR if environ["HTTP_X_USER"] == "ada" else None)
    assert written[0] in ask(app, "/")[2]
    assert written[0] in ask(app, "/export.jsonl?action=receive")[2]
    assert ask(app, "/", user="eve")[0].startswith("403")
    assert ask(trail_wsgi_app(), "/")[0].startswith("403")
    assert ask(app, "", script="/trail")[1]["location"] == "/trail/"
    with pytest.raises(TypeError):
        trail_wsgi_app(identify_reader=_asked_reader)  # type: ignore[arg-type]  # what is tried
