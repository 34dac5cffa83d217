"""Threads that deliver: what every one of them is, and one that does what it is given."""

from __future__ import annotations

from collections.abc import Callable
from logging import ERROR
from queue import SimpleQueue
from typing import Final

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, create_key, get_value, set_value

from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.runtime.threads import Event, new_thread
from otel_audit_exporter.runtime.uwsgi import leave_signals_to_uwsgi

_DELIVERS: Final = create_key("otel-audit-delivers")


def words_of(error: BaseException) -> str:
    """Return an error of the outbox in its own words; of another only the kind, as its words may hold values."""
    return str(error) if isinstance(error, OutboxError) else type(error).__name__


def be_untraced() -> None:
    """Have no instrumentation record what this thread sends, as the SDK has it for its own."""
    leave_signals_to_uwsgi()
    attach(set_value(_DELIVERS, True, set_value(_SUPPRESS_INSTRUMENTATION_KEY, True)))


def delivers_here() -> bool:
    """Return whether this thread delivers: it must not wait for a delivery, in a logging handler that audits, say."""
    return get_value(_DELIVERS) is True


class SenderThread:
    """One more sending thread. It starts with the first work."""

    def __init__(self, channel: DeliveryChannel, name: str) -> None:
        self._channel = channel
        self._name = name
        self._work: SimpleQueue[tuple[Callable[[], None], Event] | None] = SimpleQueue()
        self._started = False

    def do(self, work: Callable[[], None]) -> Event:
        """Have ``work`` done; the event is set when it is over. Where no thread can start, nothing is done."""
        done = Event()
        if not self._started:
            try:
                new_thread(self._serve, self._name).start()
            except RuntimeError:  # the interpreter is ending, or there is no room for a thread
                done.set()
                return done
            self._started = True
        self._work.put((work, done))
        return done

    def end(self) -> None:
        """End the thread, after the work that it has."""
        self._work.put(None)

    def _serve(self) -> None:
        be_untraced()
        while True:
            asked = self._work.get()
            if asked is None:
                return
            work, done = asked
            try:
                work()
            except BaseException as error:
                message = "audit %s: delivery stumbled and goes on: %s"
                self._channel.rate_limited_log.say(ERROR, type(error), message, self._channel.name, words_of(error))
            finally:
                done.set()
