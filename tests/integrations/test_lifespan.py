"""FastAPI's lifespan and dependencies, without a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import uuid4

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.types import Message

from otel_audit_exporter import AuditConfigurationError, InMemoryAuditExporter, audit_event, get_audit_pipeline
from otel_audit_exporter.integrations import fastapi as integration
from otel_audit_exporter.integrations.fastapi import AuditMiddleware, audit_identity, audit_lifespan
from otel_audit_exporter.testing import AuditLog

USER, YACHT = uuid4(), uuid4()


async def live(app: FastAPI) -> list[str]:
    """Start and end an application as servers do, and return what it answered."""
    told: list[str] = []
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Message:
        return {"type": next(messages)}

    async def send(message: Message) -> None:
        told.append(message["type"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    return told


@asynccontextmanager
async def own_lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with audit_lifespan(app, exporter="sqlite", ids="text"):
        yield


@pytest.mark.parametrize(
    ("lifespan", "ids"),
    [
        (audit_lifespan, "uuid"),
        (audit_lifespan(), "uuid"),
        (audit_lifespan("supabase", ids="text"), "text"),
        (audit_lifespan(exporter="sqlite", ids="text"), "text"),
        (own_lifespan, "text"),
    ],
)
def test_the_end_of_the_application_is_the_end_of_auditing(audit_log: AuditLog, lifespan: Any, ids: str) -> None:
    app = FastAPI(lifespan=lifespan)
    assert asyncio.run(live(app)) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert get_audit_pipeline().settings.ids == ids
    assert get_audit_pipeline().closed


@pytest.mark.parametrize("wrapped", [False, True], ids=["an exporter", "a list"])
def test_a_ready_made_exporter_may_come_first_like_a_name(wrapped: bool) -> None:
    exporter = InMemoryAuditExporter()

    async def main() -> None:
        async with audit_lifespan([exporter] if wrapped else exporter, schedule_delay_millis=50):
            audit_event("start", entity_type="app", entity_id=uuid4(), yacht_id=YACHT, user_id=USER)

    asyncio.run(main())
    assert [row["action"] for row in exporter.rows] == ["start"]


def test_wrong_settings_stop_the_start(audit_log: AuditLog) -> None:
    async def main() -> None:
        async with audit_lifespan(mode="now and then"):
            raise AssertionError("started")

    with pytest.raises(AuditConfigurationError, match="mode"):
        asyncio.run(main())


def test_the_loop_runs_on_while_the_end_delivers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    went_on = threading.Event()

    def slow(timeout_millis: float) -> bool:
        assert timeout_millis == 250
        return not went_on.wait(20)  # False: not everything was delivered

    async def main() -> None:
        async with audit_lifespan(shutdown_timeout_millis=250):
            asyncio.get_running_loop().call_later(0.01, went_on.set)

    monkeypatch.setattr(integration, "shutdown_audit", slow)
    asyncio.run(main())
    assert went_on.is_set()
    assert "not every event was delivered within 250 ms" in caplog.text


def current_user() -> dict[str, Any]:
    return {"id": USER, "yacht": YACHT}


User = Annotated[
    dict[str, Any], Depends(audit_identity(current_user, user_id="id", yacht_id=lambda user: user["yacht"]))
]


def application() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    def touch(user: User) -> bool:
        audit_event("touch", entity_type="part", entity_id=uuid4())
        return bool(user["id"] == USER)

    return app


async def ask(app: FastAPI) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.get("/")


def test_a_dependency_that_knows_the_user_updates_the_context(audit_log: AuditLog) -> None:
    app = application()
    app.add_middleware(AuditMiddleware)
    assert asyncio.run(ask(app)).json() is True
    audit_log.assert_recorded(user_id=USER, yacht_id=YACHT)


def test_a_missing_middleware_is_reported(audit_log: AuditLog) -> None:
    with pytest.raises(AuditConfigurationError, match="AuditMiddleware"):
        asyncio.run(ask(application()))
    with pytest.raises(AuditConfigurationError, match="user_id='id'"):
        audit_identity(current_user)
