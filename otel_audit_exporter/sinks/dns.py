"""Host names to addresses, within a deadline."""

from __future__ import annotations

import encodings.idna  # noqa: F401  # which a look-up would import, perhaps in the middle of a fork
import ipaddress
import socket
from collections.abc import Callable
from contextvars import copy_context

from otel_audit_exporter.runtime.threads import Event, Lock, new_thread
from otel_audit_exporter.sinks.base import seconds_left


class Resolver:
    """Ask the system for addresses in a thread of its own: ``getaddrinfo`` knows no timeout.

    A name that is being asked for is not asked for again, so an unreachable name server costs one thread.
    """

    def __init__(self) -> None:
        self._asking: dict[tuple[str, int], _Answer] = {}
        self._lock = Lock()

    def addresses(self, host: str, port: int, deadline: float) -> list[str]:
        """Return the addresses of ``host`` in the system's order of preference.

        Raises ``OSError`` where there are none, ``TimeoutError`` where there is no answer in time.
        """
        if _is_address(host):
            return [host]
        try:
            return self._ask(host, port).result(seconds_left(deadline))
        except TimeoutError:
            raise TimeoutError(f"no answer to the look-up of {host}") from None

    def _ask(self, host: str, port: int) -> _Answer:
        with self._lock:
            known = self._asking.get((host, port))
            if known is not None:
                return known
            answer = self._asking[host, port] = _Answer()
        run_aside(self._answer, host, port, answer)
        return answer

    def _answer(self, host: str, port: int, answer: _Answer) -> None:
        try:
            answer.addresses = _look_up(host, port)
        except (OSError, UnicodeError) as error:
            answer.error = OSError(f"the name {host} cannot be resolved ({type(error).__name__})")
        finally:
            answer.there.set()
            with self._lock:
                self._asking.pop((host, port), None)


class _Answer:
    """The addresses of a name, or why there are none, once they are there."""

    def __init__(self) -> None:
        self.there = Event()
        self.addresses: list[str] = []
        self.error: OSError | None = None

    def result(self, seconds: float) -> list[str]:
        if not self.there.wait(seconds):
            raise TimeoutError
        if self.error is not None:
            raise self.error
        return self.addresses


def run_aside(target: Callable[..., None], *args: object) -> None:
    """Run something that knows no timeout in a thread of its own, in the caller's context."""
    run = copy_context().run
    thread = new_thread(run, "audit-resolver", (target, *args))
    try:
        thread.start()
    except RuntimeError:  # no thread can be started while the interpreter ends
        target(*args)


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
