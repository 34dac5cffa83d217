"""The outbox: what has been accepted and not yet settled.

One store per process (:class:`OutboxFile`, or :class:`MemoryOutbox` where nothing is to be written to disk);
its events are numbered in the order in which they were accepted. A store knows bytes, not what they mean.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Protocol, overload

from otel_audit_exporter.errors import OutboxError, OutboxFullError
from otel_audit_exporter.event.joined import SEPARATOR, Joined
from otel_audit_exporter.outbox.reserved_space import Ballast
from otel_audit_exporter.runtime.fork_safety import quiet

FORMAT_VERSION: Final = 1
_BUSY_SECONDS: Final = 5.0
_PAGE_BYTES: Final = 4096
CHECKPOINT_EVENTS: Final = 2000
# Should nobody else do it, the thread that appends does it after so many pages: the log does not grow for ever.
_LATEST_CHECKPOINT_PAGES: Final = 16_384
_SPARE_PAGES: Final = 64  # beyond the quota, for notes on events that are in the outbox already
_VACUUM_PAGES: Final = 2048  # give back to the disk in steps, so that no caller waits long for the lock


_NO_RUN: Final = range(0)
_LOOKED_FOR: Final = 500_000  # events at most, one by one, between the readable ends of a damaged file
_READ_ROWS: Final = 16  # at a time, so that large events are not read in vain

# One event in a store: its number and its bytes. A plain tuple, as the garbage collector soon looks at those no more,
# of which a backlog makes so many.
Entry = tuple[int, bytes]
# One event as a file has it: its number, when it was accepted (seconds since the epoch), and its bytes.
Accepted = tuple[int, float, bytes]
seq_of: Final[Callable[[Entry], int]] = itemgetter(0)
body_of: Final[Callable[[Entry], bytes]] = itemgetter(1)


class Run(Sequence[Entry]):
    """Events with consecutive numbers, their bytes in one piece; entries are made where one is asked for."""

    def __init__(self, numbers: range, bodies: Joined) -> None:
        self.numbers = numbers
        self.bodies = bodies

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Entry]:
        return zip(self.numbers, self.bodies, strict=True)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> list[Entry]: ...
    def __getitem__(self, at: int | slice) -> Entry | list[Entry]:
        if isinstance(at, int):
            return self.numbers[at], self.bodies[at]
        return list(zip(self.numbers[at], self.bodies[at], strict=True))


def numbers_of(entries: Sequence[Entry]) -> Sequence[int]:
    """Return the numbers of these events."""
    return entries.numbers if isinstance(entries, Run) else array("q", map(seq_of, entries))


def bodies_of(entries: Sequence[Entry]) -> Sequence[bytes]:
    """Return the bytes of these events."""
    return entries.bodies if isinstance(entries, Run) else list(map(body_of, entries))


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is known of an event that the sink refused by itself, and that is not proved to be at fault yet."""

    seq: int
    code: str | None
    error: str
    attempts: int
    first_failed_at: float
    next_try_at: float


class Store(Protocol):
    """Where accepted events wait. Safe to use from any thread."""

    lock: threading.RLock

    @property
    def last_seq(self) -> int:
        """The number of the newest event."""
        ...

    def append(self, body: bytes, then: Callable[[], None]) -> int:
        """Commit one event and return its number; ``then`` runs before anybody else can see it."""
        ...

    def read(self, after: int, upto: int | None, limit: int, max_bytes: int) -> list[Entry]:
        """Return the oldest events without a refusal, numbered in ``(after, upto]``."""
        ...

    def find_run(self, after: int, upto: int, limit: int, max_bytes: int) -> range:
        """Return the numbers of the oldest events in ``(after, upto]``, ``limit`` of them, for :meth:`read_run`.

        Empty where there are none, where one of these numbers is missing, where they are larger together than
        ``max_bytes``, and where the store holds any refusal: then :meth:`read` is for them.
        """
        ...

    def read_run(self, numbers: range) -> Run | None:
        """Return all of the numbered events at once; None where one of them is not here any more."""
        ...

    def get(self, seqs: Iterable[int]) -> list[Entry]:
        """Return those of the numbered events that are still here."""
        ...

    def settle(self, seqs: Iterable[int]) -> int:
        """Remove the numbered events; return how many there were."""
        ...

    def count(self, upto: int | None = None) -> int:
        """Return how many events wait."""
        ...

    def has(self, upto: int) -> bool:
        """Tell whether an event numbered ``upto`` or lower waits."""
        ...

    def oldest_accepted_at(self) -> float | None:
        """Return when the oldest waiting event was accepted (seconds since the epoch)."""
        ...

    def refuse(self, refusals: Iterable[Refusal]) -> None:
        """Note refusals."""
        ...

    def refusals(self, due_at: float | None = None, limit: int | None = None) -> list[Refusal]:
        """Return the refusals, those whose next try is due by ``due_at``."""
        ...

    def count_refused(self) -> int:
        """Return how many events have a refusal."""
        ...

    def overdue(self, before: float, limit: int) -> tuple[int, int]:
        """Count the events accepted at ``before`` (seconds since the epoch) or earlier, up to ``limit``.

        The second number is how many were accepted later, at most.
        """
        ...

    def size_bytes(self) -> int:
        """Return the space taken."""
        ...

    def room_bytes(self) -> tuple[int, int]:
        """Return how much more it takes, as far as the disk has it, and how much it takes at most."""
        ...

    def close(self) -> None:
        """Close the store; what is in it stays on disk."""
        ...


class OutboxFile:
    """A store in one SQLite file (WAL).

    An event is committed before :meth:`append` returns: it survives the process with ``durable=False`` and a
    power loss with ``durable=True``, where threads that append at once share one sync. At ``max_bytes``
    :class:`OutboxFullError` is raised; settling goes on working then. Local file systems only.
    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = False, max_bytes: int = 2**30) -> None:
        self.path = os.fspath(path)
        self.lock = threading.RLock()
        self._durable = durable
        self._max_bytes = max_bytes
        self._connection = _open(self.path, durable=durable, max_pages=max(max_bytes // _PAGE_BYTES, 64))
        self.last_seq = _last_seq(self._connection)
        self._group: _Group | None = None
        self._group_lock = threading.Lock()
        self._in_group: set[int] = set()
        self._freed = 0
        self._ballast = Ballast(f"{self.path}-ballast", max_bytes=max_bytes)
        self._ballast.take_in()
        self._execute = self._connection.execute
        self.closed = False
        self.on_growth: Callable[[OutboxFile], None] = lambda store: None

    def prove(self) -> None:
        """Prove with a real commit that the file takes events; it leaves none in it, whatever interrupts it."""
        with self.lock, _as_outbox_error(self.path), _transaction(self._connection):
            self.last_seq = seq = self.last_seq + 1
            self._connection.execute("INSERT INTO event VALUES (?, ?, ?)", (seq, time.time(), b"[]"))
            self._connection.execute("DELETE FROM event WHERE seq = ?", (seq,))

    def append(self, body: bytes, then: Callable[[], None]) -> int:
        if self._durable:
            return self._append_grouped(body, then)
        return self._append_alone(body, then)

    def _append_alone(self, body: bytes, then: Callable[[], None]) -> int:
        with self.lock:
            self.last_seq = seq = self.last_seq + 1  # first: a number is never used twice, whatever interrupts
            try:
                self._execute("INSERT INTO event VALUES (?, ?, ?)", (seq, time.time(), body))
            except sqlite3.Error as error:
                raise _outbox_error(self.path, error) from error
            except BaseException:  # a signal's handler raised, perhaps after the commit: what is here is counted
                if self._holds(seq):
                    then()
                raise
            then()
        if seq % CHECKPOINT_EVENTS == 0:
            self.on_growth(self)
        return seq

    def _append_grouped(self, body: bytes, then: Callable[[], None]) -> int:
        thread = threading.get_ident()
        if thread in self._in_group:  # a signal handler, which must not wait for the call that it interrupts
            return self._append_alone(body, then)
        self._in_group.add(thread)
        try:
            return self._append_with_others(body, then)
        finally:
            self._in_group.discard(thread)

    def _append_with_others(self, body: bytes, then: Callable[[], None]) -> int:
        with self._group_lock:
            group = self._group
            leads = group is None
            if group is None:
                group = self._group = _Group()
            place = len(group.bodies)
            group.bodies.append((body, then))
        if leads:
            self._commit_group(group)
        else:
            group.done.wait()
        if group.error is not None:
            raise group.error
        return group.first_seq + place

    def _commit_group(self, group: _Group) -> None:
        try:
            with self.lock:
                with self._group_lock:
                    self._group = None
                with _as_outbox_error(self.path):
                    self._insert_all(group)
        except OutboxError as error:
            group.error = error
        except BaseException:
            if self._holds(group.first_seq):
                group.count()
            else:
                said = "the thread that commits for others was interrupted: the event is not recorded"
                group.error = OutboxError(said)
            raise
        finally:
            group.done.set()

    def _insert_all(self, group: _Group) -> None:
        now, count = time.time(), len(group.bodies)
        self.last_seq = last_seq = self.last_seq + count  # at once, as in an append
        group.first_seq = last_seq - count + 1
        rows = [(group.first_seq + place, now, body) for place, (body, _) in enumerate(group.bodies)]
        with _transaction(self._connection):
            self._connection.executemany("INSERT INTO event VALUES (?, ?, ?)", rows)
        group.count()
        if len(rows) > group.first_seq % CHECKPOINT_EVENTS:
            self.on_growth(self)

    def _holds(self, seq: int) -> bool:
        with self.lock, suppress(sqlite3.Error):
            return self._connection.execute("SELECT 1 FROM event WHERE seq = ?", (seq,)).fetchone() is not None
        return False

    def read(self, after: int, upto: int | None, limit: int, max_bytes: int) -> list[Entry]:
        with self.lock, _as_outbox_error(self.path):
            if self.closed:
                return []
            rows = self._connection.execute(
                "SELECT seq, body FROM event WHERE seq > ? AND seq <= ? "
                "AND seq NOT IN (SELECT seq FROM refusal) ORDER BY seq LIMIT ?",
                (after, self.last_seq if upto is None else upto, limit),
            )
            return _up_to(rows, max_bytes)

    def find_run(self, after: int, upto: int, limit: int, max_bytes: int) -> range:
        with self.lock, _as_outbox_error(self.path):
            if self.closed:
                return _NO_RUN
            sql = "SELECT min(seq), EXISTS (SELECT 1 FROM refusal) FROM event WHERE seq > ?"
            first, refusals = self._connection.execute(sql, (after,)).fetchone()
            if first is None or first > upto or refusals:
                return _NO_RUN
            numbers = range(first, min(first + limit, upto + 1))
            sql = "SELECT count(*), total(length(body)) FROM event WHERE seq BETWEEN ? AND ?"
            count, size = self._connection.execute(sql, (numbers[0], numbers[-1])).fetchone()
        return numbers if count == len(numbers) and size <= max_bytes else _NO_RUN

    def read_run(self, numbers: range) -> Run | None:
        with self.lock, _as_outbox_error(self.path):
            if self.closed:
                return None
            sql = (
                "SELECT count(*), CAST(group_concat(body, ?) AS BLOB) "
                "FROM (SELECT body FROM event WHERE seq BETWEEN ? AND ? ORDER BY seq)"
            )
            between = (SEPARATOR.decode(), numbers[0], numbers[-1])
            count, text = self._connection.execute(sql, between).fetchone()
        return Run(numbers, Joined(text, count)) if count == len(numbers) else None

    def get(self, seqs: Iterable[int]) -> list[Entry]:
        with self.lock, _as_outbox_error(self.path):
            found = (
                self._connection.execute("SELECT seq, body FROM event WHERE seq = ?", (seq,)).fetchone() for seq in seqs
            )
            return [row for row in found if row is not None]

    def present(self, first: int, last: int) -> set[int]:
        """Return the numbers in ``[first, last]`` that are still here."""
        with self.lock, _as_outbox_error(self.path):
            rows = self._connection.execute("SELECT seq FROM event WHERE seq BETWEEN ? AND ?", (first, last))
            return set(chain.from_iterable(rows))

    def count_between(self, first: int, last: int) -> int:
        """Return how many events are numbered in ``[first, last]``."""
        with self.lock, _as_outbox_error(self.path):
            sql = "SELECT count(*) FROM event WHERE seq BETWEEN ? AND ?"
            return int(self._connection.execute(sql, (first, last)).fetchone()[0])

    def settle(self, seqs: Iterable[int]) -> int:
        runs = _runs(seqs if isinstance(seqs, range) else sorted(seqs))
        with self.lock, _as_outbox_error(self.path):
            try:
                gone = self._delete(runs)
            except sqlite3.OperationalError:
                self._make_room()
                gone = self._delete(runs)
            self._freed += gone
            if self._freed > _VACUUM_PAGES:
                self._freed = 0
                self._connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
            return gone

    def _delete(self, runs: Sequence[tuple[int, int]]) -> int:
        with _transaction(self._connection):
            gone = self._connection.executemany("DELETE FROM event WHERE seq BETWEEN ? AND ?", runs).rowcount
            if self._connection.execute("SELECT EXISTS (SELECT 1 FROM refusal)").fetchone()[0]:
                self._connection.executemany("DELETE FROM refusal WHERE seq BETWEEN ? AND ?", runs)
        return gone

    def _make_room(self) -> None:
        """On a full disk nothing can be removed either: give up the ballast, and the log that is in the file by now."""
        self._ballast.drop()
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def count(self, upto: int | None = None) -> int:
        with self.lock, _as_outbox_error(self.path):
            last = self.last_seq if upto is None else upto
            sql = "SELECT count(*) FROM event WHERE seq <= ?"
            return int(self._connection.execute(sql, (last,)).fetchone()[0])

    def has(self, upto: int) -> bool:
        with self.lock, _as_outbox_error(self.path):
            if self.closed:  # emptied ones are removed
                return os.path.exists(self.path)
            sql = "SELECT EXISTS (SELECT 1 FROM event WHERE seq <= ?)"
            return bool(self._connection.execute(sql, (upto,)).fetchone()[0])

    def oldest_accepted_at(self) -> float | None:
        with self.lock, _as_outbox_error(self.path):
            if self.closed:
                return None
            sql = "SELECT accepted_at FROM event ORDER BY seq LIMIT 1"
            row = self._connection.execute(sql).fetchone()
            return None if row is None else float(row[0])

    def refuse(self, refusals: Iterable[Refusal]) -> None:
        rows = [(r.seq, r.code, r.error, r.attempts, r.first_failed_at, r.next_try_at) for r in refusals]
        with self.lock, _as_outbox_error(self.path):
            try:
                self._note(rows)
            except sqlite3.OperationalError:  # full of events, none of which goes before this is noted
                self._make_room()
                most = self._connection.execute("PRAGMA max_page_count").fetchone()[0]
                self._connection.execute(f"PRAGMA max_page_count = {most + _SPARE_PAGES}").fetchone()
                try:
                    self._note(rows)
                finally:
                    self._connection.execute(f"PRAGMA max_page_count = {most}").fetchone()

    def _note(self, rows: Sequence[tuple[object, ...]]) -> None:
        with _transaction(self._connection):
            self._connection.executemany("INSERT OR REPLACE INTO refusal VALUES (?, ?, ?, ?, ?, ?)", rows)

    def refusals(self, due_at: float | None = None, limit: int | None = None) -> list[Refusal]:
        with self.lock, _as_outbox_error(self.path):
            if self.closed:
                return []
            rows = self._connection.execute(
                "SELECT * FROM refusal WHERE next_try_at <= ? ORDER BY seq LIMIT ?",
                (float("inf") if due_at is None else due_at, -1 if limit is None else limit),
            )
            return [Refusal(*row) for row in rows]

    def size_bytes(self) -> int:
        with self.lock, _as_outbox_error(self.path):
            pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
            free = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
            return int(pages - free) * _PAGE_BYTES

    def count_refused(self) -> int:
        with self.lock, _as_outbox_error(self.path):
            if self.closed:
                return 0
            return int(self._connection.execute("SELECT count(*) FROM refusal").fetchone()[0])

    def overdue(self, before: float, limit: int) -> tuple[int, int]:
        with self.lock, _as_outbox_error(self.path):
            if self.closed:
                return 0, 0
            last = self._last_accepted_by(before)
            sql = "SELECT count(*) FROM (SELECT 1 FROM event WHERE seq <= ? LIMIT ?)"
            return int(self._connection.execute(sql, (last, limit)).fetchone()[0]), self.last_seq - last

    def _last_accepted_by(self, at: float) -> int:
        """Return the number up to which events were accepted by then, found by halves: the times ascend."""
        low, high = 0, self.last_seq
        while low < high:
            middle = (low + high + 1) // 2
            sql = "SELECT seq, accepted_at FROM event WHERE seq <= ? ORDER BY seq DESC LIMIT 1"
            row = self._connection.execute(sql, (middle,)).fetchone()
            if row is None or row[1] <= at:
                low = middle
            else:
                high = row[0] - 1
        return low

    def room_bytes(self) -> tuple[int, int]:
        with self.lock, _as_outbox_error(self.path):
            if self.closed:
                return 0, 0
            most = int(self._connection.execute("PRAGMA max_page_count").fetchone()[0]) * _PAGE_BYTES
            left = most - self.size_bytes()
        return max(min(left, shutil.disk_usage(os.path.dirname(self.path) or ".").free), 0), most

    def prove_whole(self) -> None:
        """Look through the whole file; one that is damaged anywhere is an :class:`OutboxError` (`is_damage`)."""
        with self.lock, _as_outbox_error(self.path):
            found = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise _Damaged(f"the file is damaged: {found}")

    def salvage(self) -> Iterator[Accepted]:
        """Give what can still be read of the file, which is damaged, or what this connection still has of it."""
        return (one for one in _read_out(self._connection, self.last_seq) if one[0] <= self.last_seq)

    def put(self, events: Iterable[Accepted]) -> None:
        """Take over events under the numbers that they have; of several with one number the first."""
        with self.lock, _as_outbox_error(self.path), _transaction(self._connection):
            self._connection.executemany("INSERT OR IGNORE INTO event VALUES (?, ?, ?)", events)
            self.last_seq = _last_seq(self._connection)

    def go_on_in(self, other: OutboxFile) -> None:
        """Use the other store's file and connection from now on; those of this one are closed. No number changes."""
        with quiet, self.lock:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._ballast.drop()
            self._connection, self._execute, self._ballast = other._connection, other._execute, other._ballast
            self.path, self._max_bytes = other.path, other._max_bytes

    def limit_bytes(self, max_bytes: int) -> None:
        """Set how large the file may grow."""
        with self.lock, _as_outbox_error(self.path):
            pages = max(max_bytes // _PAGE_BYTES, 64)
            self._connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()
        self._ballast.take_in()

    def checkpoint(self) -> None:
        """Bring what was written back into the file, on a connection of its own: nobody who appends waits for it."""
        with quiet, _as_outbox_error(self.path):
            if not self.closed:
                connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
                try:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                finally:
                    connection.close()

    def close(self) -> None:
        with quiet, self.lock:
            self.closed = True
            self._connection.close()
            self._ballast.drop()

    def still_waits(self, seq: int) -> bool:
        """Tell whether an event still waits in the file, which is closed here and may be in other hands."""
        try:
            with _read_only(self.path) as connection:
                found = connection.execute("SELECT EXISTS (SELECT 1 FROM event WHERE seq = ?)", (seq,)).fetchone()
                return bool(found[0])
        except sqlite3.Error:
            # Emptied files are removed. One that is there, or has gone with its whole directory, was not emptied.
            return os.path.exists(self.path) or not os.path.isdir(os.path.dirname(self.path) or ".")

    def forget(self) -> sqlite3.Connection:
        """In a forked child: hand out the parent's connection, to be kept and never used or closed there."""
        self.lock = threading.RLock()
        self.closed = True
        return self._connection


class MemoryOutbox:
    """A store in memory, for where the disk is not to be used: it goes with the process."""

    def __init__(self, *, max_bytes: int = 2**30) -> None:
        self.lock = threading.RLock()
        self.last_seq = 0
        self._max_bytes = max_bytes
        self._bytes = 0
        # Ordered: a plain dict that is emptied from its front walks over the gaps at every look.
        self._events: OrderedDict[int, tuple[float, bytes]] = OrderedDict()
        self._refusals: dict[int, Refusal] = {}
        self.closed = False

    def append(self, body: bytes, then: Callable[[], None]) -> int:
        with self.lock:
            if self._bytes + len(body) > self._max_bytes:
                raise OutboxFullError(_full("memory"))
            self.last_seq = seq = self.last_seq + 1
            self._events[seq] = (time.time(), body)
            self._bytes += len(body)
            then()
            return seq

    def read(self, after: int, upto: int | None, limit: int, max_bytes: int) -> list[Entry]:
        with self.lock:
            return _up_to(self._rows(after, self.last_seq if upto is None else upto, limit), max_bytes)

    def _rows(self, after: int, upto: int, limit: int) -> Iterator[tuple[int, bytes]]:
        for seq, (_, body) in self._events.items():  # in the order of insertion, which is that of seq
            if seq > upto or limit == 0:
                return
            if seq > after and seq not in self._refusals:
                limit -= 1
                yield seq, body

    def find_run(self, after: int, upto: int, limit: int, max_bytes: int) -> range:
        return _NO_RUN  # nothing is gained: the bytes are at hand one by one

    def read_run(self, numbers: range) -> Run | None:
        return None

    def get(self, seqs: Iterable[int]) -> list[Entry]:
        with self.lock:
            return [(seq, self._events[seq][1]) for seq in seqs if seq in self._events]

    def present(self, first: int, last: int) -> set[int]:
        """Return the numbers in ``[first, last]`` that are still here."""
        with self.lock:
            return {seq for seq in range(first, last + 1) if seq in self._events}

    def count_between(self, first: int, last: int) -> int:
        """Return how many events are numbered in ``[first, last]``."""
        with self.lock:
            return sum(map(self._events.__contains__, range(first, last + 1)))

    def settle(self, seqs: Iterable[int]) -> int:
        gone = 0
        with self.lock:
            for seq in seqs:
                event = self._events.pop(seq, None)
                self._refusals.pop(seq, None)
                if event is not None:
                    gone += 1
                    self._bytes -= len(event[1])
        return gone

    def count(self, upto: int | None = None) -> int:
        with self.lock:
            return len(self._events) if upto is None else sum(seq <= upto for seq in self._events)

    def has(self, upto: int) -> bool:
        with self.lock:
            return next(iter(self._events), upto + 1) <= upto

    def oldest_accepted_at(self) -> float | None:
        with self.lock:
            return next((accepted_at for accepted_at, _ in self._events.values()), None)

    def refuse(self, refusals: Iterable[Refusal]) -> None:
        with self.lock:
            self._refusals.update({refusal.seq: refusal for refusal in refusals if refusal.seq in self._events})

    def refusals(self, due_at: float | None = None, limit: int | None = None) -> list[Refusal]:
        with self.lock:
            due = [r for r in self._refusals.values() if due_at is None or r.next_try_at <= due_at]
            return due[:limit]

    def count_refused(self) -> int:
        with self.lock:
            return len(self._refusals)

    def overdue(self, before: float, limit: int) -> tuple[int, int]:
        with self.lock:
            older = 0
            for accepted_at, _ in self._events.values():
                if accepted_at > before or older == limit:
                    break
                older += 1
            later = 0
            for accepted_at, _ in reversed(self._events.values()):
                if accepted_at <= before:
                    break
                later += 1
            return older, later

    def size_bytes(self) -> int:
        return self._bytes

    def room_bytes(self) -> tuple[int, int]:
        return max(self._max_bytes - self._bytes, 0), self._max_bytes

    def limit_bytes(self, max_bytes: int) -> None:
        """Set how many bytes the events may take."""
        self._max_bytes = max_bytes

    def close(self) -> None:
        """Nothing to close; the events stay until the process ends."""

    def still_waits(self, seq: int) -> bool:
        """Tell whether an event still waits."""
        return seq in self._events


class _Group:
    """Events of several threads that are committed with one sync."""

    def __init__(self) -> None:
        self.bodies: list[tuple[bytes, Callable[[], None]]] = []
        self.done = threading.Event()
        self.first_seq = 0
        self.counted = 0
        self.error: OutboxError | None = None

    def count(self) -> None:
        """Run what follows the commit, for those events for which it has not run yet."""
        for _, then in self.bodies[self.counted :]:
            self.counted += 1
            then()


def count_events(path: str | os.PathLike[str]) -> int:
    """Return how many events are in an outbox file that nobody holds, without changing it."""
    with _as_outbox_error(os.fspath(path)), _read_only(path) as connection:
        return int(connection.execute("SELECT count(*) FROM event").fetchone()[0])


@contextmanager
def _read_only(path: str | os.PathLike[str]) -> Iterator[sqlite3.Connection]:
    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)
    try:
        yield connection
    finally:
        connection.close()


class _Damaged(sqlite3.DatabaseError):
    sqlite_errorname = "SQLITE_CORRUPT"


class DamagedOutboxError(OutboxError):
    """Say that an outbox file, ``path``, is no whole SQLite file any more."""

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        super().__init__(message)


def salvage(path: str | os.PathLike[str]) -> Iterator[Accepted]:
    """Give the events that can still be read from a damaged file that nobody uses."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(os.fspath(path), timeout=_BUSY_SECONDS)) as connection:
        yield from _read_out(connection)


def _read_out(connection: sqlite3.Connection, last_seq: int = 0) -> Iterator[Accepted]:
    """Read from both ends up to what cannot be read, and of what is between them each event by itself."""
    query = "SELECT seq, accepted_at, body FROM event "
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA writable_schema = ON")  # a file that was cut short is read as far as it goes
    first, last = 0, last_seq + 1
    with suppress(sqlite3.Error):
        for row in connection.execute(f"{query} ORDER BY seq"):
            first = row[0]
            yield from _whole(row)
        return
    with suppress(sqlite3.Error):
        for row in connection.execute(f"{query} WHERE seq > ? ORDER BY seq DESC", (first,)):
            last = row[0]
            yield from _whole(row)
    for seq in range(max(first + 1, last - _LOOKED_FOR), last):
        with suppress(sqlite3.Error):
            for row in connection.execute(f"{query} WHERE seq = ?", (seq,)):
                yield from _whole(row)


def _whole(row: tuple[Any, Any, Any]) -> Iterator[Accepted]:
    seq, accepted_at, body = row
    is_event = isinstance(body, bytes) and body.startswith((b"[", b"{")) and body.endswith((b"]", b"}"))
    if is_event and isinstance(accepted_at, float) and seq > 0:
        yield seq, accepted_at, body


def _last_seq(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0])


def _open(path: str, *, durable: bool, max_pages: int) -> sqlite3.Connection:
    with quiet, _as_outbox_error(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=32
        )
        try:
            _prepare(connection, durable=durable, max_pages=max_pages)
        except BaseException:
            connection.close()
            raise
        return connection


def _prepare(connection: sqlite3.Connection, *, durable: bool, max_pages: int) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT_VERSION:
        raise OutboxError(
            f"outbox format {version} is newer than this library's ({FORMAT_VERSION}): left alone; "
            "run a newer version of otel_audit_exporter to deliver it"
        )
    for pragma in (
        "auto_vacuum = INCREMENTAL",
        "journal_mode = WAL",
        "secure_delete = FAST",  # some builds write over what is deleted even where that costs a write of its own
        f"synchronous = {'FULL' if durable else 'NORMAL'}",
        f"journal_size_limit = {16 * 2**20}",
        f"max_page_count = {max_pages}",
        f"wal_autocheckpoint = {_LATEST_CHECKPOINT_PAGES}",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    schema = resources.files(__package__).joinpath("outbox.sql").read_text(encoding="utf-8")
    with _transaction(connection):
        for statement in filter(str.strip, schema.split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk ends it by itself
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _as_outbox_error(path: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _outbox_error(path, error) from error


def _outbox_error(path: str, error: Exception) -> OutboxError:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return OutboxFullError(_full(path))
    said = f"the outbox {path} failed: {error}"
    damaged = name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
    return DamagedOutboxError(path, said) if damaged else OutboxError(said)


def _runs(seqs: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and the last of every run of consecutive numbers: usually there is one."""
    if not seqs:
        return []
    if seqs[-1] - seqs[0] == len(seqs) - 1:
        return [(seqs[0], seqs[-1])]
    runs: list[tuple[int, int]] = []
    first = before = seqs[0]
    for seq in seqs[1:]:
        if seq != before + 1:
            runs.append((first, before))
            first = seq
        before = seq
    return [*runs, (first, before)]


def _full(where: str) -> str:
    return (
        f"the outbox ({where}) is full: the sink does not take events, or the disk is full. "
        "See `otel-audit outbox status`; raise OTEL_AUDIT_OUTBOX_MAX_BYTES, or free disk"
    )


def _up_to(rows: Iterator[Entry], max_bytes: int) -> list[Entry]:
    """Return the first entries that are no larger together, and at least one; few more are read than that."""
    entries: list[Entry] = []
    left = max_bytes
    while some := list(islice(rows, _READ_ROWS)):
        left -= sum(map(len, map(body_of, some)))
        entries += some
        if left < 0:
            break
    while left < 0 and len(entries) > 1:
        left += len(body_of(entries.pop()))
    return entries
