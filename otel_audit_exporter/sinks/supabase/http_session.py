"""An httpx client on the environment's certificates and proxies, or words that name what is wrong with them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final
from urllib.request import getproxies_environment

from otel_audit_exporter.sinks.base import SinkError, no_file_left
from otel_audit_exporter.sinks.verdict import Fault, Verdict

if TYPE_CHECKING:
    import httpx

_KEEP_ALIVE_SECONDS: Final = 60.0

_WRONG_PROXY: Final = Verdict(Fault.CONFIGURATION, "give HTTPS_PROXY, HTTP_PROXY and ALL_PROXY as http://host:port")
_WRONG_NO_PROXY: Final = Verdict(
    Fault.CONFIGURATION, "give NO_PROXY as names and addresses with commas between them, without ports: a.example,::1"
)
_NO_CERTIFICATES: Final = Verdict(
    Fault.CONFIGURATION, "name a readable file of certificates in SSL_CERT_FILE (or a directory in SSL_CERT_DIR)"
)


def trusted_certificates() -> ssl.SSLContext:
    """Read the certificates to trust; raise :class:`SinkError` where that fails."""
    import httpx

    try:
        return httpx.create_ssl_context()
    except OSError:  # ssl's errors are such too
        raise no_file_left() or SinkError(_NO_CERTIFICATES, "the certificates to trust cannot be read") from None


def open_http_session(certificates: ssl.SSLContext) -> httpx.Client:
    """Return a client with one connection, by HTTP/1.1; raise :class:`SinkError` where the proxies are wrong."""
    import httpx

    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEP_ALIVE_SECONDS)
    try:
        return httpx.Client(verify=certificates, http2=False, follow_redirects=False, limits=limits)
    except OSError:  # httpx reads the certificates once more for a proxy that is spoken to by TLS
        raise no_file_left() or SinkError(_NO_CERTIFICATES, "the certificates to trust cannot be read") from None
    except (httpx.InvalidURL, ValueError, ImportError):
        if _has_bad_exception():
            raise SinkError(_WRONG_NO_PROXY, "the environment's NO_PROXY cannot be read") from None
        raise SinkError(_WRONG_PROXY, "the environment's proxy cannot be used") from None


def _has_bad_exception() -> bool:
    """Return whether ``NO_PROXY`` has a name that httpx cannot read. The error of httpx does not name it."""
    import httpx

    for name in getproxies_environment().get("no", "").split(","):
        try:
            httpx.URL(name.strip() if "://" in name else f"all://*{name.strip()}")
        except (httpx.InvalidURL, ValueError):
            return True
    return False
