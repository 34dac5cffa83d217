"""The dead letters as people handle them: look, correct the cause, retry, export, drop."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import IO, Any, Final, Protocol

import orjson

from otel_audit_exporter.delivery.bisect_insert import RejectedRow, attempt, no_row, unforeseen
from otel_audit_exporter.delivery.channel import DeliveryOptions, RowsOf
from otel_audit_exporter.errors import AuditConfigurationError, AuditDeliveryError
from otel_audit_exporter.event.correction import Correction, corrected_body
from otel_audit_exporter.event.encoded_event import decode, loads_exact
from otel_audit_exporter.event.invalid_event import unknown_of
from otel_audit_exporter.event.validation import EventValidator
from otel_audit_exporter.observability.losses import whoami
from otel_audit_exporter.observability.stats import DeliveryCounters
from otel_audit_exporter.outbox.dead_letter_store import DeadLetter, DeadLetterStore, Place, StoredDeadLetter, place_of
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.sinks.base import Sink, SinkError
from otel_audit_exporter.sinks.verdict import Fault

_PAGE: Final = 2000
_PATIENCE_SECONDS: Final = 5.0  # for who holds the dead letters just now


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
        """What distinguishes this channel's dead letters from those of others."""

    @property
    def counters(self) -> DeliveryCounters:
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

    def __init__(
        self,
        sink: Sink,
        rows_of: RowsOf,
        dead_letters: DeadLetterStore,
        options: DeliveryOptions,
        rules: EventValidator,
    ) -> None:
        self.sink = sink
        self.rules = rules
        self.dead_letters = dead_letters
        self.options = options
        self.identity = uuid.uuid4().hex
        self.counters = DeliveryCounters()
        self.dropped: set[str] = set()
        self.closed = False
        self._rows_of = rows_of

    def row_of(self, body: bytes) -> bytes:
        """Return the sink's row of one event's bytes."""
        return self._rows_of((body,))[0]


class DeadLetters:
    """The parked events of one destination, those of other processes included. Iterate for all, oldest first."""

    def __init__(self, channel: LetterChannel, rules: EventValidator | None = None) -> None:
        self._channel = channel
        self._rules = rules
        self.passed_over = 0  # by the last retry: events that are wrong by themselves
        self._letters = channel.dead_letters.waiting(_PATIENCE_SECONDS)

    def __iter__(self) -> Iterator[DeadLetter]:
        return (self._letter(parked) for page in self._pages() for parked in page)

    def __len__(self) -> int:
        return self._letters.count()

    def get(self, id: str) -> DeadLetter | None:  # noqa: A002  # the public name
        """Return the dead letter of this id, or None."""
        parked = self._letters.get(id)
        return None if parked is None else self._letter(parked)

    def retry(self, id: str | None = None) -> int:  # noqa: A002  # the public name
        """Offer one (None: every) dead letter to the sink again, now; return how many are in the table then.

        One that is refused again stays, with the new reason. An invalid one is passed over, which is
        logged: :meth:`edit` corrects it. Raises :class:`AuditDeliveryError` where the sink
        cannot be reached or its configuration is at fault: then nothing more is tried, and nothing changes.
        """
        self.passed_over = 0
        if id is None:
            stored = sum(self._retry_page(page) for page in self._pages())
            self._log_passed_over()
            return stored
        parked = self._letters.get(id)
        if parked is None:
            return 0
        if parked.kind == "invalid":
            self.passed_over = 1
            self._log_passed_over()
            return 0
        return int(self._retry(parked))

    def edit(
        self,
        id: str,  # noqa: A002  # the public name
        changes: Mapping[str, Any],
        reason: str,
        *,
        force: bool = False,
        by: str | None = None,
    ) -> DeadLetter:
        """Correct one dead letter, and return it; a retry then offers it to the sink.

        ``changes`` maps fields to their new values (None: none). The event is checked again as a call would be. Its
        old values are kept, and who (``by``; the user of this process), when, what and why (``reason``) is written
        into the row, under ``_audit.corrected``. Tenant, actor and time change only with ``force``. Raises
        :class:`AuditEventError` that names every field that is wrong, LookupError where there is no such dead letter,
        and ValueError where ``reason`` is empty.
        """
        if not reason.strip():
            raise ValueError("reason: say why the event is corrected")
        parked = self._letters.get(id)
        if parked is None:
            raise LookupError(f"there is no dead letter with the id {id}")
        if self._rules is None:
            raise AuditConfigurationError(
                "these dead letters were opened without the rules by which events are checked"
            )
        correction = Correction(by or whoami(), datetime.now(UTC).isoformat(timespec="seconds"), reason.strip())
        body = corrected_body(parked.body, changes, correction, self._rules, force=force)
        error = f"corrected by {correction.by}, and not retried yet: {correction.reason}"
        corrected = parked._replace(body=body, error=error, code=None, reasons=None)
        if not self._letters.correct(corrected):
            raise LookupError(f"there is no dead letter with the id {id} any more")
        return self._letter(corrected)

    def originals(self, id: str) -> list[dict[str, Any]]:  # noqa: A002  # as above
        """Return the contents of an event before its corrections, the oldest first; also when it is in the table."""
        return [_said(body) for body in self._letters.originals(id)]

    def _log_passed_over(self) -> None:
        if self.passed_over:
            logger.warning(
                "audit: %d dead letter(s) are wrong by themselves, and were passed over: correct them with "
                "`otel-audit dead-letters edit`",
                self.passed_over,
            )

    def retry_for(self, seconds: float) -> tuple[int, bool]:
        """Retry all as :meth:`retry` does, for about so long; return how many are stored, and whether it is through."""
        self.passed_over = 0
        end, stored = Clock.monotonic() + seconds, 0
        for page in self._pages():
            if Clock.monotonic() >= end:
                return stored, False
            stored += self._retry_page(page)
        return stored, True

    def _pages(self) -> Iterator[list[StoredDeadLetter]]:
        """Yield them all, the oldest first, so many at a time that they are one request."""
        after: Place | None = None
        while page := self._letters.page(after, _PAGE):
            after = place_of(page[-1])
            yield page

    def _retry_page(self, page: Sequence[StoredDeadLetter]) -> int:
        """Offer several at once; what is refused is narrowed down. Return how many are stored."""
        stored = 0
        left: Sequence[StoredDeadLetter] = [one for one in page if one.kind != "invalid"]
        self.passed_over += len(page) - len(left)

        def settle(offered: Sequence[StoredDeadLetter]) -> None:
            nonlocal stored
            stored += len(offered)
            self._settle(offered)

        while left:
            deadline = Clock.monotonic() + self._channel.options.export_timeout_seconds
            try:
                outcome = attempt(self._channel.sink, left, self._rows, deadline, settle, doubts_sink=False)
            finally:
                self._close_after_shutdown()
            self._park_again(outcome.refused)
            if outcome.error is not None and len(outcome.waiting) == len(left):
                raise AuditDeliveryError(outcome.waiting[0].record_id, "parked", str(outcome.error))
            left = outcome.waiting
        return stored

    def _rows(self, letters: Sequence[StoredDeadLetter]) -> list[bytes]:
        return [self._channel.row_of(letter.body) for letter in letters]

    def _park_again(self, refused: Sequence[RejectedRow[StoredDeadLetter]]) -> None:
        if refused:
            self._letters.park(
                one.item._replace(error=str(one.error), code=one.error.code, attempts=one.item.attempts + 1)
                for one in refused
            )

    def _settle(self, letters: Sequence[StoredDeadLetter]) -> None:
        there = self._letters.settle_all(letters, self._channel.identity)
        own = sum(one.parked_by == self._channel.identity for one in there)  # others have counted what is not there
        self._channel.counters.count(failed=-own, recovered=len(there) - own, succeeded=len(there))

    def _close_after_shutdown(self) -> None:
        if self._channel.closed:  # nobody else closes what this has opened
            self._channel.sink.close()

    def export(self, file: IO[str] | str | os.PathLike[str]) -> int:
        """Write every dead letter to ``file`` as a line of JSON; return how many there were.

        ``file`` is open for text, or a path: a file that is made there is this user's alone, and one that is there
        already is rewritten.
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
        """Remove one dead letter for good; return whether it was there. Export it first if it may be asked for."""
        dropped = self._letters.remove(id)
        if dropped:
            self._channel.dropped.add(id)  # its receipt must not take it for one that was stored
        return dropped

    def _letter(self, parked: StoredDeadLetter) -> DeadLetter:
        if parked.kind == "invalid":
            return parked.letter(None, _said(parked.body))
        try:
            row = _shown(self._channel.row_of(parked.body))
        except (ValueError, IndexError):  # no event: as its text
            row = parked.body.decode("utf-8", "backslashreplace")
        return parked.letter(row if isinstance(row, dict) else {"record": row})

    def _retry(self, parked: StoredDeadLetter) -> bool:
        try:
            self._offer(parked)
        except SinkError as error:
            if error.verdict.fault is not Fault.RECORD:
                raise AuditDeliveryError(parked.record_id, "parked", str(error)) from error
            again = parked._replace(error=str(error), code=error.code, attempts=parked.attempts + 1)
            self._letters.park([again])
            return False
        self._settle([parked])
        return True

    def _offer(self, parked: StoredDeadLetter) -> None:
        try:
            row = self._channel.row_of(parked.body)
        except Exception as error:
            raise no_row(error) from error
        try:
            self._channel.sink.insert([row], Clock.monotonic() + self._channel.options.export_timeout_seconds)
        except SinkError:
            raise
        except Exception as error:
            raise unforeseen(error) from error
        finally:
            self._close_after_shutdown()


def _said(body: bytes) -> dict[str, Any]:
    """Return the content of an event, as far as it can be read."""
    try:
        return {**{name: value for name, value in decode(body).items() if value is not None}, **unknown_of(body)}
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
