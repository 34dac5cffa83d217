"""Requests that changed something and recorded nothing: counted by route, and logged once in development."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import uuid4

import flask
import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_audit_exporter import audit_context, audit_event, configure_audit, shutdown_audit
from otel_audit_exporter.event.seen_requests import unrecorded_requests
from otel_audit_exporter.integrations import request_coverage, wsgi
from otel_audit_exporter.integrations.asgi import AuditMiddleware
from otel_audit_exporter.integrations.fastapi import audit_router
from tests.operations.figures import Metrics

Unrecorded = Callable[[], dict[tuple[str, str | None], int]]


@pytest.fixture
def unrecorded(bare_environment: None, monkeypatch: pytest.MonkeyPatch) -> Unrecorded:
    """Audit into memory; give what was counted since."""
    monkeypatch.setattr(request_coverage, "_said", set())
    before = unrecorded_requests()
    configure_audit("memory", outbox="memory")
    return lambda: {key: more for key, count in unrecorded_requests().items() if (more := count - before.get(key, 0))}


def record() -> dict[str, bool]:
    audit_event("change", entity_type="part", entity_id=uuid4(), yacht_id=uuid4(), user_id=uuid4())
    return {"done": True}


def ask(app: Any, *requests: tuple[str, str], headers: dict[str, str] | None = None) -> list[int]:
    async def all_of_them() -> list[int]:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop", headers=headers) as client:
            return [(await client.request(*request)).status_code for request in requests]

    return asyncio.run(all_of_them())


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage().partition(" was ")[0] for one in caplog.records if "no audit event" in one.getMessage()]


def shop() -> FastAPI:
    app, router = FastAPI(), APIRouter()
    router.delete("/{part_id}")(lambda part_id: {"gone": part_id})
    router.put("/{part_id}")(lambda part_id: record())
    app.include_router(router, prefix="/parts")
    app.add_middleware(AuditMiddleware)
    return app


def test_a_route_is_counted_for_each_request_and_said_once(
    unrecorded: Unrecorded, caplog: pytest.LogCaptureFixture
) -> None:
    ask(shop(), ("DELETE", "/parts/1"), ("DELETE", "/parts/2"), ("PUT", "/parts/3"), ("GET", "/parts/4"))
    assert unrecorded() == {("DELETE", "/parts/{part_id}"): 2}
    assert lines(caplog) == ["audit: DELETE /parts/{part_id}"]


def test_a_request_that_failed_is_not_counted(unrecorded: Unrecorded) -> None:
    app = FastAPI()
    app.add_middleware(AuditMiddleware)
    app.post("/zero")(lambda: 1 / 0)
    ask(app, ("POST", "/zero"), ("POST", "/nowhere"))
    assert unrecorded() == {}


def test_what_is_recorded_while_or_after_the_response_is_sent_counts(unrecorded: Unrecorded) -> None:
    app = FastAPI()

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        with audit_context(metadata={"inner": True}):
            record()

    def later(tasks: BackgroundTasks) -> None:
        tasks.add_task(record)

    app.post("/streamed")(lambda: StreamingResponse(parts()))
    app.post("/later")(later)
    app.add_middleware(AuditMiddleware)
    ask(app, ("POST", "/streamed"), ("POST", "/later"))
    assert unrecorded() == {}


def test_two_middlewares_count_one_request(unrecorded: Unrecorded) -> None:
    inner, outer = shop(), FastAPI()
    outer.mount("/shop", inner)
    ask(AuditMiddleware(outer), ("DELETE", "/shop/parts/1"), ("PUT", "/shop/parts/1"))
    assert unrecorded() == {("DELETE", "/shop/parts/{part_id}"): 1}


def test_this_librarys_own_pages_are_not_counted(unrecorded: Unrecorded) -> None:
    app = FastAPI()
    app.include_router(audit_router(token="let-me-in"), prefix="/audit")
    app.add_middleware(AuditMiddleware)
    headers = {"authorization": "Bearer let-me-in"}
    assert ask(app, ("POST", "/audit/dead-letters/retry"), headers=headers) == [200]
    assert unrecorded() == {}


def test_flask_is_counted_when_its_answer_has_ended(unrecorded: Unrecorded) -> None:
    app = flask.Flask(__name__)
    app.wsgi_app = wsgi.AuditMiddleware(app.wsgi_app)  # type: ignore[method-assign]  # as Flask has it

    def streamed(kind: str) -> flask.Response:
        def parts() -> Iterator[bytes]:
            yield b"one"
            if kind == "told":
                record()

        return flask.Response(parts())

    app.add_url_rule("/parts/<kind>", "streamed", streamed, methods=["POST"])
    for kind in ("told", "silent"):
        with app.test_client().post(f"/parts/{kind}", buffered=True) as answer:
            assert answer.status_code == 200
    assert unrecorded() == {("POST", "/parts/<kind>"): 1}


def test_a_route_that_nobody_knows_is_said_without_its_ids(
    unrecorded: Unrecorded, caplog: pytest.LogCaptureFixture
) -> None:
    async def plain(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    ask(AuditMiddleware(plain), ("POST", "/parts/17/order"), ("POST", "/parts/18/order"))
    assert unrecorded() == {("POST", None): 2}
    assert lines(caplog) == ["audit: POST /parts/…/order"]


def test_in_production_a_metric_tells_it_and_no_line(
    unrecorded: Unrecorded, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_coverage, "_DEVELOPMENT", frozenset())
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    before = unrecorded_requests().get(("DELETE", "/parts/{part_id}"), 0)
    shutdown_audit()
    with configure_audit("memory", outbox="memory", meter_provider=provider):
        ask(shop(), ("DELETE", "/parts/1"))
        told = Metrics(reader, provider).read()["audit.requests.unrecorded"]
    attributes = (("http.request.method", "DELETE"), ("http.route", "/parts/{part_id}"))
    assert told[attributes] == before + 1
    assert lines(caplog) == []
    provider.shutdown()


DJANGO = """
import sys
import django
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"],
                   MIDDLEWARE=["otel_audit_exporter.integrations.django.AuditMiddleware"])
django.setup()
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.test import Client
from django.urls import include, path, re_path
from django.views import View
from uuid import uuid4
from otel_audit_exporter import audit_event
from otel_audit_exporter.event.seen_requests import unrecorded_requests
from otel_audit_exporter.testing import AuditLog

def record():
    audit_event("change", entity_type="part", entity_id=uuid4(), yacht_id=uuid4(), user_id=uuid4())

def order(request, part_id):
    if part_id == 1:
        record()
    return HttpResponse("done")

def streamed(request):
    def parts():
        yield b"one"
        record()
    return StreamingHttpResponse(parts())

class Parts(View):
    def post(self, request, name):
        return HttpResponse("done")
    def delete(self, request, name):
        return HttpResponse("done")

urlpatterns = [path("parts/<int:part_id>/order", order), path("streamed", streamed),
               path("shop/", include([re_path(r"^(?P<name>[a-z]+)/$", Parts.as_view())]))]
app, client = get_wsgi_application(), Client()
with AuditLog() as log:
    client.post("/parts/1/order")
    b"".join(client.post("/streamed").streaming_content)
    log.assert_every_mutation_recorded(app, only_asked=True)
    client.post("/parts/2/order")
    client.post("/shop/x/")
    try:
        log.assert_every_mutation_recorded(app)
    except AssertionError as error:
        print(error)
print(sorted(unrecorded_requests().items()))
"""


def test_django_is_looked_into_and_counted() -> None:
    done = subprocess.run([sys.executable, "-c", DJANGO], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "not every mutating route is audited:",
        "POST /parts/<int:part_id>/order: recorded no audit event",
        "POST /shop/(?P<name>[a-z]+)/$: recorded no audit event",
        "DELETE /shop/(?P<name>[a-z]+)/$: was not asked with success in this test",
        "[(('POST', '/parts/<int:part_id>/order'), 1), (('POST', '/shop/(?P<name>[a-z]+)/$'), 1)]",
    ]
