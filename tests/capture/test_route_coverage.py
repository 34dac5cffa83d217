"""Every mutating route is audited: a handler that forgets its event is named."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import flask
import httpx
import pytest
from fastapi import APIRouter, FastAPI, Response
from starlette.applications import Starlette
from starlette.routing import Mount

from otel_audit_exporter import audit_event
from otel_audit_exporter.integrations import wsgi
from otel_audit_exporter.integrations.asgi import AuditMiddleware
from otel_audit_exporter.testing import AuditLog


def record() -> dict[str, bool]:
    audit_event("change", entity_type="part", entity_id=uuid4(), yacht_id=uuid4(), user_id=uuid4())
    return {"done": True}


def parts() -> list[str]:
    return []


def shop() -> FastAPI:
    """An application of which one handler forgets its event."""
    app = FastAPI()
    router = APIRouter()
    app.add_middleware(AuditMiddleware)
    app.get("/parts")(parts)
    app.post("/parts")(record)
    app.post("/login")(lambda: {"in": True})
    router.delete("/{part_id}")(lambda part_id: {"gone": part_id})
    router.put("/{part_id}")(lambda part_id: record())
    router.patch("/{part_id}")(lambda part_id: Response(status_code=409))
    app.include_router(router, prefix="/parts")
    return app


def ask(app: object, *requests: tuple[str, str]) -> None:
    async def all_of_them() -> None:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # any ASGI application
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            for method, path in requests:
                await client.request(method, path)

    asyncio.run(all_of_them())


EVERYTHING = (("GET", "/parts"), ("POST", "/parts"), ("POST", "/login"), ("DELETE", "/parts/1"), ("PUT", "/parts/2"))


def complaint(audit_log: AuditLog, app: object, *exempt: str, only_asked: bool = False) -> list[str]:
    with pytest.raises(AssertionError) as caught:
        audit_log.assert_every_mutation_recorded(app, exempt=exempt, only_asked=only_asked)
    return str(caught.value).splitlines()[1:]


def test_a_handler_that_forgets_its_event_is_named(audit_log: AuditLog) -> None:
    app = shop()
    ask(app, *EVERYTHING, ("PATCH", "/parts/3"))
    assert complaint(audit_log, app, "/login") == [
        "DELETE /parts/{part_id}: recorded no audit event",
        "PATCH /parts/{part_id}: was not asked with success in this test",
    ]
    assert complaint(audit_log, app, only_asked=True) == [
        "POST /login: recorded no audit event",
        "DELETE /parts/{part_id}: recorded no audit event",
    ]
    exempt = ["POST /login", "DELETE /parts/{part_id}", "PATCH /parts/{part_id}"]
    audit_log.assert_every_mutation_recorded(app, exempt=exempt)


def test_one_silent_request_of_several_is_enough(audit_log: AuditLog) -> None:
    app = FastAPI()
    app.add_middleware(AuditMiddleware)
    app.post("/parts/{number}")(lambda number: record() if number == "1" else {})
    ask(app, ("POST", "/parts/1"))
    audit_log.assert_every_mutation_recorded(app)
    ask(app, ("POST", "/parts/2"))
    assert complaint(audit_log, app) == ["POST /parts/{number}: recorded no audit event"]
    audit_log.clear()
    assert complaint(audit_log, app) == ["POST /parts/{number}: was not asked with success in this test"]


def test_mounted_applications_are_looked_into(audit_log: AuditLog) -> None:
    app = Starlette(routes=[Mount("/shop", app=shop())])
    ask(app, *((method, f"/shop{path}") for method, path in EVERYTHING))
    said = complaint(audit_log, app, "/shop/login", only_asked=True)
    assert said == ["DELETE /shop/parts/{part_id}: recorded no audit event"]


def test_flask_is_looked_into(audit_log: AuditLog) -> None:
    app = flask.Flask(__name__)
    app.wsgi_app = wsgi.AuditMiddleware(app.wsgi_app)  # type: ignore[method-assign]  # as Flask has it
    app.add_url_rule("/parts/<int:part_id>", "order", lambda part_id: record(), methods=["POST"])
    app.add_url_rule("/parts/<int:part_id>", "drop", lambda part_id: {"gone": part_id}, methods=["DELETE"])
    client = app.test_client()
    client.post("/parts/1")
    client.delete("/parts/1")
    assert complaint(audit_log, app) == ["DELETE /parts/<int:part_id>: recorded no audit event"]


def test_what_is_no_application_is_refused(audit_log: AuditLog) -> None:
    with pytest.raises(TypeError, match="neither routes nor a url_map"):
        audit_log.assert_every_mutation_recorded(object())
