"""Operations over HTTP for any framework: a WSGI and an ASGI application, to be mounted somewhere.

``/`` is a page for people, ``/stats``, ``/health``, ``/losses`` and ``/dead-letters`` are JSON. A POST to
``/dead-letters/<id>/retry`` or ``/dead-letters/retry`` offers one or all dead letters to the sink again, one to
``/losses/acknowledge`` says that somebody has seen the losses. FastAPI has ``audit_router`` for the same.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from otel_audit_exporter.operations.handler import OperationsHandler, OperationsRequest, OperationsResponse
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.runtime.awaiting import awaited

__all__ = ["operations_asgi", "operations_wsgi"]

Environ = Mapping[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
MAX_FORM_BYTES = 16_384
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def operations_wsgi(
    *,
    token: str | None = None,
    allow: Callable[[Environ], bool] | None = None,
    pipeline: AuditPipeline | None = None,
    show_values: bool = False,
    origins: Iterable[str] = (),
) -> WSGIApp:
    """Return a WSGI application for operations, closed to everybody whom the application does not let in.

    Flask: ``app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/audit": operations_wsgi(token=...)})``.

    :param token: what a request must bring, as ``Authorization: Bearer`` or as the password that a browser asks for.
    :param allow: asked with the WSGI environment, whether this request may pass; with a token both must be right. With
        neither, every path answers 403.
    :param pipeline: the pipeline to look at; by default the one in force at each request.
    :param show_values: show the rows of dead letters, too. By default action, entity and error only.
    :param origins: other origins from which a browser may ask for a retry, such as ``"https://admin.example"``.
    """
    if inspect.iscoroutinefunction(allow):
        raise TypeError("allow must be a plain function: a coroutine, which nobody awaits here, would let all in")
    handler = OperationsHandler(
        pipeline, token=token, guarded=allow is not None, show_values=show_values, origins=origins
    )

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        response = (
            _forbidden() if allow is not None and not allow(environ) else handler.answer(request_from_environ(environ))
        )
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", _sized_headers(response))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]

    return _with_slash_wsgi(application)


def operations_asgi(
    *,
    token: str | None = None,
    allow: Callable[[Scope], bool | Awaitable[bool]] | None = None,
    pipeline: AuditPipeline | None = None,
    show_values: bool = False,
    origins: Iterable[str] = (),
) -> ASGIApp:
    """Return an ASGI application for operations, closed to everybody whom the application does not let in.

    Starlette: ``Mount("/audit", operations_asgi(token=...))``. The arguments are those of :func:`operations_wsgi`;
    ``allow`` is asked with the ASGI scope, and may be a coroutine function.
    """
    handler = OperationsHandler(
        pipeline, token=token, guarded=allow is not None, show_values=show_values, origins=origins
    )

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"operations_asgi answers HTTP only, not {scope['type']}")
        path = path_below_mount(scope)
        if path == "":
            response = redirect_to_slash(str(scope.get("root_path", "")))
        elif allow is not None and not await awaited(allow(scope)):
            response = _forbidden()
        else:  # the outbox and the sink are waited for, which must not hold up the event loop
            response = await asyncio.to_thread(
                handler.answer, request_from_scope(scope, path, await _read_form(scope, receive))
            )
        await send({"type": "http.response.start", "status": response.status, "headers": _encoded_headers(response)})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})

    return application


def _with_slash_wsgi(application: WSGIApp) -> WSGIApp:
    def redirecting(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO"):
            return application(environ, start_response)
        response = redirect_to_slash(str(environ.get("SCRIPT_NAME", "")))
        start_response("303 See Other", _sized_headers(response))
        return []

    return redirecting


def request_from_environ(environ: Environ) -> OperationsRequest:
    """Return the request of a WSGI environment."""
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    path = str(environ.get("PATH_INFO", "")).encode("latin-1", "replace").decode("utf-8", "replace")
    return OperationsRequest(
        environ["REQUEST_METHOD"], path, headers, dict(parse_qsl(environ.get("QUERY_STRING", ""))), _form(environ)
    )


def _form(environ: Environ) -> dict[str, str]:
    try:
        length = min(int(environ.get("CONTENT_LENGTH") or 0), MAX_FORM_BYTES)
    except ValueError:
        return {}
    return form_of(environ["wsgi.input"].read(length)) if environ["REQUEST_METHOD"] == "POST" and length > 0 else {}


def form_of(body: bytes) -> dict[str, str]:
    """Return the fields of a form that a browser sends."""
    return dict(parse_qsl(body[:MAX_FORM_BYTES].decode("utf-8", "replace")))


async def _read_form(scope: Scope, receive: Receive) -> dict[str, str]:
    body, more = b"", scope["method"] == "POST"
    while more and len(body) < MAX_FORM_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = bool(message.get("more_body", False))
    return form_of(body)


def request_from_scope(scope: Scope, path: str, form: Mapping[str, str] | None = None) -> OperationsRequest:
    """Return the request of an ASGI scope; ``path`` is the one below the mount."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
    return OperationsRequest(scope["method"], path, headers, query, form or {})


def path_below_mount(scope: Scope) -> str:
    """Return the path from where the application is mounted; empty without the slash at its end."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    # A proxy may have taken away what comes before the application's own mounts.
    for prefix in (root, root.removeprefix(str(scope.get("app_root_path", "")))):
        below = path.removeprefix(prefix)
        if below != path and (below == "" or below.startswith("/")):
            return below
    return path


def _forbidden() -> OperationsResponse:
    return OperationsResponse(403, (("content-type", "application/json"),), b'{"error":"not for you"}')


def redirect_to_slash(mount: str) -> OperationsResponse:
    """Return a redirect from where the application is mounted to its page."""
    return OperationsResponse(303, (("location", f"/{mount.strip('/')}/" if mount.strip("/") else "/"),), b"")


def _sized_headers(response: OperationsResponse) -> list[tuple[str, str]]:
    return [*response.headers, ("content-length", str(len(response.body)))]


def _encoded_headers(response: OperationsResponse) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in _sized_headers(response)]
