"""Rows into a table of a Supabase project, by PostgREST's bulk insert.

The real supabase client makes the session and the address; the rows go over that session as the bytes they
are. Its own ``upsert`` would decode and encode them again, loses the HTTP status of a gateway's error, and
takes a captive portal's page for success.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

from otel_audit_exporter.event.joined import json_array
from otel_audit_exporter.runtime.fork_safety import register_renewed, renew_if_forked
from otel_audit_exporter.sinks.base import SinkError, not_stored, seconds_left, unproved
from otel_audit_exporter.sinks.dns import run_aside
from otel_audit_exporter.sinks.http_rules import classify_http, describe_http, parse_retry_after
from otel_audit_exporter.sinks.sqlstate_rules import UNIQUE_VIOLATION
from otel_audit_exporter.sinks.supabase.id_lookup import found_in, ids_of, questions, quoted_list, total_in
from otel_audit_exporter.sinks.verdict import CUT_OFF, OUT_OF_TIME, UNREACHABLE, Fault, Verdict

if TYPE_CHECKING:
    import httpx

    from otel_audit_exporter.sinks.supabase.http_deadline import Deadline

Token = str | Callable[[], str]

_PREFER: Final = "resolution=ignore-duplicates,return=minimal,count=exact"
_PREFER_PLAIN: Final = "return=minimal,count=exact"
_ANSWER_BYTES: Final = 64 * 1024
_KEEP_ALIVE_SECONDS: Final = 60.0
# A server may close a kept connection just as it is used; then the next one is tried, and at last a new one.
_STALE_CONNECTIONS: Final = 4

_WRONG_KEY: Final = Verdict(Fault.CONFIGURATION, "give the key or token as one line of printable ASCII")
_WRONG_ADDRESS: Final = Verdict(Fault.CONFIGURATION, "give SUPABASE_URL as https://<project>.supabase.co")
_NO_TOKEN: Final = Verdict(Fault.TRANSIENT, "see why the token callable fails")
_NOT_TRUSTED: Final = Verdict(
    Fault.CONFIGURATION,
    "check the server's certificate and this host's clock, or name its CA in SSL_CERT_FILE",
)
_PROXY: Final = Verdict(Fault.TRANSIENT, "check the proxy that HTTPS_PROXY or HTTP_PROXY names")
_WRONG_PROXY: Final = Verdict(Fault.CONFIGURATION, "give HTTPS_PROXY, HTTP_PROXY and ALL_PROXY as http://host:port")
_NO_CERTIFICATES: Final = Verdict(
    Fault.CONFIGURATION, "name a readable file of certificates in SSL_CERT_FILE (or a directory in SSL_CERT_DIR)"
)


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes


@dataclass
class RestSession:
    """The session of a supabase client, and the address that rows are posted to.

    It is closed when nobody uses it any more: a session that is closed under an insert leaves its socket open.
    """

    session: httpx.Client
    address: httpx.URL
    deadline: Deadline
    users: int = 0
    retired: bool = False


@dataclass(frozen=True)
class RestRequest:
    """Several requests by one deadline, on whatever connection is there."""

    rest: RestSession
    credentials: Mapping[str, str]
    deadline: float

    def ask(self, method: str, address: httpx.URL, headers: Mapping[str, str], body: bytes = b"") -> _Answer:
        """Send a request and return the answer; raise :class:`SinkError` where there is none in time."""
        import httpx

        for stale in range(_STALE_CONNECTIONS + 1):
            if seconds_left(self.deadline) == 0:
                raise SinkError(OUT_OF_TIME, "no time left to send")
            try:
                return self._send(method, address, headers, body)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
                if self.rest.deadline.connected or stale == _STALE_CONNECTIONS:
                    raise SinkError(CUT_OFF, "the connection broke") from error
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, RuntimeError, ValueError) as error:
                raise transport_error(error) from None
        raise AssertionError("the last attempt returns or raises")

    def _send(self, method: str, address: httpx.URL, headers: Mapping[str, str], body: bytes) -> _Answer:
        import httpx

        said = {"Accept": "application/json", "Accept-Encoding": "identity", **self.credentials, **headers}
        with self.rest.deadline.until(self.deadline):
            request = self.rest.session.build_request(
                method, address, headers=said, content=body or None, timeout=seconds_left(self.deadline)
            )
            response = self.rest.session.send(request, stream=True)
            answer = _Answer(response.status_code, response.headers, b"")
            try:
                return _Answer(answer.status, answer.headers, _body(response))
            except httpx.HTTPError:
                if method == "POST" and _proves_storage(answer):
                    return answer
                raise
            finally:
                response.close()


class SupabaseSink:
    """Insert rows through PostgREST; a row whose key is known is ignored.

    PostgREST says how many rows the table took. Where they are fewer than it was given, it is asked which of their
    ids the table has, and a row that is not there is refused.

    ``url``: the project's address. ``key``: any of its keys (``apikey`` header). ``token``: the token of a
    lesser role, or a callable that gives one, called once per insert in a thread of its own (it should be quick,
    and cache). ``columns``: those that every row has. ``key_columns``: what a unique constraint of the
    table is on, ``id_column`` that of them which is a row's id (the first). Proxies come from the environment.
    Raises ``ValueError`` for what cannot work.
    """

    name = "supabase"

    def __init__(
        self,
        url: str,
        key: str,
        *,
        token: Token | None = None,
        table: str = "pms_audit_log",
        schema: str = "public",
        columns: Sequence[str],
        key_columns: Sequence[str] = ("id",),
        id_column: str | None = None,
    ) -> None:
        # All that an insert needs, here and not in its middle: it takes its time, and in a child that is forked
        # while a module is being imported that import would never end.
        import certifi  # noqa: F401
        import supabase  # noqa: F401

        import otel_audit_exporter.sinks.supabase.http_deadline  # noqa: F401

        self._url = project_url(url)
        self._key = header_value(key)
        self._token = TokenProvider(token) if callable(token) else None if token is None else header_value(token)
        self._table = table
        self._schema = schema
        self._path = quote(table, safe="")
        self._plain_query = {"columns": quoted_list(columns)}
        self._query = {"on_conflict": quoted_list(key_columns), **self._plain_query}
        self._id_column = id_column or key_columns[0]
        self._rest: RestSession | None = None
        self._inherited: list[RestSession] = []
        self._lock = threading.Lock()
        register_renewed(self)

    @property
    def target(self) -> str:
        return f"{self._url} {self._schema}.{self._table}"

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Store every row whose key is not there yet, in one request and one transaction."""
        if not rows:
            return
        renew_if_forked()
        credentials = self._credentials(deadline)
        with self._connected() as rest:
            talk = RestRequest(rest, credentials, deadline)
            inserted = self._insert(talk, talk.rest.address, _PREFER, rows)
            if inserted is not None and inserted < len(rows):
                self._look_for(talk, rows)

    def close(self) -> None:
        """Close every connection; a later insert opens a new one."""
        with self._lock:
            rest, self._rest = self._rest, None
            if rest is None:
                return
            rest.retired = True
            unused = rest.users == 0
        if unused:
            rest.session.close()

    def renew_after_fork(self) -> None:
        """Forget the parent's connections, which stay referenced so that nothing closes them."""
        self._lock = threading.Lock()
        if isinstance(self._token, TokenProvider):
            self._token = TokenProvider(self._token.ask)
        if self._rest is not None:
            self._inherited.append(self._rest)
            self._rest = None

    def __repr__(self) -> str:
        return f"<SupabaseSink {self.target}>"

    def _insert(self, talk: RestRequest, address: httpx.URL, prefer: str, rows: Sequence[bytes]) -> int | None:
        """Insert rows; return how many of them the table took, where that is said."""
        headers = {"Content-Profile": self._schema, "Content-Type": "application/json", "Prefer": prefer}
        answer = talk.ask("POST", address, headers, json_array(rows))
        if not _proves_storage(answer):
            raise _refusal(answer)
        return total_in(answer.headers.get("content-range", ""))

    def _look_for(self, talk: RestRequest, rows: Sequence[bytes]) -> None:
        """See whether the rows that the table did not take just now are those that it had already."""
        there: list[int] = []
        try:
            for places, found in self._look_up(talk, ids_of(rows, self._id_column)):
                there.extend(place for place, is_there in zip(places, found, strict=True) if is_there)
        except SinkError as error:
            if error.verdict.fault is Fault.TRANSIENT:
                raise unproved(error, there) from None
            return  # who may not look has to believe the table
        if len(there) < len(rows) and not (len(rows) == 1 and self._is_known(talk, rows)):
            raise not_stored(there)

    def _look_up(self, talk: RestRequest, ids: Sequence[str]) -> Iterator[tuple[range, list[bool]]]:
        headers = {"Accept-Profile": self._schema, "Prefer": "count=exact"}
        for places, query in questions(ids, self._id_column):
            answer = talk.ask("GET", talk.rest.address.copy_with(query=query), headers)
            asked = [ids[place] for place in places]
            found = found_in(answer.body, answer.headers.get("content-range", ""), asked, self._id_column)
            if answer.status != 200 or found is None:
                raise _refusal(answer)
            yield places, found

    def _is_known(self, talk: RestRequest, rows: Sequence[bytes]) -> bool:
        """Tell by an insert that ignores nothing whether a row is there that the role does not see."""
        address = talk.rest.address.copy_with(params=self._plain_query)
        try:
            return self._insert(talk, address, _PREFER_PLAIN, rows) != 0
        except SinkError as error:
            if error.code == UNIQUE_VIOLATION:
                return True
            raise

    def _credentials(self, deadline: float) -> dict[str, str]:
        credentials = {"apikey": self._key}
        bearer = self._bearer(deadline)
        if bearer:
            credentials["Authorization"] = f"Bearer {bearer}"
        return credentials

    def _bearer(self, deadline: float) -> str | None:
        if self._token is None:
            # Keys of the new kind are no JWTs, and stand in the apikey header alone.
            return None if self._key.startswith("sb_") else self._key
        if isinstance(self._token, str):
            return self._token
        return self._token.answer(deadline)

    @contextmanager
    def _connected(self) -> Iterator[RestSession]:
        with self._lock:
            if self._rest is None:
                self._rest = self._connect()
            rest = self._rest
            rest.users += 1
        try:
            yield rest
        finally:
            with self._lock:
                rest.users -= 1
                unused = rest.retired and rest.users == 0
            if unused:
                rest.session.close()

    def _connect(self) -> RestSession:
        import httpx
        from supabase import ClientOptions, create_client

        from otel_audit_exporter.sinks.supabase.http_deadline import Deadline, keep_deadline

        session = make_session()
        # A sink that is dropped without close(), or that a late insert opened again, leaves no connection behind.
        weakref.finalize(self, _close_in, os.getpid(), session).atexit = False
        deadline = Deadline()
        keep_deadline(session, deadline)
        options = ClientOptions(httpx_client=session, auto_refresh_token=False, persist_session=False)
        client = create_client(self._url, self._key, options)
        address = httpx.URL(f"{client.rest_url}/{self._path}", params=self._query)
        return RestSession(client.postgrest.session, address, deadline)


class TokenProvider:
    """A token callable. One that hangs ends with the deadline, and costs one thread."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self.ask = ask
        self._lock = threading.Lock()
        self._asking: Future[str] | None = None

    def answer(self, deadline: float) -> str:
        """Return the token; raise :class:`SinkError` where there is none by ``deadline``."""
        with self._lock:
            future, is_new = self._asking or Future(), self._asking is None
            self._asking = future
        if is_new:
            run_aside(self._run, future)
        try:
            return future.result(seconds_left(deadline))
        except TimeoutError:
            raise SinkError(_NO_TOKEN, "the token callable does not return") from None

    def _run(self, future: Future[str]) -> None:
        token, refusal = "", None
        try:
            token = called_token(self.ask)
        except SinkError as error:
            refusal = error
        except BaseException as error:  # SystemExit, say, which would end this thread without a word
            refusal = SinkError(_NO_TOKEN, f"the token callable raised {type(error).__name__}")
        with self._lock:
            self._asking = None  # before anybody has this answer: the next insert asks anew
        if refusal is None:
            future.set_result(token)
        else:
            future.set_exception(refusal)


def make_session() -> httpx.Client:
    """Return a session with the environment's certificates and proxies; a :class:`SinkError` where they are wrong."""
    import httpx

    limits = httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_ALIVE_SECONDS)
    try:
        return httpx.Client(http2=False, follow_redirects=False, limits=limits)
    except OSError:  # ssl's errors are such too
        raise SinkError(_NO_CERTIFICATES, "the certificates to trust cannot be read") from None
    except (httpx.InvalidURL, ValueError, ImportError):
        raise SinkError(_WRONG_PROXY, "the environment's proxy cannot be used") from None


def _close_in(pid: int, session: httpx.Client) -> None:
    if os.getpid() == pid:
        session.close()


def _body(response: httpx.Response) -> bytes:
    body = b""
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _ANSWER_BYTES:
            break
    return body


def _proves_storage(answer: _Answer) -> bool:
    """Say whether PostgREST itself answers that it has stored the rows.

    It sends its headers after the commit. 200 and 201 also come from captive portals and parked domains,
    which know neither of the headers below.
    """
    headers = answer.headers
    is_json = "json" in headers.get("content-type", "json")
    is_postgrest = (
        "preference-applied" in headers
        or "content-range" in headers
        or headers.get("server", "").startswith("postgrest")
    )
    return answer.status in (200, 201) and is_json and is_postgrest


def _refusal(answer: _Answer) -> SinkError:
    code, message = error_in(answer.body)
    return SinkError(
        classify_http(answer.status, code, message),
        describe_http(answer.status, code, message),
        code=code,
        status=answer.status,
        retry_after=parse_retry_after(answer.headers.get("retry-after"), time.time()),
    )


def error_in(body: bytes) -> tuple[str | None, str]:
    """Return the code and the words of PostgREST's JSON error; None and empty where the body is something else."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None, ""
    if not isinstance(content, dict):
        return None, ""
    code, message = content.get("code"), content.get("message")
    return code if isinstance(code, str) else None, message if isinstance(message, str) else ""


def transport_error(error: Exception) -> SinkError:
    """Say what a failure of the HTTP client is, without what it was about to send."""
    import httpx

    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return SinkError(_NOT_TRUSTED, "the server's certificate is not trusted")
        return SinkError(UNREACHABLE, f"no connection ({error})")
    if isinstance(error, httpx.ProxyError):
        return SinkError(_PROXY, "the proxy does not let the request through")
    if isinstance(error, httpx.TimeoutException):
        return SinkError(CUT_OFF, "no answer in time")
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return SinkError(_WRONG_ADDRESS, "the address is not usable")
    if isinstance(error, httpx.LocalProtocolError | ValueError):
        return SinkError(_WRONG_KEY, "the request cannot be made of this key and these names")
    return SinkError(CUT_OFF, f"the request failed ({type(error).__name__})")


def called_token(token: Callable[[], Any]) -> str:
    """Return the token that a callable gives."""
    try:
        value = token()
    except Exception as error:  # the application's own code may raise anything
        raise SinkError(_NO_TOKEN, f"the token callable raised {type(error).__name__}") from None
    try:
        return header_value(value)
    except ValueError:
        raise SinkError(_WRONG_KEY, "the token callable gave no usable token") from None


def header_value(value: Any) -> str:
    """Return a key or token as it stands in a header; raise ``ValueError`` for one that cannot."""
    text = value.strip() if isinstance(value, str) else ""
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a key or token is a non-empty line of printable ASCII without spaces")
    return text


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
