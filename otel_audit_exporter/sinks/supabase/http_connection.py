"""One kept connection to PostgREST, for one request at a time."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping

import httpx

from otel_audit_exporter.sinks.base import seconds_left
from otel_audit_exporter.sinks.supabase.binding import marks_for, marks_of_requests
from otel_audit_exporter.sinks.supabase.http_deadline import Deadline, keep_deadline
from otel_audit_exporter.sinks.supabase.http_session import open_http_session


class HttpConnection:
    """A client of httpx with one connection, on which nothing takes longer than its deadline.

    Raises :class:`SinkError` where the environment's proxies or certificates are wrong.
    """

    def __init__(self, certificates: ssl.SSLContext) -> None:
        self._session = open_http_session(certificates)
        self._deadline = Deadline()
        keep_deadline(self._session, self._deadline)
        self._marks = marks_of_requests()

    def next_marks(self, method: str) -> tuple[str, ...]:
        """Return the preferences by which the next answer on this connection is known."""
        return marks_for(method, next(self._marks))

    @property
    def fresh(self) -> bool:
        """Say whether the last request had a new connection made."""
        return self._deadline.connected

    def send(
        self,
        method: str,
        address: httpx.URL,
        headers: Mapping[str, str],
        body: bytes,
        *,
        deadline: float,
        max_bytes: float,
        head_is_enough: Callable[[httpx.Response], bool],
    ) -> tuple[httpx.Response, bytes]:
        """Send a request; return the answer's head, and as much of its body as there is room for.

        Raises what httpx raises, except for an answer that breaks off after a sufficient head.
        """
        with self._deadline.until(deadline):
            request = self._session.build_request(
                method, address, headers=headers, content=body or None, timeout=seconds_left(deadline)
            )
            response = self._session.send(request, stream=True)
            try:
                return response, _body(response, max_bytes)
            except httpx.HTTPError:
                if head_is_enough(response):
                    return response, b""
                raise
            finally:
                response.close()

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _body(response: httpx.Response, max_bytes: float) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > max_bytes:
            break
    return bytes(body)
