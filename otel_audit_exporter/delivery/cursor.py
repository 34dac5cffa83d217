"""The one cursor over everything that waits: it hands out each event to one sender only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from otel_audit_exporter.delivery.batch import Batch, Entry
from otel_audit_exporter.outbox.frames import EVENT
from otel_audit_exporter.outbox.log import OutboxLog, Range
from otel_audit_exporter.outbox.reader import Read, StripeReader, find_event, read_event
from otel_audit_exporter.outbox.stripe import EventRef, Stripe
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.runtime.threads import Lock

LARGEST_BATCH_BYTES = 4 * 2**20


class DeliveryCursor:
    """Hands out what waits in some logs, the oldest first within each stripe. Safe to use from any thread.

    What could not be delivered is given back, and handed out again before anything else. ``on_lost`` is called with
    the ranges of events that cannot be read any more.
    """

    def __init__(self, on_lost: Callable[[OutboxLog, list[Range]], None]) -> None:
        self._on_lost = on_lost
        self._lock = Lock()
        self._logs: list[OutboxLog] = []
        self._readers: dict[Stripe, StripeReader] = {}
        self._again: deque[list[Entry]] = deque()
        self._invalid: deque[Entry] = deque()
        self._out_of_turn: set[tuple[Stripe, int]] = set()
        self._turn = 0

    def add(self, log: OutboxLog) -> None:
        """Hand out what is in this log, too."""
        with self._lock:
            if log not in self._logs:
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
            self._invalid = deque(entry for entry in self._invalid if id(entry[0]) not in mine)

    def take(self, max_rows: int, max_bytes: int = LARGEST_BATCH_BYTES) -> Sequence[Entry]:
        """Return the next batch; an empty one where nothing waits that nobody has."""
        with self._lock:
            if self._again:
                entries = self._again.popleft()
                if len(entries) > max_rows:
                    self._again.appendleft(entries[max_rows:])
                return entries[:max_rows]
            batch, read = self._fill(max_rows, max_bytes)
            while read and not batch:  # what was read is for no sink, or has ended
                batch, read = self._fill(max_rows, max_bytes)
            return batch

    def take_invalid(self) -> list[Entry]:
        """Return the events read so far that are wrong by themselves: they go to the dead letters, to no sink."""
        with self._lock:
            found, self._invalid = self._invalid, deque()
        return list(found)

    def give_back_invalid(self, entries: Sequence[Entry]) -> None:
        """Take such events back that cannot be parked now."""
        with self._lock:
            self._invalid.extend(entries)

    def _fill(self, max_rows: int, max_bytes: int) -> tuple[Batch, int]:
        """Read from each stripe in turn, so that no backlog keeps the others waiting; return how many bytes, too."""
        batch, size = Batch(), 0
        stripes = [(log, stripe) for log in self._logs for stripe in log.stripes]
        for place in range(len(stripes)):
            log, stripe = stripes[(self._turn + place) % len(stripes)]
            if size >= max_bytes or len(batch) >= max_rows:
                break
            size += self._read(log, stripe, batch, max_rows - len(batch), max_bytes - size)
        self._turn += 1
        return batch, size

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
        if got.invalid or got.unknown:
            self._put_apart(log, stripe, got)
        return got.bytes

    def _put_apart(self, log: OutboxLog, stripe: Stripe, got: Read) -> None:
        """Keep what is for no sink: events that are wrong by themselves, and what only a newer version knows."""
        for segment, number, offset, body in got.invalid:
            if (stripe, number) in self._out_of_turn:
                self._out_of_turn.discard((stripe, number))
            elif number not in stripe.ended:
                self._invalid.append((stripe, number, segment, offset, body))
        if got.unknown:
            logger.error(
                "audit: %d record(s) in the log %s are of a kind that this version does not know. What to do: "
                "run a newer version of otel_audit_exporter, which delivers them",
                got.unknown,
                log.path or "in memory",
            )

    def _are_open(self, stripe: Stripe, first: int, last: int) -> bool:
        """Return whether none of these has ended, and none was taken out of turn. All are checked at once."""
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

    def take_one(self, ref: EventRef, kind: int = EVENT) -> list[Entry]:
        """Return one event of this kind out of turn; nothing where somebody has it, or where it has ended."""
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
            body = read_event(segment, offset, number, kind)
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
        """Return whether something waits that nobody has."""
        with self._lock:
            if self._again:
                return True
            return any(self._left(stripe) for log in self._logs for stripe in log.stripes)

    def _left(self, stripe: Stripe) -> bool:
        reader = self._readers.get(stripe)
        return stripe.at[2] > (0 if reader is None else reader.number) and stripe.pending > 0

    def newest(self) -> list[Entry]:
        """Return the newest pending event that nobody has. Where all the oldest are refused, it may show why."""
        with self._lock:
            refs = [(stripe, number) for log in self._logs for stripe in log.stripes for number in self._newest(stripe)]
        for stripe, number in refs:
            found = find_event(stripe, number)
            entries = self.take_one((stripe, number, *found)) if found is not None else []
            if entries:
                return entries
        return []

    def _newest(self, stripe: Stripe) -> list[int]:
        """Return the newest number of a stripe that nobody has been given, if there is one."""
        reader = self._readers.get(stripe)
        passed = 0 if reader is None else reader.number
        for first, last in reversed(list(stripe.ended.missing(passed + 1, stripe.at[2]))):
            for number in range(last, first - 1, -1):
                if (stripe, number) not in self._out_of_turn:
                    return [number]
        return []
