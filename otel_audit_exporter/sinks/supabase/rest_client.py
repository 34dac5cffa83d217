"""The one client of a project's PostgREST: the sink's inserts, the readers' pages and the catalogs' questions.

The bytes that are sent are the caller's own: a client that makes them of objects would decode and encode every row
again. What the answers prove is the business of the callers.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import register_renewed, renew_if_forked
from otel_audit_exporter.sinks.base import SinkError, seconds_left
from otel_audit_exporter.sinks.idle_connections import IdleConnections
from otel_audit_exporter.sinks.supabase.binding import is_answer_to
from otel_audit_exporter.sinks.supabase.http_session import trusted_certificates
from otel_audit_exporter.sinks.supabase.refusals import another_answer, not_postgrest, refusal, transport_error
from otel_audit_exporter.sinks.supabase.token import Credentials, Token
from otel_audit_exporter.sinks.verdict import CUT_OFF, OUT_OF_TIME

if TYPE_CHECKING:
    import ssl

    import httpx

    from otel_audit_exporter.sinks.supabase.http_connection import HttpConnection

_SECONDS: Final = 30.0
_ANSWER_BYTES: Final = 64 * 1024
# A server may close a kept connection just as it is used; then the next one is tried, and at last a new one.
_STALE_CONNECTIONS: Final = 4

Parameters = Mapping[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class RestAnswer:
    """An answer, as far as it was read.

    ``proved``: it names the request that it answers. ``fresh``: it is the first one on its connection.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    proved: bool
    fresh: bool

    @property
    def stored(self) -> bool:
        """Say whether PostgREST itself answers that it has stored rows."""
        return _stored(self.status, self.headers)

    def refusal(self) -> SinkError:
        """Say what the answer is, where it is not the one that was hoped for."""
        return refusal(self.status, self.headers, self.body)


class RestClient:
    """The REST interface of a Supabase project, in one schema. Safe to use from several threads at once.

    ``url``: the project's address. ``key``: any of its keys (``apikey`` header). ``token``: the token of a lesser
    role, or a callable that gives one. Connections are made as they are needed, one for each caller at a time, and
    kept; proxies and certificates come from the environment. Raises ``ValueError`` for what cannot work.
    """

    def __init__(self, url: str, key: str, *, token: Token | None = None, schema: str = "public") -> None:
        # All that a request needs, here and not in its middle: it takes its time, and in a child that is forked
        # while a module is being imported that import would never end.
        import certifi  # noqa: F401

        import otel_audit_exporter.sinks.supabase.http_connection  # noqa: F401

        self.url: Final = project_url(url)
        self.schema: Final = schema
        self._token = token
        self._credentials = Credentials(key, token)
        self._certificates: ssl.SSLContext | None = None
        self._inherited: list[object] = []
        self._start()
        register_renewed(self)

    def use_key(self, key: str) -> None:
        """Ask with another key from now on."""
        self._credentials = Credentials(key, self._token)

    def address(self, path: str, parameters: Parameters = ()) -> httpx.URL:
        """Return the address of a table, or with an empty path that of the whole interface."""
        import httpx

        pairs = list(parameters.items() if isinstance(parameters, Mapping) else parameters)
        return httpx.URL(f"{self.url}/rest/v1/{quote(path, safe='')}", params=pairs)

    @contextmanager
    def requests(self, deadline: float) -> Iterator[RestRequests]:
        """Give what sends requests with the credentials of this moment, all of them before ``deadline``."""
        renew_if_forked()
        requests = RestRequests(self, self._credentials.headers(deadline), deadline)
        try:
            yield requests
        finally:
            requests.end_unproved()

    def get(self, path: str, parameters: Parameters = (), accept: str = "*/*") -> Any:
        """Return the JSON of an answer; raise :class:`SinkError` for any other answer and where there is none."""
        return self._get(path, parameters, {"Accept": accept})[0]

    def count(self, path: str, parameters: Parameters = ()) -> int:
        """Return how many rows there are in all; raise :class:`SinkError` where the answer has no number."""
        _, answer = self._get(path, parameters, {"Prefer": "count=exact"})
        total = answer.headers.get("content-range", "").rpartition("/")[2]
        if not total.isdigit():
            raise not_postgrest(answer.status)
        return int(total)

    def _get(self, path: str, parameters: Parameters, headers: Mapping[str, str]) -> tuple[Any, RestAnswer]:
        """Return the JSON of an answer, and the answer."""
        asked = {"Accept-Profile": self.schema, **headers}
        with self.requests(Clock.monotonic() + _SECONDS) as requests:
            answer = requests.ask("GET", self.address(path, parameters), asked, max_bytes=math.inf)
        if answer.status not in (200, 206):
            raise answer.refusal()
        try:
            return loads_exact(answer.body), answer
        except ValueError:
            raise not_postgrest(answer.status) from None

    def insert(self, table: str, parameters: Parameters, rows: bytes, prefer: str) -> SinkError | None:
        """Insert rows; return the refusal, or None where PostgREST confirms the insert."""
        headers = {"Content-Profile": self.schema, "Content-Type": "application/json", "Prefer": prefer}
        with self.requests(Clock.monotonic() + _SECONDS) as requests:
            answer = requests.ask("POST", self.address(table, parameters), headers, rows, alone=True)
        return None if answer.status in (200, 201) and "content-range" in answer.headers else answer.refusal()

    def delete(self, table: str, parameters: Parameters) -> int:
        """Delete the rows that fulfil all parameters; return how many that were. Raises :class:`SinkError`."""
        headers = {"Content-Profile": self.schema, "Prefer": "count=exact,return=minimal"}
        with self.requests(Clock.monotonic() + _SECONDS) as requests:
            answer = requests.ask("DELETE", self.address(table, parameters), headers, alone=True)
        gone = answer.headers.get("content-range", "").rpartition("/")[2]
        if answer.status not in (200, 204) or not gone.isdigit():
            raise answer.refusal()
        return int(gone)

    def close(self) -> None:
        """Close every connection, those in use after their request; a later request opens a new one."""
        self._open.clear()
        self._idle.close()

    def renew_after_fork(self) -> None:
        """Forget the parent's connections, which stay referenced so that nothing closes them."""
        self._inherited.append((self._open, list(self._idle)))
        self._credentials.renew_after_fork()
        self._start()

    def take_connection(self, *, kept: bool) -> HttpConnection:
        """Return a connection that nobody else uses: a kept one where there is one and that is wanted."""
        from otel_audit_exporter.sinks.supabase.http_connection import HttpConnection

        if kept and (idle := self._idle.take()) is not None:
            return idle
        if self._certificates is None:
            self._certificates = trusted_certificates()
        connection = HttpConnection(self._certificates)
        self._open.add(connection)
        return connection

    def keep_connection(self, connection: HttpConnection) -> None:
        """Keep a connection for the next request; one that was closed meanwhile ends here."""
        if connection in self._open:
            self._idle.keep(connection)
        else:
            connection.close()

    def end_connection(self, connection: HttpConnection) -> None:
        """Close a connection that is of no use any more."""
        self._open.discard(connection)
        connection.close()

    def _start(self) -> None:
        self._certificates = None
        self._open: set[HttpConnection] = set()
        self._idle: IdleConnections[HttpConnection] = IdleConnections(self._open.discard)
        # A client that is dropped without close(), or that a late request opened again, leaves no connection behind.
        weakref.finalize(self, _close_all, os.getpid(), self._open).atexit = False


@dataclass
class RestRequests:
    """Requests with one set of credentials and by one deadline, each on any connection that is there."""

    client: RestClient
    credentials: Mapping[str, str] = field(repr=False)
    deadline: float
    _unproved: HttpConnection | None = None

    def ask(
        self,
        method: str,
        address: httpx.URL,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        max_bytes: float = _ANSWER_BYTES,
        alone: bool = False,
    ) -> RestAnswer:
        """Send a request and return the answer; raise :class:`SinkError` where there is none in time.

        An answer to another request is passed over, and the request is sent once more on another connection. A
        connection whose answer does not say what it is to is closed, unless the caller trusts it. ``alone``: on a new
        connection, and with no preference but the caller's.
        """
        for stale in range(_STALE_CONNECTIONS + 1):
            if seconds_left(self.deadline) == 0:
                raise SinkError(OUT_OF_TIME, "no time left to send")
            self.end_unproved()
            connection = self.client.take_connection(kept=not alone and stale < _STALE_CONNECTIONS)
            marks = () if alone else connection.next_marks(method)
            answer = self._ask_on(connection, marks, method, address, headers, body, max_bytes)
            if answer is not None:
                return answer
        raise AssertionError("the last attempt returns or raises")

    def trust(self) -> None:
        """Keep the connection of the last answer, which the caller has found to be to its request."""
        if self._unproved is not None:
            self.client.keep_connection(self._unproved)
            self._unproved = None

    def end_unproved(self) -> None:
        """Close the connection of the last answer, unless that was known to be to its request."""
        if self._unproved is not None:
            self.client.end_connection(self._unproved)
            self._unproved = None

    def _ask_on(
        self,
        connection: HttpConnection,
        marks: tuple[str, ...],
        method: str,
        address: httpx.URL,
        headers: Mapping[str, str],
        body: bytes,
        max_bytes: float,
    ) -> RestAnswer | None:
        """Return the answer; None where a kept connection had been closed meanwhile, or gave an old answer."""
        try:
            head, content = connection.send(
                method,
                address,
                _all_headers(self.credentials, headers, marks),
                body,
                deadline=self.deadline,
                max_bytes=max_bytes,
                head_is_enough=lambda head: method == "POST" and _stored(head.status_code, head.headers),
            )
        except Exception as error:
            self.client.end_connection(connection)
            _raise_unless_stale(error, fresh=connection.fresh)
            return None
        except BaseException:
            self.client.end_connection(connection)
            raise
        proved = is_answer_to(marks, head.headers)
        if proved is False:
            self.client.end_connection(connection)
            if connection.fresh:
                raise another_answer()
            return None
        if proved:
            self.client.keep_connection(connection)
        else:
            self._unproved = connection
        return RestAnswer(head.status_code, head.headers, content, bool(proved), connection.fresh)


def _all_headers(credentials: Mapping[str, str], headers: Mapping[str, str], marks: tuple[str, ...]) -> dict[str, str]:
    every = {"Accept": "application/json", "Accept-Encoding": "identity", **credentials, **headers}
    preferences = [every["Prefer"], *marks] if "Prefer" in every else [*marks]
    return {**every, "Prefer": ",".join(preferences)} if preferences else every


def _raise_unless_stale(error: Exception, *, fresh: bool) -> None:
    """Raise what a failure means, unless a kept connection had been closed before the request came."""
    import httpx

    if isinstance(error, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError):
        if fresh:
            raise SinkError(CUT_OFF, "the connection broke") from error
        return
    if isinstance(error, httpx.HTTPError | httpx.InvalidURL | httpx.StreamError | RuntimeError | ValueError):
        raise transport_error(error) from None
    raise error


def project_url(url: str) -> str:
    """Return the project's address without the path of its REST interface."""
    import httpx

    try:
        parsed = httpx.URL(url.strip())
    except (httpx.InvalidURL, TypeError):
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("the URL is not of the form https://<project>.supabase.co")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ValueError("the URL holds more than scheme, host, port and path")
    return str(parsed).rstrip("/").removesuffix("/rest/v1")


def _stored(status: int, headers: httpx.Headers) -> bool:
    """Return whether PostgREST itself answers that it has stored rows.

    It sends its headers after the commit. 200 and 201 also come from captive portals and parked domains, which know
    neither of the headers below.
    """
    is_json = "json" in headers.get("content-type", "json")
    is_postgrest = (
        "preference-applied" in headers
        or "content-range" in headers
        or headers.get("server", "").startswith("postgrest")
    )
    return status in (200, 201) and is_json and is_postgrest


def _close_all(pid: int, connections: set[HttpConnection]) -> None:
    if os.getpid() == pid:
        for connection in connections:
            connection.close()
