"""Events to an OpenTelemetry collector, by the official exporter for OTLP over HTTP.

The exporter itself says SUCCESS or FAILURE, calls a redirect a success, and tries again for as long as it may, which
the relay does better. So it is given a session that looks at every answer: only a collector's answer is a success,
every other answer becomes a fault with its cause, and no request is sent twice.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import requests
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.threads import Lock
from otel_audit_exporter.sinks.accepted_size import AcceptedSize
from otel_audit_exporter.sinks.base import SinkError, seconds_left
from otel_audit_exporter.sinks.forwarding import ForwardingSink
from otel_audit_exporter.sinks.http_rules import parse_retry_after
from otel_audit_exporter.sinks.idle_connections import LastUse
from otel_audit_exporter.sinks.verdict import CUT_OFF, OUT_OF_TIME, UNREACHABLE, Fault, Verdict

# Credentials that another package brings come as a session of its own: then nothing can be looked at.
_CREDENTIAL_PROVIDERS: Final = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_LOGS_CREDENTIAL_PROVIDER",
)
_LEAST_SECONDS: Final = 0.001
_ANSWER_BYTES: Final = 64 * 1024

_WRONG_ADDRESS: Final = Verdict(
    Fault.CONFIGURATION,
    "check OTEL_EXPORTER_OTLP_LOGS_ENDPOINT (with /v1/logs) or OTEL_EXPORTER_OTLP_ENDPOINT (without): it must be the"
    " receiver's own address for OTLP over HTTP",
)
_WRONG_KEY: Final = Verdict(Fault.CONFIGURATION, "give the receiver's key in OTEL_EXPORTER_OTLP_HEADERS")
_NOT_TRUSTED: Final = Verdict(
    Fault.CONFIGURATION,
    "check the server's certificate and this host's clock, or name its CA in OTEL_EXPORTER_OTLP_CERTIFICATE",
)
_PROXY: Final = Verdict(Fault.CONFIGURATION, "give the proxy's user and password in HTTPS_PROXY")
_RECORD: Final = Verdict(Fault.RECORD, "see the receiver's own log for what it objects to")
_TOO_LARGE: Final = Verdict(Fault.RECORD, "raise the receiver's limit of a request's size, or shorten the event")
_NOT_SENT: Final = Verdict(
    Fault.RECORD, "see the exporter's own log line: the event is too large, or cannot be encoded"
)
_VERDICTS: Final = {
    401: _WRONG_KEY,
    403: _WRONG_KEY,
    404: _WRONG_ADDRESS,
    405: _WRONG_ADDRESS,
    407: _PROXY,
    408: CUT_OFF,
    413: _TOO_LARGE,
    415: _WRONG_ADDRESS,
    421: OUT_OF_TIME,
    425: OUT_OF_TIME,
    429: OUT_OF_TIME,
}


class OTLPSink(ForwardingSink):
    """Send events to the receiver that ``endpoint``, else ``OTEL_EXPORTER_OTLP_*``, names.

    Raises ``ValueError`` for an address that cannot be one of OTLP over HTTP.
    """

    def __init__(self, resource: Resource | None, *, endpoint: str | None, timeout_seconds: float) -> None:
        self._endpoint = endpoint
        self._timeout_seconds = timeout_seconds
        self._inherited: list[object] = []
        self._lock = Lock()
        self._closed = False
        self._size = AcceptedSize()
        self._session = _session()
        super().__init__(self._export_by(self._session), resource, name="otlp")
        if not self.target.lower().startswith(("http://", "https://")):
            raise ValueError(f"the endpoint is not of the form http://host:4318/v1/logs; {_WRONG_ADDRESS.remedy}")

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Export the events, in one request; raise :class:`SinkError` for any answer but a collector's success."""
        if not rows:
            return
        if seconds_left(deadline) == 0:
            raise SinkError(OUT_OF_TIME, "no time left to send")
        session = self._opened()
        if session is None:
            self.export(rows)
            return
        size = sum(map(len, rows))
        with session.until(deadline) as exchange:
            try:
                self.export(rows)
                self._size.note(size)
                return
            except Exception as error:
                refusal = exchange.refusal
                no_record = isinstance(error, SinkError) and error.verdict.fault is Fault.RECORD
                if refusal is None and (exchange.asked or no_record):
                    raise
        if refusal is None and (self._closed or session is not self._session):
            refusal = SinkError(OUT_OF_TIME, "the exporter was shut down meanwhile")
        if refusal is not None:
            raise self._size.judged(refusal, len(rows), size)
        raise SinkError(_NOT_SENT, "the exporter does not send the event")

    def close(self) -> None:
        """Close every connection; a later insert opens a new one."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            super().close()

    def renew_after_fork(self) -> None:
        """Forget the parent's connections, which stay referenced so that nothing closes them."""
        self._inherited.append(self._exporter)
        self._lock = Lock()
        self._renew()

    def __repr__(self) -> str:
        return f"<OTLPSink {self.target}>"

    def _opened(self) -> _Session | None:
        with self._lock:
            if self._closed:
                self._renew()
            return self._session

    def _renew(self) -> None:
        self._session = _session()
        self._exporter = self._export_by(self._session)
        self._closed = False

    def _export_by(self, session: _Session | None) -> LogRecordExporter:
        return OTLPLogExporter(endpoint=self._endpoint, timeout=self._timeout_seconds, session=session)


class _Exchange(threading.local):
    """The time limit of the calling thread's request, and its outcome."""

    deadline: float = math.inf
    asked: bool = False
    refusal: SinkError | None = None


class _Session(requests.Session):
    """Asks once, before a deadline, and raises for everything but a collector's success."""

    def __init__(self) -> None:
        super().__init__()
        self.exchange = _Exchange()
        self._last_use = LastUse()

    @contextmanager
    def until(self, deadline: float) -> Iterator[_Exchange]:
        """Let requests of this thread take until ``deadline``, and return their outcome."""
        exchange = self.exchange
        exchange.deadline, exchange.asked, exchange.refusal = deadline, False, None
        try:
            yield exchange
        finally:
            exchange.deadline, exchange.refusal = math.inf, None

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        exchange = self.exchange
        exchange.asked = True
        response = None
        try:
            response = self._ask(*args, **kwargs)
            exchange.refusal = refusal_of(response, self._body(response))
        except (requests.RequestException, ValueError) as error:
            exchange.refusal = failure_of(error)
        if response is None or exchange.refusal is not None:
            raise exchange.refusal or AssertionError("no answer is a refusal")
        return response

    def _ask(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Ask again at once where the connection broke: a server closes a kept one just as it is used."""
        try:
            return self._ask_once(*args, **kwargs)
        except requests.ConnectionError as error:
            if type(error) is not requests.ConnectionError:
                raise
            return self._ask_once(*args, **kwargs)

    def _ask_once(self, *args: Any, **kwargs: Any) -> requests.Response:
        if self._last_use.long_ago:
            self.close()  # those that are idle; it opens new ones by itself
        self._last_use = LastUse()
        kwargs.setdefault("verify", self.verify)  # given here it takes precedence over REQUESTS_CA_BUNDLE
        kwargs |= {"timeout": max(seconds_left(self.exchange.deadline), _LEAST_SECONDS), "stream": True}
        return super().request(*args, **kwargs)

    def _body(self, response: requests.Response) -> bytes:
        """Read the answer byte by byte: a longer read would wait for all of it, however slowly it comes."""
        body = bytearray()
        for byte in response.iter_content(1):
            body += byte
            late = seconds_left(self.exchange.deadline) == 0
            if late or len(body) == _ANSWER_BYTES:
                response.close()
            if late:
                raise requests.ReadTimeout
            if len(body) == _ANSWER_BYTES:
                break
        return bytes(body)


def _session() -> _Session | None:
    return None if any(map(os.environ.get, _CREDENTIAL_PROVIDERS)) else _Session()


def refusal_of(response: requests.Response, body: bytes) -> SinkError | None:
    """Say what an answer is that does not prove that a collector has taken the records; None for one that does."""
    status = response.status_code
    if 200 <= status < 300:
        return _refusal_in(response, body)
    if status < 400:
        return SinkError(_WRONG_ADDRESS, "the address answers with a redirect: nothing was stored", status=status)
    verdict = _VERDICTS.get(status, _RECORD if status < 500 else CUT_OFF)
    retry_after = parse_retry_after(response.headers.get("retry-after"), Clock.wall())
    return SinkError(verdict, "the receiver refuses the request", status=status, retry_after=retry_after)


def _refusal_in(response: requests.Response, body: bytes) -> SinkError | None:
    kind = response.headers.get("content-type", "")
    if "html" in kind:
        return SinkError(_WRONG_ADDRESS, "a web page answers: nothing was stored", status=response.status_code)
    if "protobuf" not in kind:
        return None
    try:
        rejected = ExportLogsServiceResponse.FromString(body).partial_success.rejected_log_records
    except Exception:  # of the protobuf library's own kinds
        return None
    return SinkError(_RECORD, f"the receiver rejects {rejected} record(s)") if rejected > 0 else None


def failure_of(error: Exception) -> SinkError:
    """Say what a failure of the HTTP client is; its own words may hold the address, and a key in it."""
    if isinstance(error, requests.exceptions.SSLError):
        return SinkError(_NOT_TRUSTED, "the server's certificate is not trusted, or it speaks no TLS")
    if isinstance(error, requests.exceptions.ProxyError):
        return SinkError(UNREACHABLE, "the proxy does not let the request through")
    if isinstance(error, requests.ConnectTimeout):
        return SinkError(UNREACHABLE, "no connection in time")
    if isinstance(error, requests.exceptions.InvalidHeader | UnicodeError):
        return SinkError(_WRONG_KEY, "the request cannot be made of these headers")
    if isinstance(error, ValueError):
        return SinkError(_WRONG_ADDRESS, "the address is not usable")
    return SinkError(
        Verdict(Fault.TRANSIENT, UNREACHABLE.remedy, perhaps_stored=True), f"no answer ({type(error).__name__})"
    )
