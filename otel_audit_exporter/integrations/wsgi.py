"""WSGI: who asks, and from where, for every audit event of a request. For Flask, Django and any other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from otel_audit_exporter.event.context import StepwiseScope
from otel_audit_exporter.event.mutating_routes import route_of
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

__all__ = ["AuditMiddleware", "WsgiRequest"]

Environ = dict[str, Any]
WSGIApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class AuditMiddleware:
    """Open an ``audit_context`` for every request: source address, request id, user agent, and user.

    It holds while the application answers, and while a streamed answer is produced. In the profile ``ephemeral`` the
    response starts, and the last piece of a streamed one is sent, when the request's events are in the table. ::

        app.wsgi_app = AuditMiddleware(app.wsgi_app, identify=who)                       # Flask
        application = AuditMiddleware(get_wsgi_application(), identify=who)              # Django

    :param app: the WSGI application.
    :param identify: called with a :class:`WsgiRequest` (the environ's keys, and ``headers``), and returns the fields
        of :func:`audit_context` that it knows, or None. Where it raises, the request goes on without them, and an
        error is logged once for each cause.
    :param trusted_proxies: addresses and networks of proxies whose ``X-Forwarded-For`` is believed (``"unix"``: the
        peer on a Unix socket); none by default.
    :raises AuditConfigurationError: a trusted proxy is no address, or ``identify`` cannot be called.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        identify: Callable[..., Identity] | None = None,
        trusted_proxies: Iterable[str] = (),
    ) -> None:
        self.app = app
        self._identification = Identification(identify)
        self._proxies = TrustedProxies(trusted_proxies)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        steps = StepwiseScope(surroundings(environ, self._proxies))
        wait = response_wait()
        with steps.next() as scope:
            seen = request_begins(scope, str(environ.get("REQUEST_METHOD", "GET")), _path(environ))
            if seen is not None:
                start_response = _noting(seen, start_response)
            length = _Length(start_response)
            if self._identification.hook is not None:
                self._identification.ask(scope, WsgiRequest(environ))
            scope.collector = wait
            try:
                answer = self.app(environ, start_response if wait is None else length)
            except BaseException:
                _wait(wait)
                raise
        _wait(wait, may_raise=True)
        if isinstance(answer, list | tuple) or _is_file(answer, environ):
            self._end(seen, environ)
            return answer
        return _Answer(answer, steps, wait, length, lambda: self._end(seen, environ))

    def _end(self, seen: SeenRequest | None, environ: Environ) -> None:
        if seen is not None:
            app = getattr(self.app, "__self__", self.app)  # of Flask's `wsgi_app`: what it is of
            path = str(environ.get("PATH_INFO", ""))
            request_ends(seen, lambda: route_of(app, seen.method, path), debug=bool(getattr(app, "debug", False)))


def _noting(seen: SeenRequest, start_response: Callable[..., Any]) -> Callable[..., Any]:
    def noting(status: str, *arguments: Any) -> Any:
        note_answer(seen, int(status.split(" ", 1)[0]))
        return start_response(status, *arguments)

    return noting


def _path(environ: Environ) -> str:
    return f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"


class WsgiRequest(Mapping[str, Any]):
    """What ``identify`` gets: the environ's keys, and the request's headers by name in any case."""

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        self.headers: Mapping[str, str] = _Headers(environ)

    @property
    def method(self) -> str:
        """The HTTP method."""
        return str(self.environ.get("REQUEST_METHOD", "GET"))

    @property
    def path(self) -> str:
        """The path."""
        return str(self.environ.get("PATH_INFO", ""))

    def __getitem__(self, name: str) -> Any:
        return self.environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.environ)

    def __len__(self) -> int:
        return len(self.environ)


class _Headers(Mapping[str, str]):
    def __init__(self, environ: Environ) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        key = name.upper().replace("-", "_")
        value = self._environ.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}")
        if value is None:
            raise KeyError(name)
        return str(value)

    def __iter__(self) -> Iterator[str]:
        return (key[5:].replace("_", "-").title() for key in self._environ if key.startswith("HTTP_"))

    def __len__(self) -> int:
        return sum(key.startswith("HTTP_") for key in self._environ)


class _Answer:
    """An answer that is produced while it is sent: in the request's context, step by step."""

    def __init__(
        self,
        answer: Iterable[bytes],
        steps: StepwiseScope,
        wait: ResponseWait | None,
        length: _Length,
        end: Callable[[], None],
    ) -> None:
        self._answer = answer
        self._steps = steps
        self._wait = wait
        self._length = length
        self._end = end
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._steps.next():
            if self._parts is None:
                self._parts = iter(self._answer)
            try:
                part = next(self._parts)
            except StopIteration:
                _wait(self._wait)
                raise
        if self._length.is_reached_with(part):
            _wait(self._wait)
        return part

    def close(self) -> None:
        """End the answer."""
        close = getattr(self._answer, "close", None)
        if self._wait is not None:
            self._wait.response_has_ended()
        try:
            if close is not None:
                with self._steps.next():
                    close()
        finally:
            _wait(self._wait)
            self._end()


class _Length:
    """Knows from the headers how long an answer is: its last piece is the one with which it is whole."""

    def __init__(self, start_response: Callable[..., Any]) -> None:
        self._start_response = start_response
        self._left: int | None = None

    def __call__(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        """Start the response."""
        given = [value for name, value in headers if name.lower() == "content-length"]
        self._left = int(given[0]) if given and given[0].isdigit() else None
        return self._start_response(status, headers, *exc_info)

    def is_reached_with(self, part: bytes) -> bool:
        """Return whether the answer is complete with this piece."""
        if self._left is None:
            return False
        self._left -= len(part)
        return self._left <= 0


def _wait(wait: ResponseWait | None, *, may_raise: bool = False) -> None:
    if wait is not None:
        wait.wait(may_raise=may_raise)


def surroundings(environ: Mapping[str, Any], proxies: TrustedProxies) -> dict[str, Any]:
    """Return the context fields that a WSGI environ gives."""
    return {
        "source_ip": found(proxies.source(environ.get("REMOTE_ADDR"), [str(environ.get("HTTP_X_FORWARDED_FOR", ""))])),
        "request_id": found(request_id(environ.get("HTTP_X_REQUEST_ID"))),
        "user_agent": found(header_text(environ.get("HTTP_USER_AGENT"))),
    }


def _is_file(answer: object, environ: Environ) -> bool:
    """Return whether the server sends a file by itself, and must be given its own wrapper."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(answer, wrapper)
