"""The trail as a WSGI and as an ASGI application."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from http import HTTPStatus
from typing import Unpack

from otel_audit_exporter.operations.wsgi_asgi import (
    ASGIApp,
    Environ,
    Receive,
    Scope,
    Send,
    StartResponse,
    WSGIApp,
    path_below_mount,
    redirect_to_slash,
    request_from_environ,
    request_from_scope,
)
from otel_audit_exporter.runtime.awaiting import awaited
from otel_audit_exporter.trail.handler import TrailHandler, TrailOptions, TrailResponse, closed
from otel_audit_exporter.trail.identity import Reader
from otel_audit_exporter.trail.streaming import in_parts

__all__ = ["trail_asgi_app", "trail_wsgi_app"]


def trail_wsgi_app(
    *,
    identify_reader: Callable[[Environ], Reader | None] | None = None,
    **options: Unpack[TrailOptions],
) -> WSGIApp:
    """Return a WSGI application that shows the trail, closed to everybody whom the application does not name.

    ``/`` is the page, ``/events`` the same as JSON, ``/export.csv`` and ``/export.jsonl`` are exports, ``/frame`` shows
    one entity for an ``<iframe>``. The filter is in the address. Every export is recorded as ``audit.exported``. Flask:
    ``DispatcherMiddleware(app.wsgi_app, {"/trail": trail_wsgi_app(identify_reader=...)})``.

    :param identify_reader: asked with the WSGI environment, who reads and which tenants that reader may see, as a
        :class:`Reader`; None: nobody who may. Without it every path answers 403.
    :param options: those of :class:`TrailOptions`: names, words and links of the application's own, and the frame.
    :raises AuditConfigurationError: for an argument that is wrong.
    """
    if inspect.iscoroutinefunction(identify_reader):
        raise TypeError("identify_reader must be a plain function here: nobody awaits a coroutine")
    handler = TrailHandler(**options)

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not environ.get("PATH_INFO"):
            redirect = redirect_to_slash(str(environ.get("SCRIPT_NAME", "")))
            response = TrailResponse(redirect.status, redirect.headers, [])
        elif identify_reader is None:
            response = closed()
        else:
            response = handler.answer(identify_reader(environ), request_from_environ(environ))
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", list(response.headers))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else response.body

    return application


def trail_asgi_app(
    *,
    identify_reader: Callable[[Scope], Reader | Awaitable[Reader | None] | None] | None = None,
    **options: Unpack[TrailOptions],
) -> ASGIApp:
    """Return an ASGI application that shows the trail, closed to everybody whom the application does not name.

    Starlette: ``Mount("/trail", trail_asgi_app(identify_reader=...))``. The arguments are those of
    :func:`trail_wsgi_app`; ``identify_reader`` is asked with the ASGI scope, and may be a coroutine function.
    """
    handler = TrailHandler(**options)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"trail_asgi_app answers HTTP only, not {scope['type']}")
        path = path_below_mount(scope)
        if path == "":
            redirect = redirect_to_slash(str(scope.get("root_path", "")))
            response = TrailResponse(redirect.status, redirect.headers, [])
        elif identify_reader is None:
            response = closed()
        else:
            reader = await awaited(identify_reader(scope))
            response = await asyncio.to_thread(handler.answer, reader, request_from_scope(scope, path))
        await _send(response, receive, send, head=scope["method"] == "HEAD")

    return application


async def _send(response: TrailResponse, receive: Receive, send: Send, *, head: bool) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        async with aclosing(in_parts([] if head else response.body)) as parts:
            async for part in parts:
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": part, "more_body": True})
    finally:
        gone.cancel()
    await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
