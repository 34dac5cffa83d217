"""What a request shows of its sender: the source address, the request id and the user agent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final

import uuid_utils

from otel_audit_exporter.errors import AuditConfigurationError, AuditError
from otel_audit_exporter.event.context import Scope, current_scope
from otel_audit_exporter.event.surroundings import Address, parse_address
from otel_audit_exporter.runtime.log import logger

Identity = Mapping[str, Any] | None

UNIX: Final = "unix"
_request_id = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}").fullmatch


class TrustedProxies:
    """Which peers are believed when they say for whom they ask.

    ``proxies``: addresses and networks (``"10.0.0.0/8"``); ``"unix"`` stands for a peer on a Unix socket, which
    has no address. Raises :class:`AuditConfigurationError` for what is neither.
    """

    def __init__(self, proxies: Iterable[str]) -> None:
        named = [proxies] if isinstance(proxies, str) else list(proxies)
        self._unix = UNIX in named
        try:
            self._networks: list[IPv4Network | IPv6Network] = [
                ip_network(str(name).strip(), strict=False) for name in named if name != UNIX
            ]
        except ValueError as error:
            raise AuditConfigurationError(f"trusted_proxies: {error}") from None

    def source(self, peer: str | None, forwarded_for: Iterable[str]) -> str | None:
        """Return the address that a request came from.

        That is the peer's, unless the peer is trusted: then the last one in ``X-Forwarded-For`` that is not. An entry
        that is no address ends the search, as nobody vouches for what stands before it.
        """
        address = parse_address(peer)
        if address is None and not self._unix:
            return header_text(peer)
        if address is not None and address not in self:
            return str(address)
        hops = ",".join(forwarded_for).split(",")
        for hop in reversed(hops):
            before = parse_address(hop)
            if before is None:
                break
            address = before
            if address not in self:
                break
        return None if address is None else str(address)

    def __contains__(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def header_text(header: str | None) -> str | None:
    """Return the value of a header; None where it is missing or blank, by any kind of blank that a client uses."""
    return (header or "").strip() or None


def request_id(given: str | None) -> str | None:
    """Return the id that a request brings, where it is fit to be recorded; else a new one (a UUIDv7).

    None where another middleware has given the request one, which holds here, too.
    """
    given = (given or "").strip()
    if _request_id(given):
        return given
    outer = current_scope()
    return None if outer is not None and "request_id" in outer.merged() else str(uuid_utils.uuid7())


class Identification:
    """The ``identify`` hook: who asks. Where it fails, the request goes on without that, and a log line says so."""

    def __init__(self, identify: Callable[..., Any] | None) -> None:
        if identify is not None and not callable(identify):
            raise AuditConfigurationError("identify must be a callable that takes the request and returns a mapping")
        self.hook = identify
        self._reported: set[str] = set()

    def take(self, scope: Scope, identity: Identity) -> None:
        """Add to the request's context what the hook returned."""
        try:
            if identity is not None:
                scope.update(**identity)
        except Exception as error:
            self.failed(error)

    def ask(self, scope: Scope, request: object) -> bool:
        """Ask the hook, and add what it returns; False where it knows nobody. It must be there."""
        assert self.hook is not None
        try:
            identity = self.hook(request)
        except Exception as error:
            self.failed(error)
            return True
        self.take(scope, identity)
        return identity is not None

    def failed(self, error: Exception) -> None:
        """Say, once for each cause, that the hook failed."""
        text = str(error) if isinstance(error, AuditError) else type(error).__name__
        if text not in self._reported and len(self._reported) < 100:
            self._reported.add(text)
            logger.error("audit: identify failed, and requests go on without what it would say: %s", text)
