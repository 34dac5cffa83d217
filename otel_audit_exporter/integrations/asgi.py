"""ASGI: who asks, and from where, for every audit event of a request. For FastAPI, Starlette and any other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from otel_audit_exporter.event.context import Scope, audit_context
from otel_audit_exporter.event.mutating_routes import is_own, route_of
from otel_audit_exporter.event.seen_requests import SeenRequest, note_answer
from otel_audit_exporter.event.surroundings import found
from otel_audit_exporter.integrations.http_request import (
    Identification,
    Identity,
    TrustedProxies,
    header_text,
    request_id,
)
from otel_audit_exporter.integrations.request_coverage import request_begins, request_ends
from otel_audit_exporter.pipeline.response_wait import ResponseWait, response_wait
from otel_audit_exporter.runtime.awaiting import awaited

__all__ = ["AsgiRequest", "AuditMiddleware"]

ASGIScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[ASGIScope, Receive, Send], Awaitable[None]]


class AuditMiddleware:
    """Open an ``audit_context`` for every request and WebSocket: source address, request id, user agent, and user.

    Safe for concurrent requests: each has a context of its own, which holds in the tasks and threads that it starts,
    and which ``update_audit_context`` changes. In the profile ``ephemeral`` the response starts, and the last piece of
    a streamed one is sent, when the request's events are in the table; the call returns when those of background
    tasks are, and a WebSocket is closed when all of its are. ::

        app.add_middleware(AuditMiddleware, identify=who, trusted_proxies=["10.0.0.0/8"])

    :param app: the ASGI application.
    :param identify: called with the request (Starlette's ``Request`` or ``WebSocket``'s ``HTTPConnection`` where
        Starlette is installed, else :class:`AsgiRequest`; both give the keys of the ASGI scope, too), and returns the
        fields of :func:`audit_context` that it knows, or None; may be a coroutine function. Where it raises, the
        request goes on without them, and an error is logged once for each cause.
    :param trusted_proxies: addresses and networks of proxies whose ``X-Forwarded-For`` is believed (``"unix"``: the
        peer on a Unix socket); none by default.
    :raises AuditConfigurationError: a trusted proxy is no address, or ``identify`` cannot be called.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        identify: Callable[..., Identity | Awaitable[Identity]] | None = None,
        trusted_proxies: Iterable[str] = (),
    ) -> None:
        self.app = app
        self._identification = Identification(identify)
        self._proxies = TrustedProxies(trusted_proxies)
        self._request_class = _request_class()

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = _Headers(scope)
        async with audit_context(
            source_ip=found(self._proxies.source(_peer(scope), headers.all("x-forwarded-for"))),
            request_id=found(request_id(headers.get("x-request-id"))),
            user_agent=found(header_text(headers.get("user-agent"))),
        ) as opened:
            if self._identification.hook is not None:
                self._identification.take(opened, await self._ask(scope))
            seen = request_begins(opened, str(scope.get("method", "")), str(scope.get("path", "")))
            if seen is None:
                await self._serve(opened, scope, receive, send)
                return
            app, mount = self._routed_app(scope), str(scope.get("root_path", ""))
            await self._serve(opened, scope, receive, _noting(seen, send))
            if not is_own(scope.get("endpoint")):
                path = seen.path.removeprefix(mount)
                request_ends(seen, lambda: route_of(app, seen.method, path), debug=bool(getattr(app, "debug", False)))

    async def _serve(self, opened: Scope, scope: ASGIScope, receive: Receive, send: Send) -> None:
        wait = response_wait()
        if wait is None:
            await self.app(scope, receive, send)
        else:
            opened.collector = wait
            await self._serve_and_wait(wait, scope, receive, send)

    def _routed_app(self, scope: ASGIScope) -> Any:
        """Return the application that knows the routes: the one around, or the one inside of this middleware."""
        return self.app if hasattr(self.app, "routes") else scope.get("app", self.app)

    async def _serve_and_wait(self, wait: ResponseWait, scope: ASGIScope, receive: Receive, send: Send) -> None:
        async def send_after_wait(message: MutableMapping[str, Any]) -> None:
            kind = message["type"]
            is_last = kind == "http.response.body" and not message.get("more_body")
            if kind == "http.response.start":
                await wait.wait_async(may_raise=True)
            elif is_last or kind == "websocket.close":
                await wait.wait_async()
            await send(message)
            if is_last:
                wait.response_has_ended()

        try:
            await self.app(scope, receive, send_after_wait)
        finally:
            await wait.wait_async()  # for the events of background tasks and of failed requests
            wait.close()

    async def _ask(self, scope: ASGIScope) -> Identity:
        assert self._identification.hook is not None
        try:
            identity: Identity = await awaited(self._identification.hook(self._request_class(scope)))
            return identity
        except Exception as error:
            self._identification.failed(error)
            return None


def _noting(seen: SeenRequest, send: Send) -> Send:
    async def noting(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            note_answer(seen, int(message["status"]))
        await send(message)

    return noting


class _Headers(Mapping[str, str]):
    """The headers of an ASGI scope, by name in any case."""

    def __init__(self, scope: ASGIScope) -> None:
        self._pairs: list[tuple[bytes, bytes]] = list(scope.get("headers") or ())

    def all(self, name: str) -> list[str]:
        """Return every value of a header, in order."""
        wanted = name.lower().encode("latin-1")
        return [value.decode("latin-1") for key, value in self._pairs if key.lower() == wanted]

    def __getitem__(self, name: str) -> str:
        values = self.all(name)
        if not values:
            raise KeyError(name)
        return values[0]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.decode("latin-1").lower() for key, _ in self._pairs))

    def __len__(self) -> int:
        return len({key.lower() for key, _ in self._pairs})


class AsgiRequest(Mapping[str, Any]):
    """What ``identify`` gets where Starlette is not installed: the scope's keys, and its headers."""

    def __init__(self, scope: ASGIScope) -> None:
        self.scope = scope
        self.headers: Mapping[str, str] = _Headers(scope)

    @property
    def method(self) -> str:
        """The HTTP method; ``GET`` for a WebSocket."""
        return str(self.scope.get("method", "GET"))

    @property
    def path(self) -> str:
        """The path."""
        return str(self.scope.get("path", ""))

    def __getitem__(self, name: str) -> Any:
        return self.scope[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scope)

    def __len__(self) -> int:
        return len(self.scope)


def _request_class() -> Callable[[ASGIScope], Any]:
    try:
        from starlette.requests import HTTPConnection, Request
    except ImportError:
        return AsgiRequest
    return lambda scope: Request(scope) if scope["type"] == "http" else HTTPConnection(scope)


def _peer(scope: ASGIScope) -> str | None:
    client = scope.get("client")
    return str(client[0]) if client else None
