"""Requests to an application in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
from fastapi import FastAPI

from otel_audit_exporter.integrations.fastapi import audit_trail_router


class AppClient:
    """Asks an ASGI application, one request after another."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def get(self, address: str, params: Mapping[str, str] | None = None) -> httpx.Response:
        return asyncio.run(self._ask("GET", address, params))

    def post(self, address: str) -> httpx.Response:
        return asyncio.run(self._ask("POST", address, None))

    async def _ask(self, method: str, address: str, params: Mapping[str, str] | None) -> httpx.Response:
        transport = httpx.ASGITransport(app=self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://trail") as client:
            return await client.request(method, address, params=params)


def client_of(reader: Any, **options: Any) -> AppClient:
    """Return what asks an application whose every request is this reader's."""
    app = FastAPI()
    router = audit_trail_router(identify_reader=lambda request: reader, frame_origins=["https://a.example"], **options)
    app.include_router(router, prefix="/trail")
    return AppClient(app)
