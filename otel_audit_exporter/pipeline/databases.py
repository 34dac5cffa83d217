"""What the names of databases stand for: a mapping, or a callable of the application's that is asked aside.

The callable may block or raise. It is asked on a thread of its own, and what it takes too long for holds up nobody
else: the answer is there for the next caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final

from otel_audit_exporter.delivery.sender_thread import be_untraced
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock, register_renewed
from otel_audit_exporter.runtime.threads import new_thread
from otel_audit_exporter.sinks.base import SinkError, seconds_left
from otel_audit_exporter.sinks.verdict import Fault, Verdict

LIMIT_SECONDS: Final = 5.0
_THREADS: Final = 4  # of which all but one wait for calls that do not return

DatabaseNames = Mapping[str, Mapping[str, Any]] | Callable[[str], Mapping[str, Any] | None]


class Databases:
    """The named databases of one pipeline; ``given`` is what ``configure_audit(databases=...)`` got."""

    def __init__(self, given: DatabaseNames | None) -> None:
        if given is not None and not (isinstance(given, Mapping) or callable(given)):
            raise AuditConfigurationError("databases: must be a mapping of name to settings, or a callable of a name")
        self.given = given
        self.known: dict[str, Mapping[str, Any]] = dict(given) if isinstance(given, Mapping) else {}
        self.addresses: set[str] = set()  # names that say an address, and need none to be kept
        self._asked = _AskedAside(given) if callable(given) else None

    def know(self, name: str, settings: Mapping[str, Any]) -> None:
        """Have a name stand for the address that it contains; only its key may change."""
        self.known[name] = settings
        self.addresses.add(name)

    @property
    def configured(self) -> bool:
        """Whether events may name a database."""
        return self.given is not None or bool(self.known)

    def settings_of(self, name: str, deadline: float) -> Mapping[str, Any]:
        """Return what a name stands for. Raises :class:`SinkError` where nobody knows it, or not yet."""
        known = self.known.get(name)
        if known is None and self._asked is not None:
            known = self._asked.ask(name, deadline)
        if known is None:
            raise unknown(name)
        return known


class _AskedAside:
    """Asks a callable on threads that nobody else needs."""

    def __init__(self, resolve: Callable[[str], Mapping[str, Any] | None]) -> None:
        self._resolve = resolve
        self._begin()
        register_renewed(self)

    def _begin(self) -> None:
        self._lock = ForkSafeLock()
        self._names: SimpleQueue[tuple[str, Future[Mapping[str, Any] | None]]] = SimpleQueue()
        self._asked: dict[str, tuple[Future[Mapping[str, Any] | None], float]] = {}
        self._threads = 0
        self._busy_since: dict[int, float] = {}  # by thread

    def renew_after_fork(self) -> None:
        """In a forked child: nobody was asked."""
        self._begin()

    def ask(self, name: str, deadline: float) -> Mapping[str, Any] | None:
        """Return the answer; raise :class:`SinkError` where it is not there at ``deadline``, or where it raised."""
        with self._lock:
            answer, since = self._asked.get(name) or self._put(name)
            self._start_where_needed()
        try:
            found = answer.result(seconds_left(deadline))
        except TimeoutError:
            if answer.done():  # the callable's own
                self._forget(name, answer)
                raise _raised(name, "TimeoutError") from None
            raise _late(name, Clock.monotonic() - since) from None
        except LookupError:
            self._forget(name, answer)
            return None
        except BaseException as error:
            self._forget(name, answer)
            raise _raised(name, type(error).__name__) from None
        self._forget(name, answer)
        return found

    def _put(self, name: str) -> tuple[Future[Mapping[str, Any] | None], float]:
        asked = self._asked[name] = (Future(), Clock.monotonic())
        self._names.put((name, asked[0]))
        return asked

    def _forget(self, name: str, answer: Future[Mapping[str, Any] | None]) -> None:
        with self._lock:
            if name in self._asked and self._asked[name][0] is answer:
                del self._asked[name]

    def _start_where_needed(self) -> None:
        """Start a thread where all that there are wait for calls that do not return."""
        stuck = sum(Clock.monotonic() - since > LIMIT_SECONDS / 10 for since in list(self._busy_since.values()))
        if self._threads > stuck or self._threads >= _THREADS:
            return
        self._threads += 1
        thread = new_thread(self._serve, "otel-audit-resolver", (self._threads,))
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, or there is no room for a thread
            self._threads -= 1

    def _serve(self, thread: int) -> None:
        be_untraced()
        names, busy = self._names, self._busy_since
        while True:
            name, answer = names.get()
            busy[thread] = Clock.monotonic()
            try:
                answer.set_result(self._resolve(name))
            except BaseException as error:
                with suppress(Exception):
                    answer.set_exception(error)
            finally:
                busy.pop(thread, None)


def unknown(name: str) -> SinkError:
    """Return the error of a name that nobody knows: held until somebody does."""
    remedy = f"give its settings under that name (`databases`), or run `otel-audit outbox drain --database {name}`"
    return SinkError(Verdict(Fault.CONFIGURATION, remedy), f"nobody here knows the database {name}")


def _raised(name: str, kind: str) -> SinkError:
    remedy = "see why `databases` raises for it"
    return SinkError(Verdict(Fault.CONFIGURATION, remedy), f"the database {name} cannot be resolved: {kind}")


def _late(name: str, seconds: float) -> SinkError:
    if seconds < LIMIT_SECONDS:
        return SinkError(Verdict(Fault.TRANSIENT), f"the database {name} is being resolved")
    remedy = f"see why `databases` does not return within {LIMIT_SECONDS:g} s for it"
    return SinkError(Verdict(Fault.CONFIGURATION, remedy), f"the database {name} cannot be resolved in time")
