"""Rows that the sink refused by themselves: which are parked, and which wait for a proof.

No error code is trusted alone. A row is parked where the sink has accepted another one since it first refused this
one; for the codes that are nearly always the value's, where it has accepted any row at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from otel_audit_exporter.delivery.backoff import refusal_delay
from otel_audit_exporter.delivery.batch import Entry
from otel_audit_exporter.delivery.bisect_insert import RejectedRow
from otel_audit_exporter.outbox.log import Range
from otel_audit_exporter.outbox.reader import read_event
from otel_audit_exporter.outbox.stripe import EventRef, Stripe
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.threads import Lock
from otel_audit_exporter.sinks.verdict import FOREIGN_KEY_CODES

_LEAST_GRACE_SECONDS: Final = 0.1


class Refusal(NamedTuple):
    """What is known of an event that the sink refused. Back-off goes by monotonic seconds, which no clock changes."""

    ref: EventRef
    code: str | None
    error: str
    attempts: int
    accepted_before: int  # rows that the sink had accepted when it first refused this one
    first_failed_at: float  # seconds since the epoch, for people
    first_failed: float  # monotonic
    next_try: float  # monotonic


class Refusals:
    """The refused events of one channel that wait. Safe to use from any thread.

    ``on_lost`` is called with the ranges of those that cannot be read any more.
    """

    def __init__(
        self,
        foreign_key_grace_seconds: float,
        jitter: random.Random,
        on_lost: Callable[[list[Range]], None] = lambda ranges: None,
    ) -> None:
        self._grace = foreign_key_grace_seconds
        self._jitter = jitter
        self._on_lost = on_lost
        self._lock = Lock()
        self._known: dict[tuple[Stripe, int], Refusal] = {}
        self._in_hand: set[tuple[Stripe, int]] = set()  # offered just now, or being parked

    def __len__(self) -> int:
        return len(self._known)

    @property
    def most_attempts(self) -> int:
        """How often the one that was tried most was refused."""
        return max((refusal.attempts for refusal in list(self._known.values())), default=0)

    def judge(
        self, refused: Sequence[RejectedRow[Entry]], *, accepted_before: int, accepted_now: int, codes_count: bool
    ) -> tuple[list[tuple[RejectedRow[Entry], Refusal]], list[RejectedRow[Entry]]]:
        """Return the rows that are proved to be at fault, with what is known of each, and the rows that wait.

        ``accepted_before``: what the sink had accepted when the attempt began. What passed since then on other
        threads may have passed after these refusals, and proves nothing yet. ``codes_count``: the table is not in
        doubt, so that some codes are enough.
        """
        park, hold = [], []
        for one in refused:
            refusal = self._note(one, accepted_now)
            by_code = codes_count and one.error.verdict.park_at_once
            before = refusal.attempts > 1 and accepted_before > refusal.accepted_before
            if (by_code or one.proved or before) and not self._may_yet_fit(refusal):
                park.append((one, refusal))
            else:
                hold.append(one)
        return park, hold

    def _note(self, one: RejectedRow[Entry], accepted_now: int) -> Refusal:
        stripe, number, segment, offset, _ = one.item
        now = Clock.monotonic()
        with self._lock:
            self._in_hand.add((stripe, number))
            known = self._known.get((stripe, number))
            attempts = 1 if known is None else known.attempts + 1
            delay = refusal_delay(attempts, self._jitter)
            if one.error.verdict.foreign_key:
                delay = min(delay, max(self._grace / 4, _LEAST_GRACE_SECONDS))
            if known is None:
                ref = (stripe, number, segment, offset)
                known = Refusal(ref, None, "", 0, accepted_now, Clock.wall(), now, 0.0)
            refusal = known._replace(code=one.error.code, error=str(one.error), attempts=attempts, next_try=now + delay)
            if one.proved:  # others passed since, which counts when its grace is over
                refusal = refusal._replace(accepted_before=accepted_now - 1)
            self._known[stripe, number] = refusal
            return refusal

    def _may_yet_fit(self, refusal: Refusal) -> bool:
        """Return whether the row that this one refers to may still come."""
        return refusal.code in FOREIGN_KEY_CODES and Clock.monotonic() - refusal.first_failed < self._grace

    def forget(self, entries: Sequence[Entry]) -> None:
        """Forget events that have ended."""
        if self._known:
            with self._lock:
                for stripe, number, *_ in entries:
                    self._known.pop((stripe, number), None)

    def contains(self, entry: Entry) -> bool:
        """Return whether an event waits here."""
        return (entry[0], entry[1]) in self._known

    def due(self, accepted: int, *, at_once: bool) -> tuple[list[Refusal], list[Refusal]]:
        """Return those that one more refusal would park, and the others whose next try is due."""
        now = Clock.monotonic()
        proved, due = [], []
        with self._lock:
            known = list(self._known.values())
        for refusal in known:
            if accepted > refusal.accepted_before and not self._may_yet_fit(refusal):
                proved.append(refusal)
            elif at_once or refusal.next_try <= now:
                due.append(refusal)
        return proved, due

    def take_one(self, ref: EventRef) -> list[Entry]:
        """Return one of these events, read again; nothing where it is none."""
        known = self._known.get((ref[0], ref[1]))
        return [] if known is None else self.take([known], 1)

    def take(self, refusals: Sequence[Refusal], limit: int) -> list[Entry]:
        """Return these events, read again; none that somebody has in hand. They are, until :meth:`let_go`."""
        entries: list[Entry] = []
        lost: list[Range] = []
        for refusal in refusals[:limit]:
            stripe, number, segment, offset = refusal.ref
            if not self._take_in_hand(stripe, number):
                continue
            body = read_event(segment, offset, number)
            if body is not None:
                entries.append((stripe, number, segment, offset, body))
                continue
            self._in_hand.discard((stripe, number))
            if not stripe.log.released:
                lost.append((stripe, number, number))
        if lost:
            self._lose(lost)
        return entries

    def _take_in_hand(self, stripe: Stripe, number: int) -> bool:
        with self._lock:
            if (stripe, number) in self._in_hand or number in stripe.ended:
                return False
            self._in_hand.add((stripe, number))
            return True

    def let_go(self, entries: Sequence[Entry]) -> None:
        """Let others take those of these events that wait here: the attempt with them is over."""
        if self._in_hand:
            with self._lock:
                self._in_hand.difference_update([(stripe, number) for stripe, number, *_ in entries])

    def _lose(self, lost: list[Range]) -> None:
        with self._lock:
            for stripe, number, _ in lost:
                self._known.pop((stripe, number), None)
        self._on_lost(lost)
