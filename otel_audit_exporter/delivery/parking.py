"""Parking: how events get among the dead letters, and what becomes of those that cannot just now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from logging import ERROR
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from otel_audit_exporter.delivery.batch import Entry, ranges_of
from otel_audit_exporter.delivery.bisect_insert import RejectedRow
from otel_audit_exporter.delivery.refusals import Refusal
from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import INDEX
from otel_audit_exporter.event.invalid_event import kind_of, reasons_of
from otel_audit_exporter.event.serialization import split
from otel_audit_exporter.outbox.dead_letter_store import StoredDeadLetter
from otel_audit_exporter.outbox.ended import PARKED
from otel_audit_exporter.outbox.frames import INVALID_EVENT
from otel_audit_exporter.outbox.stripe import EventRef
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict

if TYPE_CHECKING:
    from otel_audit_exporter.delivery.channel import DeliveryChannel

_IMPATIENT_SECONDS: Final = 10.0  # after a wait that failed, nobody waits again for this time
PARKING_SECONDS: Final = 0.5  # for another process that has the dead letters in hand just now
_REMEDY: Final = "correct the call, and this event with `otel-audit dead-letters edit`"


class Parking:
    """Brings the events of one channel to the dead letters. Safe to use from any thread."""

    def __init__(self, channel: DeliveryChannel) -> None:
        self._channel = channel
        self._invalid: SimpleQueue[EventRef] = SimpleQueue()  # accepted here, and not parked yet
        self._patient_at = 0.0  # monotonic seconds: until then nobody waits for who holds the dead letters

    def expect_invalid(self, ref: EventRef) -> None:
        """Have an invalid event parked, before all that waits. Takes no lock."""
        self._invalid.put(ref)

    @property
    def expects_invalid(self) -> bool:
        """Whether an event that is wrong by itself was accepted here, and is not parked yet."""
        return not self._invalid.empty()

    def keep(self, letters: Sequence[StoredDeadLetter]) -> bool:
        """Store dead letters; False, with a line in the log, where they cannot be stored now."""
        channel = self._channel
        wait = PARKING_SECONDS if Clock.monotonic() >= self._patient_at else 0.0
        try:
            channel.dead_letters.waiting(wait).park(letters)
        except OutboxError as error:
            self._patient_at = Clock.monotonic() + _IMPATIENT_SECONDS
            channel.counters.note_error(str(error))
            message = "audit %s: %d event(s) cannot be parked now, and are tried again: %s. What to do: %s"
            remedy = "see which program has the file open, and whether the disk takes it"
            channel.rate_limited_log.say(
                ERROR, ("park", type(error)), message, channel.name, len(letters), error, remedy
            )
            return False
        return True

    def park_invalid(self) -> None:
        """Move events that are wrong by themselves to the dead letters; where that cannot be now, they wait."""
        channel = self._channel
        entries = channel.cursor.take_invalid()
        with suppress(Empty):
            while True:
                entries += channel.cursor.take_one(self._invalid.get_nowait(), INVALID_EVENT)
        if not entries:
            return
        if channel.closed or not self.keep([invalid_letter(entry[4], channel.identity) for entry in entries]):
            channel.cursor.give_back_invalid(entries)
            return
        for entry in entries:
            error = invalid_error(entry[4])
            channel.counters.note_error(str(error))
            channel.delivery_log.parked(error, 1, entry[4], kind_of(_reasons(entry[4])))
        self._end_parked(entries)

    def park_refused(self, refused: Sequence[tuple[RejectedRow[Entry], Refusal]]) -> None:
        """Park events that the sink refused: it is proved that each is at fault itself."""
        channel = self._channel
        now = Clock.wall()
        letters = [
            StoredDeadLetter(
                record_id_of(one.item[4]),
                one.item[4],
                refusal.error,
                refusal.code,
                refusal.attempts,
                refusal.first_failed_at,
                now,
                channel.identity,
            )
            for one, refusal in refused
        ]
        if not self.keep(letters):  # they wait with the refused ones, and are tried again
            channel.completions.notify([one.item for one, _ in refused], settled=False)
            return
        last = refused[-1][0]
        channel.counters.note_error(str(last.error))
        channel.delivery_log.parked(last.error, len(refused), last.item[4])  # who sees them parked finds the line
        self._end_parked([one.item for one, _ in refused])

    def _end_parked(self, entries: Sequence[Entry]) -> None:
        channel = self._channel
        channel.end_events(
            PARKED, ranges_of(entries), lambda fresh: channel.counters.count(failed=fresh, parked_ever=fresh)
        )
        channel.refusals.forget(entries)
        channel.completions.notify(entries, settled=True)

    def park_unsent(self, body: bytes, error: SinkError, reasons: str | None = None) -> None:
        """Park an event that cannot become a row. It never is in the outbox, from where it could be delivered.

        Raises :class:`OutboxError` where the dead letters cannot take it.
        """
        now, channel = Clock.wall(), self._channel
        letter = StoredDeadLetter(
            record_id_of(body), body, str(error), error.code, 1, now, now, channel.identity, reasons
        )
        channel.dead_letters.park([letter])
        channel.counters.count(submitted_elsewhere=1, failed=1, parked_ever=1)
        channel.counters.note_error(str(error))
        channel.delivery_log.parked(error, 1, body)


def invalid_letter(body: bytes, identity: str) -> StoredDeadLetter:
    """Return the dead letter of an invalid event."""
    now = Clock.wall()
    reasons = json.dumps(_reasons(body), ensure_ascii=False)
    return StoredDeadLetter(record_id_of(body), body, str(invalid_error(body)), None, 0, now, now, identity, reasons)


def invalid_error(body: bytes) -> SinkError:
    """Return what is wrong with an event, and what to do."""
    words = "; ".join(f"{field}: {reason}" for field, reason in _reasons(body).items())
    return SinkError(Verdict(Fault.RECORD, park_at_once=True, remedy=_REMEDY), f"invalid event: {words}")


def _reasons(body: bytes) -> dict[str, str]:
    with suppress(ValueError, IndexError, TypeError):
        return reasons_of(body)
    return {"event": "cannot be read"}


def record_id_of(body: bytes) -> str:
    """Return the record id of an event's bytes, or where they cannot be read a name that stays the same."""
    try:
        return str(loads_exact(split(body)[INDEX["record_id"]]))
    except (ValueError, IndexError):
        return f"unreadable-{blake2b(body, digest_size=8).hexdigest()}"
