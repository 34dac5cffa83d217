"""A sink that fails on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.sinks.base import Sink, SinkError, seconds_left
from otel_audit_exporter.sinks.verdict import CUT_OFF, OUT_OF_TIME, Fault, Verdict

_REFUSED: Final = Verdict(Fault.RECORD, "correct the row")


@dataclass
class _Orders:
    """What is to go wrong; a number of None: every time."""

    failure: tuple[Verdict, str, str | None] = (_REFUSED, "", None)
    failures: int | None = 0
    losses: int | None = 0
    delay: float = 0.0
    hang: bool = False
    refuses: Callable[[Any], bool] | None = None
    refusal: Verdict = _REFUSED


class FaultySink:
    """Wrap any sink, and fail on request: for tests of what happens around a sink.

    Without orders it does what the wrapped sink does. Orders may be combined, and given while inserts are under
    way, from any thread; one insert goes through :meth:`delay`, :meth:`hang`, :meth:`fail_next`,
    :meth:`refuse_rows` and, after the wrapped sink has stored its rows, :meth:`lose_replies`, in this order.

    ::

        sink = FaultySink(my_sink)
        sink.fail_next(Verdict(Fault.TRANSIENT), times=3)
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._changed = threading.Condition()
        self._inserts = 0
        self._hanging = 0
        self._orders = _Orders()

    @property
    def name(self) -> str:
        """The wrapped sink's name."""
        return self._sink.name

    @property
    def target(self) -> str:
        """The wrapped sink's target."""
        return self._sink.target

    @property
    def inserts(self) -> int:
        """How often ``insert`` was called, with any outcome."""
        with self._changed:
            return self._inserts

    def fail_next(
        self, verdict: Verdict, times: int | None = 1, *, message: str = "told to fail", code: str | None = None
    ) -> None:
        """Fail the next ``times`` inserts (None: all, until :meth:`heal`) and store nothing of them."""
        with self._changed:
            self._orders.failure, self._orders.failures = (verdict, message, code), times

    def lose_replies(self, times: int | None = 1) -> None:
        """Store the rows of the next ``times`` inserts (None: all, until :meth:`heal`), and say that nobody knows."""
        with self._changed:
            self._orders.losses = times

    def delay(self, seconds: float) -> None:
        """Have every insert wait so long, until :meth:`heal`; one whose deadline passes meanwhile stores nothing."""
        with self._changed:
            self._orders.delay = seconds

    def hang(self) -> None:
        """Have every insert wait until :meth:`release`, even past its deadline, and go on then."""
        with self._changed:
            self._orders.hang = True

    def wait_until_hanging(self, inserts: int = 1, timeout: float = 10.0) -> None:
        """Return once so many inserts hang; raise ``TimeoutError`` where they do not in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._hanging >= inserts, timeout):
                raise TimeoutError(f"{self._hanging} inserts hang, not {inserts}")

    def release(self) -> None:
        """Let go of the inserts that hang, and hang no more."""
        with self._changed:
            self._orders.hang = False
            self._changed.notify_all()

    def refuse_rows(self, predicate: Callable[[Any], bool], verdict: Verdict = _REFUSED) -> None:
        """Refuse every batch with a row for which ``predicate`` is true, until :meth:`heal`, and store nothing of it.

        ``predicate`` is given the row as the value of its JSON, in general a dict.
        """
        with self._changed:
            self._orders.refuses, self._orders.refusal = predicate, verdict

    def heal(self) -> None:
        """Forget every order, and release the calls that hang."""
        with self._changed:
            self._orders = _Orders()
            self._changed.notify_all()

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Do what was ordered; else what the wrapped sink does."""
        self._wait(deadline)
        self._fail_as_told(rows)
        self._sink.insert(rows, deadline)
        if self._loses_reply():
            raise SinkError(CUT_OFF, "the reply was lost, as told")

    def close(self) -> None:
        """Close the wrapped sink."""
        self._sink.close()

    def renew_after_fork(self) -> None:
        """Renew the wrapped sink; the orders hold in the child too."""
        self._changed = threading.Condition()
        self._hanging = 0
        self._sink.renew_after_fork()

    def __repr__(self) -> str:
        return f"<FaultySink around {self._sink!r}>"

    def _wait(self, deadline: float) -> None:
        with self._changed:
            self._inserts += 1
            delay = self._orders.delay
        if delay:
            left = seconds_left(deadline)
            time.sleep(min(delay, left))
            if delay >= left:
                raise SinkError(OUT_OF_TIME, "delayed past the deadline, as told")
        with self._changed:
            self._hanging += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._orders.hang)
            self._hanging -= 1

    def _fail_as_told(self, rows: Sequence[bytes]) -> None:
        with self._changed:
            due = self._orders.failures is None or self._orders.failures > 0
            if due and self._orders.failures is not None:
                self._orders.failures -= 1
            verdict, message, code = self._orders.failure
            refuses, refusal = self._orders.refuses, self._orders.refusal
        if due:
            raise SinkError(verdict, message, code=code)
        if refuses is not None and any(refuses(loads_exact(row)) for row in rows):
            raise SinkError(refusal, "a row was refused, as told")

    def _loses_reply(self) -> bool:
        with self._changed:
            due = self._orders.losses is None or self._orders.losses > 0
            if due and self._orders.losses is not None:
                self._orders.losses -= 1
            return due
