"""A lane: one sink, the outbox before it, and the books of both.

Accepting commits to the outbox; everything that delivers goes through :meth:`Lane.attempt`, whoever calls it
(the exporter on the SDK's thread, the relay on its own). An event leaves the outbox only when the sink has it,
or when it is in the dead letters.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
import uuid
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from logging import ERROR
from typing import Final

from otel_audit_exporter.delivery.backoff import OPEN_BACKOFF, Backoff, BackoffState, refusal_delay
from otel_audit_exporter.delivery.bisect_insert import InsertOutcome, RejectedRow, attempt
from otel_audit_exporter.delivery.in_flight import Claims, Numbers
from otel_audit_exporter.errors import AuditConfigurationError, AuditShutdownError, OutboxError
from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import INDEX
from otel_audit_exporter.event.serialization import split
from otel_audit_exporter.observability.delivery_log import DeliveryLog
from otel_audit_exporter.observability.health import AuditHealth, HealthThresholds, assess, broken, without_dropped
from otel_audit_exporter.observability.stats import AuditStats, DeliveryCounters
from otel_audit_exporter.observability.write_timing import TimedSink, WriteTimings
from otel_audit_exporter.outbox.checkpointer import housekeeper
from otel_audit_exporter.outbox.dead_letter_store import DeadLetterStore, StoredDeadLetter
from otel_audit_exporter.outbox.directory import LockedOutbox, OutboxDirectory
from otel_audit_exporter.outbox.store import (
    DamagedOutboxError,
    Entry,
    MemoryOutbox,
    OutboxFile,
    Refusal,
    bodies_of,
    body_of,
    numbers_of,
    seq_of,
)
from otel_audit_exporter.runtime.fork_safety import Lock, register_fork_aware
from otel_audit_exporter.runtime.log import RateLimitedLogger, logger
from otel_audit_exporter.sinks.base import Sink, SinkError
from otel_audit_exporter.sinks.verdict import FOREIGN_KEY_CODES, Fault, Verdict

AnyStore = OutboxFile | MemoryOutbox
RowsOf = Callable[[Sequence[bytes]], Sequence[bytes]]
_REMEMBERED_BATCHES: Final = 256
_COUNTED_OVERDUE: Final = 2000
# Connections of a parent process: SQLite's must neither be used nor closed in a child, so they are kept here.
_inherited: list[sqlite3.Connection] = []


@dataclass(frozen=True)
class LaneOptions:
    """How a lane keeps and delivers its events; sizes in bytes, times in seconds."""

    outbox: str = "disk"
    outbox_max_bytes: int = 2**30
    export_timeout_seconds: float = 10.0
    foreign_key_grace_seconds: float = 60.0
    schedule_delay_seconds: float = 0.2
    slow_write_seconds: float = 1.0

    @property
    def cycle_seconds(self) -> float:
        """One full export cycle: what is pending for longer is overdue."""
        return self.schedule_delay_seconds + self.export_timeout_seconds


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where an accepted event waits."""

    store: AnyStore
    seq: int


class Waiter:
    """Somebody who waits for one event: told when it is stored or parked, and when an attempt has ended."""

    def __init__(self, notify: Callable[[], None] | None = None) -> None:
        self._attempted = threading.Event()
        self._settled = threading.Event()
        self._notify = notify

    @property
    def settled(self) -> bool:
        """Whether the event is stored or parked."""
        return self._settled.is_set()

    def wait_for_attempt(self, seconds: float) -> bool:
        """Wait until an attempt has ended, or the seconds are over; tell whether it has ended."""
        return self._attempted.wait(seconds)

    def wait_until_settled(self, seconds: float) -> None:
        """Wait until the event is stored or parked, or the seconds are over."""
        self._settled.wait(seconds)

    def tell(self, *, settled: bool) -> None:
        """Say that an attempt has ended, or that the event is stored or parked."""
        self._attempted.set()
        if not settled:
            return
        self._settled.set()
        if self._notify is not None:
            with suppress(RuntimeError):  # the loop that waited is closed
                self._notify()


class Lane:
    """One sink with its outbox. Safe to use from any thread, and in a forked child.

    ``rows_of`` makes the sink's rows of events' bytes. ``folder`` is None where the outbox is in memory.
    ``identity`` tells this pipeline's dead letters from those of others.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        rows_of: RowsOf,
        *,
        folders: Sequence[OutboxDirectory],
        dead_letters: DeadLetterStore,
        options: LaneOptions,
        identity: str,
        jitter: random.Random | None = None,
    ) -> None:
        self.name = name
        self.sink = sink
        self.rows_of = rows_of
        self.options = options
        self.dead_letters = dead_letters
        self.identity = identity
        self.wake: Callable[[], None] = lambda: None
        self.on_write: Callable[[float, str], None] = lambda seconds, outcome: None
        self._folders = tuple(folders)
        self._jitter = jitter or random.Random()
        self._begin()
        self._open()
        register_fork_aware(self)

    # --- what is open -----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.books = DeliveryCounters()
        self.writes = WriteTimings(self.options.slow_write_seconds)
        self.announcer = DeliveryLog(self.name)
        self.repeats = RateLimitedLogger()
        self.gate: Backoff = OPEN_BACKOFF
        self.closed = False
        self.attempts_ended = 0
        self.idle = True  # the relay sleeps long, and the next event has to wake it
        self.hot_seen = 0
        self.hot_at = 0.0  # when the SDK's road was last busy; infinity while it is
        self.hot_failed_upto = 0
        self._state_lock = threading.RLock()
        self._progress = threading.Condition(self._state_lock)
        self._claims = Claims()
        self._waiters: dict[tuple[int, int], list[Waiter]] = {}
        self._first_refused: dict[tuple[int, int], int] = {}
        self._under_way: dict[int, tuple[AnyStore, Sequence[Entry]]] = {}
        self._lost: set[tuple[int, int]] = set()  # events that a damaged file held and nobody can read any more
        self._mender: int | None = None  # the thread that replaces such a file just now
        self.dropped: set[str] = set()  # dead letters that were removed for good, by hand
        self._acknowledged: deque[tuple[AnyStore, Sequence[int], float]] = deque(maxlen=_REMEMBERED_BATCHES)
        self._held: LockedOutbox | None = None
        self._adopted: list[tuple[OutboxDirectory, LockedOutbox]] = []
        self._left_in: dict[int, int] = {}  # events in each file that was taken over, by the id of its store
        self._own: AnyStore | None = None

    def _open(self) -> AnyStore:
        with self._state_lock:
            if self._own is None:
                if not self._folders:
                    self._own = MemoryOutbox(max_bytes=self.options.outbox_max_bytes)
                else:
                    self._held = self._folders[0].create(
                        durable=self.options.outbox == "fsync", max_bytes=self._quota()
                    )
                    self._held.store.on_growth = housekeeper.grown
                    self._own = self._held.store
            return self._own

    def _quota(self) -> int:
        return max(self.options.outbox_max_bytes - self.dead_letters.size_bytes(), 2**18)

    @property
    def on_disk(self) -> bool:
        """Tell whether the outbox survives the process."""
        return bool(self._folders)

    @property
    def folder(self) -> OutboxDirectory | None:
        """The folder of this destination; None where the outbox is in memory."""
        return self._folders[0] if self._folders else None

    @property
    def own(self) -> AnyStore:
        """The store that this process appends to; it is opened where it is not."""
        return self._own if self._own is not None else self._open()

    @property
    def opened(self) -> AnyStore | None:
        """The store that this process appends to; None before a fork's first event and after a shutdown."""
        return self._own

    @property
    def stores(self) -> list[AnyStore]:
        """The stores to deliver from: those taken over, then this process's own."""
        with self._state_lock:
            adopted: list[AnyStore] = [held.store for _, held in self._adopted]
            return adopted if self._own is None else [*adopted, self._own]

    def adopt_orphans(self) -> int:
        """Take over the outbox files of processes that are gone; return how many events were in them."""
        found = 0
        for folder in self._folders:
            for held in self._orphans_in(folder):
                with self._state_lock:
                    self._left_in[id(held.store)] = count = held.store.count()
                    self._adopted.append((folder, held))
                    self.books.count(recovered=count)
                found += count
        if found:
            logger.info("audit %s: %d event(s) taken over from an earlier process", self.name, found)
        return found

    def _orphans_in(self, folder: OutboxDirectory) -> list[LockedOutbox]:
        try:
            return folder.adopt(durable=self.options.outbox == "fsync", max_bytes=self.options.outbox_max_bytes)
        except (OutboxError, OSError) as error:
            said = "audit %s: earlier processes' outbox files cannot be taken over now: %s"
            self.repeats.say(ERROR, ("adopt", type(error)), said, self.name, error)
            return []

    def give_back(self, store: AnyStore, error: OutboxError) -> bool:
        """Let go of a file taken over if it is the one that fails, so that it keeps nobody up; tell whether it was.

        What is left in it is taken over again later, or by somebody else.
        """
        with self._state_lock:
            failed = [held for _, held in self._adopted if held.store is store and held.store.path in str(error)]
            left = self._left_in.get(id(store), 0)
        if not failed:
            return False
        said = "audit %s: an earlier process's outbox file with %d event(s) in it is left alone for now: %s"
        self.repeats.say(ERROR, ("gave back", str(error)), said, self.name, left, error)
        with self._state_lock, store.lock:
            self._adopted = [pair for pair in self._adopted if pair[1].store is not store]
            self.books.count(recovered=-self._left_in.pop(id(store), 0))
        for held in failed:
            with suppress(Exception):
                held.store.close()
            held.lock.release()
        return True

    def mend(self, store: AnyStore, error: Exception) -> bool:
        """Put a new file in the place of this process's own if that is what is damaged; tell whether to go on.

        What can be read, and what is being offered just now, is in the new one. What is lost counts as failed.
        """
        if not isinstance(error, DamagedOutboxError) or self._mender == threading.get_ident():
            return False
        with self._state_lock:
            held = self._held
            if held is None or held.store is not store:
                return False
            if held.store.path != error.path:  # another thread has done so meanwhile
                return True
            self._mender = threading.get_ident()
            try:
                self._replace(held)
            except (OutboxError, OSError) as failure:
                said = "audit %s: the outbox file is damaged (%s), and no new one can take its place: %s"
                self.repeats.say(ERROR, ("mend", type(failure)), said, self.name, error, failure)
                return False
            finally:
                self._mender = None
        return True

    def _replace(self, held: LockedOutbox) -> None:
        store, folder, path = held.store, self._folders[0], held.path
        with folder.still(), ExitStack() as locks:
            for one in self.stores:  # nothing is counted meanwhile
                locks.enter_context(one.lock)
            expected = self.books.pending - sum(self._left_in.values())
            settled = {seq for one, seqs, _ in self._acknowledged if one is store for seq in seqs}
            aside = folder.replace(
                held,
                self._offered_of(store, settled),
                durable=self.options.outbox == "fsync",
                max_bytes=self.options.outbox_max_bytes,
            )
            saved = store.count()
            lost = max(expected - saved, 0)
            self.books.count(failed=lost, lost=lost, parked_ever=lost, recovered=max(saved - expected, 0))
            gone = self._missing_in(store, settled) if lost else ()
        self._lost.update((id(store), seq) for seq in gone)
        said = (
            f"the outbox file {path} was damaged while it was in use: a new one has the {saved} event(s) that could be "
            f"saved, {lost} could not be read and count as failed; the damaged file is kept as {aside}"
        )
        self.books.note_error(said)
        logger.error("audit %s: %s", self.name, said)
        self._tell(store, gone, settled=True)

    def _offered_of(self, store: AnyStore, settled: set[int]) -> list[tuple[int, float, bytes]]:
        now = time.time()
        offered = [entries for one, entries in list(self._under_way.values()) if one is store]
        return [(seq, now, body) for entries in offered for seq, body in entries if body and seq not in settled]

    def _missing_in(self, store: OutboxFile, settled: set[int]) -> list[int]:
        """Return the numbers of the events that are neither there nor, as far as is remembered, stored."""
        remembers_all = len(self._acknowledged) < _REMEMBERED_BATCHES
        first = 1 if remembers_all else min(settled, default=1)
        there = store.present(first, store.last_seq)
        return [seq for seq in range(first, store.last_seq + 1) if seq not in there and seq not in settled]

    def is_lost(self, ticket: Ticket) -> bool:
        """Tell whether the event was in a damaged file, and cannot be read any more."""
        return (id(ticket.store), ticket.seq) in self._lost

    def drop_emptied(self) -> None:
        """Remove the files taken over that have nothing left in them."""
        with self._state_lock:
            emptied = [pair for pair in self._adopted if pair[1].store.count() == 0]
            self._adopted = [pair for pair in self._adopted if pair not in emptied]
            for _, held in emptied:
                self._left_in.pop(id(held.store), None)
        for folder, held in emptied:
            folder.release(held)

    def _note_gone(self, store: AnyStore, gone: int) -> None:
        if id(store) in self._left_in:
            self._left_in[id(store)] -= gone

    def limit_outbox(self) -> None:
        """Leave the outbox what the dead letters leave of the quota, and of the disk no more than half."""
        own, quota = self._own, self._quota()
        if own is not None:
            with suppress(OSError):  # the directory may be gone
                if self.folder is not None:
                    quota = min(quota, own.size_bytes() + self.folder.affordable_bytes())
            own.limit_bytes(quota)

    # --- accepting --------------------------------------------------------------------------------------------

    def accept(self, body: bytes) -> Ticket:
        """Commit one event; it is counted at the same instant.

        Raises :class:`OutboxFullError` or :class:`OutboxError` where the outbox refuses it, and
        :class:`AuditShutdownError` after a shutdown where nothing is kept on disk.
        """
        if self.closed:
            self._accept_after_shutdown()
        store = self._own
        if store is None:
            try:
                store = self._open()
            except AuditConfigurationError as error:
                raise OutboxError(str(error)) from error
        try:
            ticket = Ticket(store, store.append(body, self.books.submit))
        except OutboxError as error:
            if not self.mend(store, error) and (self._own is store or not self.closed):
                raise
            return self.accept(body)  # a shutdown closed the file just now, or it was damaged: the next one takes it
        if self.idle:
            self.idle = False
            self.wake()
        return ticket

    def _accept_after_shutdown(self) -> None:
        if not self._folders:
            raise AuditShutdownError(
                "the audit pipeline is shut down, and its outbox is in memory: the event is not recorded"
            )
        with self._state_lock:
            if self._own is None:
                self._open()
                logger.warning(
                    "audit %s: events come after shutdown; they are kept in the outbox and delivered by the next "
                    "process",
                    self.name,
                )

    # --- delivering -------------------------------------------------------------------------------------------

    def attempt(self, store: AnyStore, entries: Sequence[Entry]) -> None:
        """Offer these events to the sink once, and keep the books of what became of them.

        Events that somebody else is offering just now, or that are settled already, are passed over.
        """
        self._attempt(store, entries)

    def attempt_run(self, store: AnyStore, numbers: range) -> None:
        """Do as :meth:`attempt` does with the events of a run, which are read when they are known to be free."""
        if self.closed:
            return
        with self._claiming(store, numbers) as claimed:
            run: Sequence[Entry] | None = store.read_run(numbers) if claimed == numbers else None
            if run is None:
                run = store.get(claimed)
            if run:
                self._offer(store, run)

    def attempt_refused(self, store: AnyStore, limit: int, *, at_once: bool = False) -> None:
        """Offer events again that were refused by themselves: those that are due, or (``at_once``) all of them."""
        proved, due = self._due_refusals(store, at_once=at_once)
        self._attempt(store, store.get(proved[:limit]), again=True, proved=True)
        if not proved:  # else what passes of them says more about the others than one more try
            self._attempt(store, store.get(due[:limit]), again=True)

    def _attempt(self, store: AnyStore, entries: Sequence[Entry], *, again: bool = False, proved: bool = False) -> None:
        if self.closed or not entries:
            return
        with self._claiming(store, numbers_of(entries)) as claimed:
            mine = _still_in(store, [entry for entry in entries if seq_of(entry) in claimed], claimed)
            if mine:
                self._offer(store, mine, again=again, proved=proved)

    @contextmanager
    def _claiming(self, store: AnyStore, numbers: Sequence[int]) -> Iterator[Numbers]:
        claimed = self._claims.take(store, numbers)
        try:
            yield claimed
        finally:
            self._claims.give_back(store, claimed)
            with self._progress:
                self.attempts_ended += 1
                self._progress.notify_all()

    def _offer(self, store: AnyStore, entries: Sequence[Entry], *, again: bool = False, proved: bool = False) -> None:
        if again or not self.gate.is_open:
            self.books.count(retried=len(entries))
        deadline = time.monotonic() + self.options.export_timeout_seconds
        sink = TimedSink(self.sink, self.writes, self.on_write)
        settle = partial(self._settle, store)
        accepted_before = self.books.accepted_by_sink
        in_doubt = not (proved or self.gate.is_open)
        self._under_way[id(entries)] = store, entries
        try:
            result = attempt(sink, entries, self._rows, deadline, settle, doubts_sink=not proved)
            self._judge(store, result, accepted_before, in_doubt=in_doubt)
            self._conclude(store, result, again=again)
        except OutboxError as error:
            if not self.mend(store, error):
                raise
            self._tell(store, numbers_of(entries), settled=False)
        finally:
            del self._under_way[id(entries)]
            if self.closed:  # meanwhile, and the sink may have opened a new connection since
                self.sink.close()

    def _rows(self, entries: Sequence[Entry]) -> Sequence[bytes]:
        return self.rows_of(bodies_of(entries))

    def row_of(self, body: bytes) -> bytes:
        """Return the sink's row of one event's bytes."""
        return self.rows_of((body,))[0]

    def _settle(self, store: AnyStore, stored: Sequence[Entry]) -> None:
        now = time.time()
        seqs = numbers_of(stored)
        # The sink first, then the outbox: a kill in between means one more offer of an id that is known there.
        with store.lock:
            gone = store.settle(seqs)
            self._note_gone(store, gone)
            self.books.count(succeeded=gone, accepted_by_sink=len(seqs))
        self.books.last_success = now
        with self._state_lock:
            self._acknowledged.append((store, seqs, now))
        self._tell(store, seqs, settled=True)

    def _conclude(self, store: AnyStore, result: InsertOutcome[Entry], *, again: bool) -> None:
        now = time.monotonic()
        if result.every_row_refused and again and self.gate.is_open:
            pass  # rows that were refused before are refused again, while others pass: nothing new
        elif result.error is not None:
            example = body_of(result.waiting[0]) if result.waiting else None
            self.announcer.failing(result.error, self.books.pending, example)  # who sees the state finds it said
            self.books.note_error(str(result.error))
            verdict, retry_after = result.error.verdict, result.error.retry_after
            with self._state_lock:
                self.gate = self.gate.after_failure(verdict, retry_after, now, self._jitter)
            self._tell_everybody()
        elif result.stored:
            with self._state_lock:
                self.gate = self.gate.after_success(now)
            if self.gate.is_open:
                self.announcer.delivering()
        self._tell(store, numbers_of(result.waiting), settled=False)

    def _judge(self, store: AnyStore, result: InsertOutcome[Entry], accepted_before: int, *, in_doubt: bool) -> None:
        """Park what is proved to be at fault by itself; let the rest wait for a proof.

        ``accepted_before``: what the sink had accepted when the attempt began. What passed since then on other
        threads may have passed after these refusals, and proves nothing yet. ``in_doubt``: the table may be at
        fault, so that a code alone says nothing.
        """
        refused = result.refused
        if not refused:
            return
        now = time.time()
        codes_count = self.books.accepted_by_sink > 0 and not (result.every_row_refused or in_doubt)
        known = {refusal.seq: refusal for refusal in store.refusals()}
        park: list[tuple[RejectedRow[Entry], Refusal]] = []
        hold: list[Refusal] = []
        for one in refused:
            refusal = self._refusal(store, one, known.get(seq_of(one.item)), now)
            by_code = codes_count and one.error.verdict.park_at_once
            before = refusal.attempts > 1 and self._others_passed(store, refusal, accepted_before)
            if (by_code or one.proved or before) and not self._may_yet_fit(refusal, now):
                park.append((one, refusal))
            else:
                if one.proved:  # others passed since, which is remembered for when its grace is over
                    self._first_refused[id(store), refusal.seq] = self.books.accepted_by_sink - 1
                hold.append(refusal)
        if park:
            self._park(store, park, now)
        if hold:
            self._hold(store, hold, refused[-1])

    def _refusal(self, store: AnyStore, one: RejectedRow[Entry], known: Refusal | None, now: float) -> Refusal:
        attempts = 1 if known is None else known.attempts + 1
        first = now if known is None else known.first_failed_at
        delay = refusal_delay(attempts, self._jitter)
        if one.error.verdict.foreign_key:
            delay = min(delay, max(self.options.foreign_key_grace_seconds / 4, 0.1))
        return Refusal(seq_of(one.item), one.error.code, str(one.error), attempts, first, now + delay)

    def _may_yet_fit(self, refusal: Refusal, now: float) -> bool:
        """Tell whether the row that this one refers to is still waited for."""
        waits = now - refusal.first_failed_at < self.options.foreign_key_grace_seconds
        return refusal.code in FOREIGN_KEY_CODES and waits

    def _others_passed(self, store: AnyStore, refusal: Refusal, accepted: int) -> bool:
        """Tell whether the sink had accepted another row since it first refused this one, when it had ``accepted``."""
        return accepted > self._first_refused.get((id(store), refusal.seq), 0)

    def _hold(self, store: AnyStore, refusals: Sequence[Refusal], example: RejectedRow[Entry]) -> None:
        accepted = self.books.accepted_by_sink
        for refusal in refusals:
            self._first_refused.setdefault((id(store), refusal.seq), accepted)
        self.books.note_error(str(example.error))
        self.announcer.holding(example.error, len(refusals), body_of(example.item))  # who sees them held finds it said
        store.refuse(refusals)
        self._tell(store, array("q", (refusal.seq for refusal in refusals)), settled=False)

    def _park(self, store: AnyStore, refused: Sequence[tuple[RejectedRow[Entry], Refusal]], now: float) -> None:
        self.dead_letters.park(
            StoredDeadLetter(
                record_id_of(body_of(one.item)),
                body_of(one.item),
                refusal.error,
                refusal.code,
                refusal.attempts,
                refusal.first_failed_at,
                now,
                self.identity,
            )
            for one, refusal in refused
        )
        last = refused[-1][0]
        self.books.note_error(str(last.error))
        self.announcer.parked(last.error, len(refused), body_of(last.item))  # who sees them settled finds it said
        seqs = array("q", (seq_of(one.item) for one, _ in refused))
        with store.lock:
            gone = store.settle(seqs)
            self._note_gone(store, gone)
            self.books.count(failed=gone, parked_ever=gone)
        self._tell(store, seqs, settled=True)

    def park_unsent(self, body: bytes, error: SinkError, reasons: str | None = None) -> None:
        """Park an event that cannot become a row. It never is in the outbox, from where it could be delivered.

        Raises :class:`OutboxError` where the dead letters cannot take it.
        """
        now = time.time()
        letter = StoredDeadLetter(record_id_of(body), body, str(error), error.code, 1, now, now, self.identity, reasons)
        self.dead_letters.park([letter])
        self.books.count(submitted=1, failed=1, parked_ever=1)
        self.books.note_error(str(error))
        self.announcer.parked(error, 1, body)

    def _due_refusals(self, store: AnyStore, *, at_once: bool) -> tuple[list[int], list[int]]:
        """Return the refused events that one more refusal would park, and the others that are due for another try."""
        now, accepted = time.time(), self.books.accepted_by_sink
        proved: list[int] = []
        due: list[int] = []
        for refusal in store.refusals():
            if self._others_passed(store, refusal, accepted) and not self._may_yet_fit(refusal, now):
                proved.append(refusal.seq)
            elif at_once or refusal.next_try_at <= now:
                due.append(refusal.seq)
        return proved, due

    # --- waiting ----------------------------------------------------------------------------------------------

    def watch(self, ticket: Ticket, waiter: Waiter) -> None:
        """Have ``waiter`` told what becomes of the event; at once where it is settled already."""
        with self._state_lock:
            self._waiters.setdefault((id(ticket.store), ticket.seq), []).append(waiter)
        if not self.is_pending(ticket):
            waiter.tell(settled=True)

    def unwatch(self, ticket: Ticket, waiter: Waiter) -> None:
        """Forget ``waiter``."""
        key = (id(ticket.store), ticket.seq)
        with self._state_lock:
            waiters = self._waiters.get(key, [])
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters:
                self._waiters.pop(key, None)

    def _tell(self, store: AnyStore, seqs: Sequence[int], *, settled: bool) -> None:
        told: list[Waiter] = []
        with self._state_lock:
            if self._waiters:
                for seq in seqs:
                    told.extend(self._waiters.get((id(store), seq), ()))
            if settled and self._first_refused:
                for seq in seqs:
                    self._first_refused.pop((id(store), seq), None)
            self._progress.notify_all()
        for waiter in told:
            waiter.tell(settled=settled)

    def _tell_everybody(self) -> None:
        """Say to all that wait that an attempt has failed: theirs would not be better off now."""
        with self._state_lock:
            told = [waiter for waiters in self._waiters.values() for waiter in waiters]
        for waiter in told:
            waiter.tell(settled=False)

    def is_pending(self, ticket: Ticket) -> bool:
        """Tell whether the event is neither stored nor parked."""
        store = ticket.store
        if store.closed:
            return store.still_waits(ticket.seq)
        try:
            return bool(store.get((ticket.seq,)))
        except OutboxError as error:
            if not self.mend(store, error):
                raise
            return self.is_pending(ticket)

    def acknowledged_at(self, ticket: Ticket) -> float | None:
        """Return when the sink acknowledged the event (seconds since the epoch), as far as it is remembered."""
        with self._state_lock:
            batches = list(self._acknowledged)
        for store, seqs, at in reversed(batches):
            if store is ticket.store and ticket.seq in seqs:
                return at
        return self.books.last_success

    def wait_until_settled(self, deadline: float, nudge: Callable[[], None]) -> bool:
        """Wait until everything accepted so far is stored or parked; False where it is not at ``deadline``."""
        try:
            return self._wait_until_settled(deadline, nudge)
        except OutboxError:  # which has been said: what waits in there is not settled
            return False

    def _wait_until_settled(self, deadline: float, nudge: Callable[[], None]) -> bool:
        if self.closed:
            return self.books.pending <= 0
        marks = [(store, store.last_seq) for store in self.stores]
        nudge()
        with self._progress:
            while True:
                marks = [(store, upto) for store, upto in marks if _may_hold(store, upto)]
                left = deadline - time.monotonic()
                if not marks or left <= 0:
                    return not marks
                if not self._progress.wait(min(left, 0.5)):
                    nudge()

    def wait_for_attempt(self, deadline: float, nudge: Callable[[], None]) -> None:
        """Have one attempt made, and wait until it has ended or ``deadline`` is there."""
        with self._progress:
            seen = self.attempts_ended
        nudge()
        with self._progress:
            self._progress.wait_for(
                lambda: self.attempts_ended > seen or self.books.pending == 0, deadline - time.monotonic()
            )

    # --- looking ----------------------------------------------------------------------------------------------

    def stats(self) -> AuditStats:
        """Return the counters of this lane at one instant; they are told where the outbox cannot be read, too."""
        try:
            return self._stats(*self._waiting())
        except OutboxError:
            return self._stats(0, 0.0)

    def _stats(self, held: int, oldest_pending_seconds: float) -> AuditStats:
        self._count_settled_by_others()
        return self.books.stats(
            held=held, all_held=self.gate.state is BackoffState.ON_HOLD, oldest_pending_seconds=oldest_pending_seconds
        )

    def _waiting(self) -> tuple[int, float]:
        """Return how many events wait that were refused, and the age of the oldest event."""
        stores = self.stores
        ages = [at for store in stores if (at := store.oldest_accepted_at()) is not None]
        held = sum(store.count_refused() for store in stores)
        return held, max(time.time() - min(ages), 0.0) if ages else 0.0

    def _count_settled_by_others(self) -> None:
        with suppress(OutboxError):  # where they cannot be read, the health says so
            settled = self.dead_letters.settled_by_others(self.identity) if self.books.failed else 0
            if settled:
                self.books.count(failed=-settled, succeeded=settled)

    def health(self, thresholds: HealthThresholds) -> AuditHealth:
        """Return the health of this lane at one instant; where the outbox cannot be read, that is the reason."""
        own = self._own
        try:
            stats = self._stats(*self._waiting())
            left, most = (None, None) if own is None or own.closed else own.room_bytes()
            overdue = self._overdue() if stats.pending else 0
            parked = self.dead_letters.count()
        except (OutboxError, OSError) as error:
            if own is not None and self.mend(own, error):
                return self.health(thresholds)
            told = assess(self.stats(), thresholds, cycle_seconds=self.options.cycle_seconds)
            return broken(told, f"the outbox or the dead letters cannot be read: {error}")
        return assess(
            without_dropped(stats, parked, self.books.lost),
            thresholds,
            overdue=overdue,
            parked=parked,
            lost=self.books.lost,
            outbox_bytes_left=left,
            outbox_bytes_max=most,
            slow_write_seconds=self.writes.slow_seconds(time.monotonic(), self.options.cycle_seconds),
            cycle_seconds=self.options.cycle_seconds,
        )

    def _overdue(self) -> int:
        """Count what is pending for longer than one cycle; beyond so many, what the newer ones leave of all."""
        before = time.time() - self.options.cycle_seconds
        counted = [store.overdue(before, _COUNTED_OVERDUE) for store in self.stores]
        return max(sum(older for older, _ in counted), self.books.pending - sum(later for _, later in counted))

    # --- ending and forking -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the outbox; what is in it stays on disk for the next process."""
        with self._state_lock:
            self.closed = True
            held = [*self._adopted, *([(self._folders[0], self._held)] if self._held else [])]
            self._adopted, self._held = [], None
            if self._folders:
                self._own = None
        for folder, file in held:
            folder.release(file)
        self.sink.close()

    def locks_before_store(self) -> list[Lock]:
        """Return the lock under which everything else is taken."""
        return [self._state_lock]

    def locks_after_store(self) -> list[Lock]:
        """Return the locks that a fork must not find held by another thread, in the order in which they nest."""
        return [*(store.lock for store in self.stores), self.books.lock]

    def renew_after_fork(self) -> None:
        """In a forked child: begin anew, with nothing of the parent's."""
        held = [file for _, file in self._adopted] + ([self._held] if self._held else [])
        for file in held:
            _inherited.append(file.store.forget())
            file.lock.forget()
        closed = self.closed
        self._begin()
        self.closed = closed
        self.identity = uuid.uuid4().hex
        self.sink.renew_after_fork()


def shape_error(problem: str) -> SinkError:
    """Return the error of a record that cannot become a row."""
    return SinkError(Verdict(Fault.RECORD, park_at_once=True, remedy="emit it with audit_event()"), problem)


def record_id_of(body: bytes) -> str:
    """Return the record id of an event's bytes, or where they cannot be read a name that stays the same."""
    try:
        return str(loads_exact(split(body)[INDEX["record_id"]]))
    except (ValueError, IndexError):
        return f"unreadable-{blake2b(body, digest_size=8).hexdigest()}"


def _may_hold(store: AnyStore, upto: int) -> bool:
    try:
        return store.has(upto)
    except OutboxError:  # what cannot be read is not known to be settled
        return True


def _still_in(store: AnyStore, entries: list[Entry], numbers: Numbers) -> list[Entry]:
    """Return those of the entries, whose numbers these are, that nobody has settled since they were read."""
    if not isinstance(numbers, range):
        present = set(map(seq_of, store.get(numbers)))
    elif store.count_between(numbers.start, numbers.stop - 1) == len(numbers):
        return entries
    else:
        present = store.present(numbers.start, numbers.stop - 1)
    return [entry for entry in entries if seq_of(entry) in present]
