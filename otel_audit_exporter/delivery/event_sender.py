"""The sender of a channel: offers events to the sink, and notes the outcome of each.

Every delivery goes through :meth:`EventSender.deliver`: by the SDK's worker, the relay, the pool. It decides which of
the events that the sink refused by themselves are parked (see :mod:`.refusals`), and when the channel pauses.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from otel_audit_exporter.delivery.backoff import OPEN_BACKOFF, Backoff
from otel_audit_exporter.delivery.batch import Entry, bodies_of, ranges_of
from otel_audit_exporter.delivery.bisect_insert import InsertOutcome, RejectedRow, attempt
from otel_audit_exporter.observability.write_timing import TimedSink
from otel_audit_exporter.outbox.ended import STORED
from otel_audit_exporter.outbox.log import Range
from otel_audit_exporter.outbox.stripe import EventRef
from otel_audit_exporter.runtime.clock import Clock

if TYPE_CHECKING:
    from otel_audit_exporter.delivery.channel import DeliveryChannel

_REMEMBERED_BATCHES: Final = 256
_CLOSE_TO_SECONDS: Final = 0.2


class EventSender:
    """Delivers the events of one channel, and knows how its sink does. Safe to use from any thread."""

    def __init__(self, channel: DeliveryChannel, jitter: random.Random) -> None:
        self._channel = channel
        self._jitter = jitter
        self.backoff: Backoff = OPEN_BACKOFF
        self.hangs = False  # the last attempt had no answer in time
        self.has_answered = False  # the sink, in this process
        self.last_progress = Clock.monotonic()
        self._at_work: set[object] = set()  # one for each attempt under way
        self._acknowledged: deque[tuple[list[Range], float]] = deque(maxlen=_REMEMBERED_BATCHES)

    @property
    def delivering(self) -> int:
        """How many senders are at work."""
        return len(self._at_work)

    def deliver_next(self, rows: int) -> int:
        """Offer the next events to the sink, up to ``rows``; return how many were offered."""
        entries = self._channel.cursor.take(rows)
        if entries:
            self.deliver(entries)
        self._channel.parking.park_invalid()
        return len(entries)

    def deliver_refused(self, limit: int, *, at_once: bool = False) -> None:
        """Offer events again that were refused by themselves: those that are due, or (``at_once``) all of them."""
        proved, due = self._channel.refusals.due(self._channel.counters.accepted_by_sink, at_once=at_once)
        if proved:
            self.deliver(self._channel.refusals.take(proved, limit), again=True, proved=True)
        else:  # those of the proved ones that pass say more about the others than one more try
            self.deliver(self._channel.refusals.take(due, limit), again=True)

    def deliver(
        self, entries: Sequence[Entry], *, again: bool = False, proved: bool = False, within: float | None = None
    ) -> None:
        """Offer these events once, ``within`` so many seconds, and note what became of each; the rest goes back."""
        if not entries:
            return
        if self._channel.closed:
            self.put_back(entries)
            return
        work = object()
        self._at_work.add(work)
        try:
            deadline = Clock.monotonic() + (within or self._channel.options.export_timeout_seconds)
            outcome = self._offer(entries, deadline, again=again, proved=proved)
            self._conclude(outcome, again=again)
        except BaseException:
            self._give_back(entries)
            raise
        finally:
            self._channel.refusals.let_go(entries)
            self._at_work.discard(work)
            self.last_progress = Clock.monotonic()
            self._channel.completions.attempt_ended()
            if self._channel.closed:  # meanwhile, and the sink may have opened a new connection since
                self._channel.sink.close()

    def _offer(self, entries: Sequence[Entry], deadline: float, *, again: bool, proved: bool) -> InsertOutcome[Entry]:
        if again or not self.backoff.is_open:
            self._channel.counters.count(retried=len(entries))
        sink = TimedSink(self._channel.sink, self._channel.write_timings, self._channel.on_write)
        accepted_before = self._channel.counters.accepted_by_sink
        in_doubt = not (proved or self.backoff.is_open)
        outcome = attempt(sink, entries, self._rows, deadline, self._store, doubts_sink=not proved)
        self.hangs = outcome.sink_failed and Clock.monotonic() >= deadline - _CLOSE_TO_SECONDS
        self._judge(outcome, accepted_before, in_doubt=in_doubt)
        return outcome

    def _rows(self, entries: Sequence[Entry]) -> Sequence[bytes]:
        return self._channel.rows_of(bodies_of(entries))

    def _store(self, entries: Sequence[Entry]) -> None:
        """Note that the sink has these. A kill before that means one more offer of ids that are known there."""
        ranges, now = ranges_of(entries), Clock.wall()
        self._channel.counters.last_success = now
        self._acknowledged.append((ranges, now))
        self._channel.end_events(
            STORED, ranges, lambda fresh: self._channel.counters.count(succeeded=fresh, accepted_by_sink=len(entries))
        )
        self._channel.refusals.forget(entries)
        self._channel.completions.notify(entries, settled=True)

    def _conclude(self, outcome: InsertOutcome[Entry], *, again: bool) -> None:
        """Open the back-off, or close it, by what came of an attempt."""
        now = Clock.monotonic()
        self.has_answered |= bool(outcome.stored or outcome.refused)
        if outcome.every_row_refused and again and self.backoff.is_open:
            pass  # rows that were refused before are refused again, while others pass: nothing new
        elif outcome.error is not None and outcome.sink_failed:
            example = outcome.waiting[0][4] if outcome.waiting else None
            self._channel.delivery_log.failing(outcome.error, self._channel.counters.pending, example)
            self._channel.counters.note_error(str(outcome.error))
            self.backoff = self.backoff.after_failure(
                outcome.error.verdict, outcome.error.retry_after, now, self._jitter
            )
            self._channel.completions.notify_all_of_attempt()
        elif outcome.stored:
            self.backoff = self.backoff.after_success(now)
            if self.backoff.is_open:
                self._channel.delivery_log.delivering()
        self._give_back(outcome.waiting)
        self._channel.completions.notify(outcome.waiting, settled=False)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Have events handed out again that were taken and not offered."""
        self._give_back(entries)
        self._channel.refusals.let_go(entries)

    def _give_back(self, entries: Sequence[Entry]) -> None:
        """Have the cursor hand out again what has not ended; what waits as refused is no longer the cursor's."""
        refusals = self._channel.refusals
        self._channel.cursor.give_back(
            [one for one in entries if one[1] not in one[0].ended and not refusals.contains(one)]
        )

    def _judge(self, outcome: InsertOutcome[Entry], accepted_before: int, *, in_doubt: bool) -> None:
        """Park what is proved to be at fault by itself; let the rest wait for a proof."""
        if not outcome.refused:
            return
        codes_count = self._channel.counters.accepted_by_sink > 0 and not (outcome.every_row_refused or in_doubt)
        park, hold = self._channel.refusals.judge(
            outcome.refused,
            accepted_before=accepted_before,
            accepted_now=self._channel.counters.accepted_by_sink,
            codes_count=codes_count,
        )
        if park:
            self._channel.parking.park_refused(park)
        if hold:
            self._hold(hold)

    def _hold(self, refused: Sequence[RejectedRow[Entry]]) -> None:
        example = refused[-1]
        self._channel.counters.note_error(str(example.error))
        self._channel.delivery_log.holding(example.error, len(refused), example.item[4])
        self._channel.completions.notify([one.item for one in refused], settled=False)

    def acknowledged_at(self, ref: EventRef) -> float | None:
        """Return when the sink acknowledged the event (seconds since the epoch), as far as it is remembered."""
        for ranges, at in reversed(list(self._acknowledged)):
            if any(stripe is ref[0] and first <= ref[1] <= last for stripe, first, last in ranges):
                return at
        return self._channel.counters.last_success
