"""The one cursor over everything that waits: it hands out each event to one sender only."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from otel_audit_exporter.delivery.batch import Batch, Entry
from otel_audit_exporter.outbox.log import OutboxLog, Range
from otel_audit_exporter.outbox.reader import StripeReader, read_event
from otel_audit_exporter.outbox.stripe import EventRef, Stripe

LARGEST_BATCH_BYTES = 4 * 2**20


class DeliveryCursor:
    """Hands out what waits in some logs, the oldest first within each stripe. Safe to use from any thread.

    What could not be delivered is given back, and handed out again before anything else. ``on_lost`` is called with
    the ranges of events that cannot be read any more.
    """

    def __init__(self, on_lost: Callable[[OutboxLog, list[Range]], None]) -> None:
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._logs: list[OutboxLog] = []
        self._readers: dict[Stripe, StripeReader] = {}
        self._again: deque[list[Entry]] = deque()
        self._out_of_turn: set[tuple[Stripe, int]] = set()
        self._turn = 0

    def add(self, log: OutboxLog) -> None:
        """Hand out what is in this log, too."""
        with self._lock:
            self._logs.append(log)

    def remove(self, log: OutboxLog) -> None:
        """Hand out nothing more of this log."""
        with self._lock:
            if log in self._logs:
                self._logs.remove(log)
            for stripe in log.stripes:
                self._readers.pop(stripe, None)
            mine = set(map(id, log.stripes))
            kept = [[entry for entry in entries if id(entry[0]) not in mine] for entries in self._again]
            self._again = deque(entries for entries in kept if entries)

    def take(self, max_rows: int, max_bytes: int = LARGEST_BATCH_BYTES) -> Sequence[Entry]:
        """Return the next batch; an empty one where nothing waits that nobody has."""
        with self._lock:
            if self._again:
                entries = self._again.popleft()
                if len(entries) > max_rows:
                    self._again.appendleft(entries[max_rows:])
                return entries[:max_rows]
            return self._fill(max_rows, max_bytes)

    def _fill(self, max_rows: int, max_bytes: int) -> Batch:
        """Read from each stripe in turn, so that no backlog keeps the others waiting."""
        batch, size = Batch(), 0
        stripes = [(log, stripe) for log in self._logs for stripe in log.stripes]
        for place in range(len(stripes)):
            log, stripe = stripes[(self._turn + place) % len(stripes)]
            if size >= max_bytes or len(batch) >= max_rows:
                break
            size += self._read(log, stripe, batch, max_rows - len(batch), max_bytes - size)
        self._turn += 1
        return batch

    def _read(self, log: OutboxLog, stripe: Stripe, batch: Batch, max_rows: int, max_bytes: int) -> int:
        reader = self._readers.get(stripe)
        if reader is None:
            reader = self._readers[stripe] = StripeReader(stripe)
        if reader.number >= stripe.at[2]:
            return 0
        got = reader.read(max_rows, max_bytes)
        if got.lost:
            self._on_lost(log, [(stripe, first, last) for first, last in got.lost])
        for segment, numbers, offsets, bodies in got.parts:
            if self._are_open(stripe, numbers[0], numbers[-1]):
                batch.add(stripe, segment, numbers, offsets)
                batch.bodies += bodies
            else:
                self._add_open(stripe, segment, numbers, offsets, bodies, batch)
        return got.bytes

    def _are_open(self, stripe: Stripe, first: int, last: int) -> bool:
        """Tell whether none of these has ended, and nobody has taken one out of turn: told at once, not one by one."""
        if next(stripe.ended.missing(first, last), None) != (first, last):
            return False
        return not any(taken is stripe and first <= number <= last for taken, number in self._out_of_turn)

    def _add_open(
        self,
        stripe: Stripe,
        segment: object,
        numbers: list[int],
        offsets: list[int],
        bodies: list[bytes],
        batch: Batch,
    ) -> None:
        """Add those of a run that have not ended, and that nobody has taken out of turn."""
        kept = []
        for at, number in enumerate(numbers):
            if (stripe, number) in self._out_of_turn:
                self._out_of_turn.discard((stripe, number))
            elif number not in stripe.ended:
                kept.append(at)
        if kept:
            batch.add(stripe, segment, [numbers[at] for at in kept], [offsets[at] for at in kept])  # type: ignore[arg-type]
            batch.bodies += [bodies[at] for at in kept]

    def take_one(self, ref: EventRef) -> list[Entry]:
        """Return one event out of turn; nothing where somebody has it, or where it has ended."""
        stripe, number, segment, offset = ref
        with self._lock:
            for entries in self._again:
                for entry in entries:
                    if entry[0] is stripe and entry[1] == number:
                        entries.remove(entry)
                        if not entries:
                            self._again.remove(entries)
                        return [entry]
            reader = self._readers.get(stripe)
            passed = reader is not None and reader.number >= number
            if passed or (stripe, number) in self._out_of_turn or number in stripe.ended:
                return []
            body = read_event(segment, offset, number)
            if body is None:
                return []
            self._out_of_turn.add((stripe, number))
        return [(*ref, body)]

    def give_back(self, entries: Sequence[Entry]) -> None:
        """Take events back that were not delivered: they are handed out next."""
        if entries:
            with self._lock:
                self._again.appendleft(list(entries))

    @property
    def has_more(self) -> bool:
        """Tell whether something waits that nobody has."""
        with self._lock:
            if self._again:
                return True
            return any(self._left(stripe) for log in self._logs for stripe in log.stripes)

    def _left(self, stripe: Stripe) -> bool:
        reader = self._readers.get(stripe)
        return stripe.at[2] > (0 if reader is None else reader.number) and stripe.pending > 0

    def newest(self) -> list[Entry]:
        """Return the newest event where nobody has it: where the oldest are all refused, it may tell why."""
        with self._lock:
            stripes = [stripe for log in self._logs for stripe in log.stripes]
        for stripe in stripes:
            number = stripe.at[2]
            if number and self._left(stripe):
                return self._find(stripe, number)
        return []

    def _find(self, stripe: Stripe, number: int) -> list[Entry]:
        from otel_audit_exporter.outbox.reader import find_event

        found = find_event(stripe, number)
        return self.take_one((stripe, number, *found)) if found is not None else []
