"""One attempt to deliver a batch: insert it, and where it is refused narrow it down to the rows at fault.

Nothing is decided here about what becomes of a row that was refused; nothing is retried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, NoReturn, TypeVar

from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.base import Sink, SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict

T = TypeVar("T")

# So many rows refused one after the other, none accepted between them: then it is not the rows.
REFUSALS_IN_A_ROW: Final = 8
# So many rows in a row for which the sink takes too long, or which it fails at: then it is the sink.
PASSED_OVER_IN_A_ROW: Final = 3


class RejectedRow(NamedTuple, Generic[T]):
    """One item that was refused by itself; ``proved``: also after others had been accepted."""

    item: T
    error: SinkError
    proved: bool


@dataclass
class InsertOutcome(Generic[T]):
    """What became of the items of one attempt: each is in one of the three lists."""

    stored: Sequence[T] = field(default_factory=list)
    refused: list[RejectedRow[T]] = field(default_factory=list)
    waiting: list[T] = field(default_factory=list)
    error: SinkError | None = None  # why the rest waits
    every_row_refused: bool = False  # the error is that: it proves nothing against the rows that were refused
    time_was_up: bool = False  # when the error came

    @property
    def sink_failed(self) -> bool:
        """Whether the sink is at fault. It is not where it took rows until the time was up, and asks for no pause."""
        if self.error is None:
            return False
        return self.error.retry_after is not None or not (self.time_was_up and self.stored)


class _Stop(Exception):  # noqa: N818  # not an error: the end of an attempt
    """The attempt ends here: what is left waits."""


class _Run(Generic[T]):
    def __init__(
        self,
        sink: Sink,
        rows_of: Callable[[Sequence[T]], Sequence[bytes]],
        deadline: float,
        on_stored: Callable[[Sequence[T]], None],
        doubts_sink: bool,
    ) -> None:
        self._sink = sink
        self._rows_of = rows_of
        self._deadline = deadline
        self._on_stored = on_stored
        self._doubts_sink = doubts_sink
        self._newest_first = False
        self._accepted = 0
        self._passed_over = 0
        self._attempt: InsertOutcome[T] = InsertOutcome()

    def run(self, items: Sequence[T]) -> InsertOutcome[T]:
        """Insert ``items``, and return what became of each."""
        with suppress(_Stop):
            self.narrow(items)
        if self._attempt.every_row_refused and self._attempt.waiting:
            self._try_the_last()
        if self._accepted and self._attempt.error is None:
            with suppress(_Stop):
                self._look_again()
        return self._attempt

    def _try_the_last(self) -> None:
        """Where the first items were all refused, see whether the last one passes before giving up."""
        *rest, last = self._attempt.waiting
        self._attempt.waiting = rest
        with suppress(_Stop):
            self.narrow([last])
        if self._accepted:  # then it is the rows after all
            self._attempt.every_row_refused, self._attempt.error = False, None
            self._attempt.waiting = []
            self._newest_first = True  # what is good in the rest may lie behind many that are refused
            with suppress(_Stop):
                if rest:
                    self.narrow(rest)

    def _look_again(self) -> None:
        """Offer once more the rows that were refused before any other passed: the table may work by now."""
        for one in [one for one in self._attempt.refused if not one.proved]:
            error = self._insert([one.item])
            if error is not None and error.verdict.fault is not Fault.RECORD:
                self._stop(error, ())
            at = self._attempt.refused.index(one)
            self._attempt.refused[at : at + 1] = [] if error is None else [RejectedRow(one.item, error, proved=True)]

    def narrow(self, items: Sequence[T], refused_at: int | None = None, known_bad: bool = False) -> bool:
        """Insert ``items``, or else their halves; return whether all were stored.

        ``refused_at``: how many rows had been accepted when these were first refused. ``known_bad``: a row at
        fault is among them, so that trying them together is a request for nothing.
        """
        by_record = True
        if not known_bad or len(items) == 1:
            accepted = self._accepted
            items, error = self._insert_all(items)
            if error is None:
                return True
            by_record = error.verdict.fault is Fault.RECORD
            refused_at = accepted if refused_at is None else refused_at
            if len(items) == 1 and by_record:
                self._refuse(items[0], error, refused_at)
                return False
            if len(items) == 1 and error.verdict.halve:
                self._pass_over(items[0], error)
                return False
            if len(items) == 1 or not (by_record or error.verdict.halve):
                self._stop(error, items)
        middle = len(items) // 2
        first, second = items[:middle], items[middle:]
        if self._newest_first:
            first, second = second, first
        try:
            first_stored = self.narrow(first, refused_at)
        except _Stop:
            self._attempt.waiting.extend(second)
            raise
        self.narrow(second, refused_at, known_bad=first_stored and by_record)
        return False

    def _insert_all(self, items: Sequence[T]) -> tuple[Sequence[T], SinkError | None]:
        """Insert ``items``, and again those that the sink passes over while it stores others; return the rest."""
        error = self._insert(items)
        while error is not None and error.stored:
            stored = frozenset(error.stored)
            items = [item for at, item in enumerate(items) if at not in stored]
            if error.verdict.fault is not Fault.RECORD:
                return items, error
            error = self._insert(items)
        return items, error

    def _insert(self, items: Sequence[T]) -> SinkError | None:
        if Clock.monotonic() >= self._deadline:
            self._stop(out_of_time(), items)
        try:
            rows = self._rows_of(items)
        except MemoryError as error:
            return unforeseen(error)
        except Exception as error:
            return no_row(error)
        try:
            self._sink.insert(rows, self._deadline)
        except SinkError as error:
            if error.stored:
                self._accept([items[at] for at in error.stored])
            return error
        except BaseException as error:  # after any exception the events wait, and all who wait are notified
            return unforeseen(error)
        self._accept(items)
        return None

    def _accept(self, items: Sequence[T]) -> None:
        self._accepted += len(items)
        self._attempt.stored = [*self._attempt.stored, *items] if self._attempt.stored else items
        self._on_stored(items)

    def _refuse(self, item: T, error: SinkError, refused_at: int) -> None:
        self._attempt.refused.append(RejectedRow(item, error, proved=self._accepted > refused_at))
        if self._doubts_sink and self._accepted == 0 and len(self._attempt.refused) >= REFUSALS_IN_A_ROW:
            self._attempt.every_row_refused = True
            self._stop(every_row_refused(error), ())

    def _pass_over(self, item: T, error: SinkError) -> None:
        """Let an item wait that may be too much for the sink by itself: it is nothing that the others wait for."""
        self._passed_over += 1
        if self._accepted == 0 and self._passed_over >= PASSED_OVER_IN_A_ROW:
            self._stop(error, [item])
        self._attempt.waiting.append(item)
        self._attempt.error = error

    def _stop(self, error: SinkError, waiting: Sequence[T]) -> NoReturn:
        self._attempt.waiting.extend(waiting)
        self._attempt.error = error
        self._attempt.time_was_up = Clock.monotonic() >= self._deadline
        raise _Stop


def attempt(
    sink: Sink,
    items: Sequence[T],
    rows_of: Callable[[Sequence[T]], Sequence[bytes]],
    deadline: float,
    on_stored: Callable[[Sequence[T]], None],
    *,
    doubts_sink: bool = True,
) -> InsertOutcome[T]:
    """Insert ``items`` once, before ``deadline`` (monotonic seconds); say what became of each.

    A refused batch is narrowed down by halves, in about ``2 * log2(n)`` requests for each row at fault. Where
    the first rows are all refused, and the last one too, the rest is not tried: then it is not the rows
    (``doubts_sink=False``: it is known to be them). ``on_stored`` is called with each part as soon as the sink
    has it.
    """
    return _Run(sink, rows_of, deadline, on_stored, doubts_sink).run(items)


def out_of_time() -> SinkError:
    """Return the error of an attempt whose time is up before it is through."""
    return SinkError(Verdict(Fault.TRANSIENT), "the time for one attempt is up (OTEL_AUDIT_EXPORT_TIMEOUT)")


def unforeseen(error: BaseException) -> SinkError:
    """Return the error for an unexpected exception of a sink. It is logged, and the rows are tried again."""
    verdict = Verdict(Fault.TRANSIENT, remedy="report it to whoever maintains the sink", perhaps_stored=True)
    return SinkError(verdict, f"the sink raised {type(error).__name__}", code=type(error).__name__)


def no_row(error: Exception) -> SinkError:
    """Return the error of an event that cannot be made a row: it must not keep the others from being sent."""
    verdict = Verdict(Fault.RECORD, remedy="see its bytes in the dead letters", park_at_once=True)
    return SinkError(verdict, "the event's bytes make no row", code=type(error).__name__)


def every_row_refused(error: SinkError) -> SinkError:
    """Return the error of a batch of which no row is accepted: held, as a fault of the table's."""
    remedy = error.verdict.remedy or "compare the table with what is written: `otel-audit check`"
    return SinkError(
        Verdict(Fault.CONFIGURATION, remedy=remedy),
        f"the sink refuses every row, so it is not the rows: {error.message}",
        code=error.code,
        status=error.status,
    )
