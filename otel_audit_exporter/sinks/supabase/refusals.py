"""What went wrong with a request to PostgREST, as a :class:`SinkError` whose words hold no value of a row."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import orjson

from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.base import SinkError, no_file_left
from otel_audit_exporter.sinks.http_rules import classify_http, describe_http, parse_retry_after
from otel_audit_exporter.sinks.supabase.token import WRONG_KEY
from otel_audit_exporter.sinks.verdict import CUT_OFF, UNREACHABLE, Fault, Verdict

if TYPE_CHECKING:
    import httpx

_WRONG_ADDRESS: Final = Verdict(Fault.CONFIGURATION, "give SUPABASE_URL as https://<project>.supabase.co")
_NOT_TRUSTED: Final = Verdict(
    Fault.CONFIGURATION,
    "check the server's certificate and this host's clock, or name its CA in SSL_CERT_FILE",
)
_PROXY: Final = Verdict(Fault.TRANSIENT, "check the proxy that HTTPS_PROXY or HTTP_PROXY names")
_MIXED_UP: Final = replace(CUT_OFF, remedy="see which proxy or gateway on the way mixes up or repeats answers")
_NOT_POSTGREST: Final = Verdict(
    Fault.CONFIGURATION,
    "check that SUPABASE_URL is the project's own https:// address, and that nothing on the way answers",
)


def refusal(status: int, headers: httpx.Headers, body: bytes) -> SinkError:
    """Say what an answer is that proves nothing."""
    code, message = _error_in(body)
    return SinkError(
        classify_http(status, code, message),
        describe_http(status, code, message),
        code=code,
        status=status,
        retry_after=parse_retry_after(headers.get("retry-after"), Clock.wall()),
    )


def not_postgrest(status: int) -> SinkError:
    """Return the error for an answer that is not PostgREST's."""
    return SinkError(_NOT_POSTGREST, "the answer is not PostgREST's", status=status)


def another_answer(stored: Collection[int] = ()) -> SinkError:
    """Return the error for an answer that may be to another request. Only rows in ``stored`` are known to be stored."""
    return SinkError(_MIXED_UP, "the answer is to another request", stored=stored)


def transport_error(error: Exception) -> SinkError:
    """Say what a failure of the HTTP client is, without what it was about to send."""
    import httpx

    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return SinkError(_NOT_TRUSTED, "the server's certificate is not trusted")
        return no_file_left() or SinkError(UNREACHABLE, f"no connection ({error})")
    if isinstance(error, httpx.ProxyError):
        return SinkError(_PROXY, "the proxy does not let the request through")
    if isinstance(error, httpx.TimeoutException):
        return SinkError(CUT_OFF, "no answer in time")
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return SinkError(_WRONG_ADDRESS, "the address is not usable")
    if isinstance(error, httpx.LocalProtocolError | ValueError):
        return SinkError(WRONG_KEY, "the request cannot be made of this key and these names")
    return SinkError(CUT_OFF, f"the request failed ({type(error).__name__})")


def _error_in(body: bytes) -> tuple[str | None, str]:
    """Return the code and the words of PostgREST's JSON error; None and empty where the body is something else."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None, ""
    if not isinstance(content, dict):
        return None, ""
    code, message = content.get("code"), content.get("message")
    return code if isinstance(code, str) else None, message if isinstance(message, str) else ""
