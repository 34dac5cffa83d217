"""A total deadline for an httpx client, whose own timeouts are each for one read or write.

A reply that drips would keep a request alive for ever. So the network below the client's connection pools is wrapped:
each read, write and connect gets no more time than is left until the calling thread's deadline.
"""

from __future__ import annotations

import math
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpcore
import httpx

from otel_audit_exporter.sinks.base import seconds_left
from otel_audit_exporter.sinks.dns import Resolver

# Slices that one send() by TLS takes whole, so that a peer that reads slowly is noticed between them.
_WRITE_BYTES: Final = 16 * 1024


class Deadline(threading.local):
    """The calling thread's deadline, and whether a new connection was made under it."""

    at: float = math.inf
    connected: bool = False

    @contextmanager
    def until(self, at: float) -> Iterator[None]:
        """Let nothing in this thread take longer than until ``at``, a value of ``Clock.monotonic()``."""
        self.at, self.connected = at, False
        try:
            yield
        finally:
            self.at = math.inf

    def share(self, timeout: float | None, parts: int = 1) -> float:
        """Say how long one step may take; a step that comes too late gets 0."""
        left = seconds_left(self.at) / parts
        return left if timeout is None else min(left, timeout)


def keep_deadline(client: httpx.Client, deadline: Deadline) -> bool:
    """Have ``client`` obey ``deadline``, its proxies included; False where its insides are unknown.

    httpx gives no public way in that leaves the environment's proxies working.
    """
    transports = [getattr(client, "_transport", None), *getattr(client, "_mounts", {}).values()]
    pools = [getattr(transport, "_pool", None) for transport in transports if transport is not None]
    for pool in pools:
        backend = getattr(pool, "_network_backend", None)
        if pool is None or not isinstance(backend, httpcore.NetworkBackend):
            return False
        pool._network_backend = _Backend(backend, deadline)
    return bool(pools)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline
        self._resolver = Resolver()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that answers; none of several may use up all of the time."""
        self._deadline.connected = True
        addresses = self._addresses(host, port)
        for index, address in enumerate(addresses):
            share = self._time(timeout, len(addresses) - index)
            try:
                stream = self._inner.connect_tcp(address, port, share, local_address, socket_options)
                return _Stream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if address == addresses[-1]:
                    raise
        raise httpcore.ConnectError(f"the name {host} has no address")

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        self._deadline.connected = True
        stream = self._inner.connect_unix_socket(path, self._time(timeout), socket_options)
        return _Stream(stream, self._deadline)

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            return self._resolver.addresses(host, port, self._deadline.at)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error

    def _time(self, timeout: float | None, parts: int = 1) -> float:
        share = self._deadline.share(timeout, parts)
        if share <= 0:
            raise httpcore.ConnectTimeout("no time left to connect")
        return share


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        share = self._deadline.share(timeout)
        if share <= 0:
            raise httpcore.ReadTimeout("no time left to read")
        return self._inner.read(max_bytes, share)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        rest = memoryview(buffer)
        while rest:
            share = self._deadline.share(timeout)
            if share <= 0:
                raise httpcore.WriteTimeout("no time left to write")
            rest = rest[self._send(rest, share) :]

    def _send(self, rest: memoryview, seconds: float) -> int:
        """Send as much as goes at once: a peer that gets many small pieces has much more to do."""
        plain = self._inner.get_extra_info("socket")
        if type(plain) is not socket.socket:  # TLS sends a slice whole
            self._inner.write(bytes(rest[:_WRITE_BYTES]), seconds)
            return min(len(rest), _WRITE_BYTES)
        try:
            plain.settimeout(seconds)
            return plain.send(rest)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        share = self._deadline.share(timeout)
        if share <= 0:
            self.close()
            raise httpcore.ConnectTimeout("no time left for TLS")
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, share), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
