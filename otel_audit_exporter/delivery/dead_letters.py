"""The dead letters as people handle them: look, correct the cause, retry, export, drop."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import IO, Any, Final, Protocol

import orjson

from otel_audit_exporter.delivery.bisect_insert import RejectedRow, attempt, no_row, unforeseen
from otel_audit_exporter.delivery.channel import DeliveryOptions, RowsOf
from otel_audit_exporter.errors import AuditDeliveryError
from otel_audit_exporter.event.encoded_event import decode, loads_exact
from otel_audit_exporter.observability.stats import DeliveryCounters
from otel_audit_exporter.outbox.dead_letter_store import DeadLetter, DeadLetterStore, Place, StoredDeadLetter, place_of
from otel_audit_exporter.sinks.base import Sink, SinkError
from otel_audit_exporter.sinks.verdict import Fault

_PAGE: Final = 500


class LetterChannel(Protocol):
    """What it takes to show dead letters and to offer them again; a delivery channel has all of it."""

    @property
    def sink(self) -> Sink:
        """What takes the rows."""

    @property
    def dead_letters(self) -> DeadLetterStore:
        """Where they are kept."""

    @property
    def options(self) -> DeliveryOptions:
        """How long the sink is waited for."""

    @property
    def identity(self) -> str:
        """What tells this channel's dead letters from those of others."""

    @property
    def books(self) -> DeliveryCounters:
        """What a stored one is counted in."""

    @property
    def dropped(self) -> set[str]:
        """The ids of those that were removed for good."""

    @property
    def closed(self) -> bool:
        """Whether nobody else closes the sink any more."""

    def row_of(self, body: bytes) -> bytes:
        """Return the sink's row of one event's bytes."""


class StoredLetters:
    """The dead letters of a destination without its outbox, for who only looks or retries: no thread, no own file."""

    def __init__(self, sink: Sink, rows_of: RowsOf, dead_letters: DeadLetterStore, options: DeliveryOptions) -> None:
        self.sink = sink
        self.dead_letters = dead_letters
        self.options = options
        self.identity = uuid.uuid4().hex
        self.books = DeliveryCounters()
        self.dropped: set[str] = set()
        self.closed = False
        self._rows_of = rows_of

    def row_of(self, body: bytes) -> bytes:
        """Return the sink's row of one event's bytes."""
        return self._rows_of((body,))[0]


class DeadLetters:
    """The parked events of one destination, those of other processes included. Iterate for all, oldest first."""

    def __init__(self, lane: LetterChannel) -> None:
        self._lane = lane

    def __iter__(self) -> Iterator[DeadLetter]:
        return (self._letter(parked) for page in self._pages() for parked in page)

    def __len__(self) -> int:
        return self._lane.dead_letters.count()

    def get(self, id: str) -> DeadLetter | None:  # noqa: A002  # the public name
        """Return the dead letter of this id, or None."""
        parked = self._lane.dead_letters.get(id)
        return None if parked is None else self._letter(parked)

    def retry(self, id: str | None = None) -> int:  # noqa: A002  # the public name
        """Offer one (None: every) dead letter to the sink again, now; return how many are in the table then.

        One that is refused again stays, with the new reason. Raises :class:`AuditDeliveryError` where the sink
        cannot be reached or its configuration is at fault: then nothing more is tried, and nothing changes.
        """
        if id is None:
            return sum(self._retry_page(page) for page in self._pages())
        parked = self._lane.dead_letters.get(id)
        return int(parked is not None and self._retry(parked))

    def retry_for(self, seconds: float) -> tuple[int, bool]:
        """Retry all as :meth:`retry` does, for about so long; return how many are stored, and whether it is through."""
        end, stored = time.monotonic() + seconds, 0
        for page in self._pages():
            if time.monotonic() >= end:
                return stored, False
            stored += self._retry_page(page)
        return stored, True

    def _pages(self) -> Iterator[list[StoredDeadLetter]]:
        """Yield them all, the oldest first, so many at a time that they are one request."""
        after: Place | None = None
        while page := self._lane.dead_letters.page(after, _PAGE):
            after = place_of(page[-1])
            yield page

    def _retry_page(self, page: Sequence[StoredDeadLetter]) -> int:
        """Offer several at once; what is refused is narrowed down. Return how many are stored."""
        stored = 0
        left: Sequence[StoredDeadLetter] = page

        def settle(offered: Sequence[StoredDeadLetter]) -> None:
            nonlocal stored
            stored += len(offered)
            self._settle(offered)

        while left:
            deadline = time.monotonic() + self._lane.options.export_timeout_seconds
            try:
                outcome = attempt(self._lane.sink, left, self._rows, deadline, settle, doubts_sink=False)
            finally:
                self._close_after_shutdown()
            self._park_again(outcome.refused)
            if outcome.error is not None and len(outcome.waiting) == len(left):
                raise AuditDeliveryError(outcome.waiting[0].record_id, "parked", str(outcome.error))
            left = outcome.waiting
        return stored

    def _rows(self, letters: Sequence[StoredDeadLetter]) -> list[bytes]:
        return [self._lane.row_of(letter.body) for letter in letters]

    def _park_again(self, refused: Sequence[RejectedRow[StoredDeadLetter]]) -> None:
        if refused:
            self._lane.dead_letters.park(
                replace(one.item, error=str(one.error), code=one.error.code, attempts=one.item.attempts + 1)
                for one in refused
            )

    def _settle(self, letters: Sequence[StoredDeadLetter]) -> None:
        there = self._lane.dead_letters.settle_all(letters, self._lane.identity)
        own = sum(one.parked_by == self._lane.identity for one in there)  # others have counted what is not there
        self._lane.books.count(failed=-own, recovered=len(there) - own, succeeded=len(there))

    def _close_after_shutdown(self) -> None:
        if self._lane.closed:  # nobody else closes what this has opened
            self._lane.sink.close()

    def export(self, file: IO[str] | str | os.PathLike[str]) -> int:
        """Write every dead letter to ``file`` as a line of JSON; return how many there were.

        ``file`` is open for text, or a path: a file that is made there is this user's alone, and one that is there
        already is written anew.
        """
        if isinstance(file, str | os.PathLike):
            with open(file, "w", encoding="utf-8", opener=_private) as opened:
                return self.export(opened)
        count = 0
        for letter in self:
            file.write(json.dumps(asdict(letter), default=str, ensure_ascii=False) + "\n")
            count += 1
        return count

    def drop(self, id: str) -> bool:  # noqa: A002  # the public name
        """Remove one dead letter for good; tell whether it was there. Export it first if it may be asked for."""
        dropped = self._lane.dead_letters.remove(id)
        if dropped:
            self._lane.dropped.add(id)  # its receipt must not take it for one that was stored
        return dropped

    def _letter(self, parked: StoredDeadLetter) -> DeadLetter:
        if parked.kind == "invalid":
            return parked.letter(None, _said(parked.body))
        try:
            row = _shown(self._lane.row_of(parked.body))
        except (ValueError, IndexError):  # no event: as its text
            row = parked.body.decode("utf-8", "backslashreplace")
        return parked.letter(row if isinstance(row, dict) else {"record": row})

    def _retry(self, parked: StoredDeadLetter) -> bool:
        try:
            self._offer(parked)
        except SinkError as error:
            if error.verdict.fault is not Fault.RECORD:
                raise AuditDeliveryError(parked.record_id, "parked", str(error)) from error
            again = replace(parked, error=str(error), code=error.code, attempts=parked.attempts + 1)
            self._lane.dead_letters.park([again])
            return False
        self._settle([parked])
        return True

    def _offer(self, parked: StoredDeadLetter) -> None:
        try:
            row = self._lane.row_of(parked.body)
        except Exception as error:
            raise no_row(error) from error
        try:
            self._lane.sink.insert([row], time.monotonic() + self._lane.options.export_timeout_seconds)
        except SinkError:
            raise
        except Exception as error:
            raise unforeseen(error) from error
        finally:
            self._close_after_shutdown()


def _said(body: bytes) -> dict[str, Any]:
    """Return what an event says, as far as it can be read."""
    try:
        return {name: value for name, value in decode(body).items() if value is not None}
    except (ValueError, IndexError):
        return {"record": body.decode("utf-8", "backslashreplace")}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _shown(row: bytes) -> Any:
    """Return a row's values; its text where it is nested deeper, or has longer numbers, than common tools take."""
    try:
        orjson.dumps(orjson.loads(row))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return row.decode()
    return loads_exact(row)
