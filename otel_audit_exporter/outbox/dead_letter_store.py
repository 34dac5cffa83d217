"""The dead letters: rows that the sink refuses and that others prove to be at fault themselves.

One file per destination, shared by its processes. Each use opens and closes it: parking is rare, and nothing
is then held over a fork. It keeps a rollback journal, as files that several processes write should.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final, Literal, Protocol

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock, quiet, register_renewed

logger: Final = logging.getLogger("otel_audit_exporter")
_BUSY_SECONDS: Final = 10.0
_CLOCK_SECONDS: Final = 2.0  # no file system's clock is coarser: a younger change may hide another one


_WORD_SECONDS: Final = 7 * 86_400.0  # who has not asked for so long does not run any more


LetterKind = Literal["refused", "invalid"]
Place = tuple[float, str]  # in the order of the dead letters: when it was parked, and its id


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One parked event.

    ``kind`` is ``"refused"`` (by the sink: ``row`` is the row as it was sent, column to value) or ``"invalid"`` (never
    offered to the sink: ``row`` is None, ``fields`` is what the event said, and ``reasons`` what is wrong with each
    field). ``error`` and ``code`` are the reason; times are aware and in UTC.
    """

    record_id: str
    row: dict[str, Any] | None
    error: str
    code: str | None
    attempts: int
    first_failed_at: datetime
    parked_at: datetime
    kind: LetterKind = "refused"
    fields: Mapping[str, Any] | None = None
    reasons: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter as it is stored: the event's bytes, and who parked it."""

    record_id: str
    body: bytes
    error: str
    code: str | None
    attempts: int
    first_failed_at: float
    parked_at: float
    parked_by: str
    reasons: str | None = None  # of an event that is wrong by itself: JSON, field to what is wrong

    @property
    def kind(self) -> LetterKind:
        """Whether the sink refused it, or it was wrong by itself."""
        return "refused" if self.reasons is None else "invalid"

    def letter(self, row: dict[str, Any] | None, fields: Mapping[str, Any] | None = None) -> DeadLetter:
        """Return what people are shown."""
        return DeadLetter(
            self.record_id,
            row,
            self.error,
            self.code,
            self.attempts,
            datetime.fromtimestamp(self.first_failed_at, UTC),
            datetime.fromtimestamp(self.parked_at, UTC),
            self.kind,
            fields,
            None if self.reasons is None else json.loads(self.reasons),
        )


@dataclass(frozen=True, slots=True)
class ParkedSince:
    """How many events were parked after a time, when the newest one, and its error."""

    count: int = 0
    newest_at: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ParkedCause:
    """How many events are parked for one cause: the sink's code or, where there is none, its words."""

    cause: str
    error: str
    count: int
    newest_at: float


class DeadLetterStore(Protocol):
    """Where parked events are kept."""

    def park(self, events: Iterable[StoredDeadLetter]) -> None:
        """Keep these events; one with a known id replaces it."""
        ...

    def all(self, limit: int | None = None) -> list[StoredDeadLetter]:
        """Return them, the oldest first; no more than ``limit``."""
        ...

    def page(self, after: Place | None, limit: int) -> list[StoredDeadLetter]:
        """Return the oldest ``limit`` of those after a place (:func:`place_of`); None: from the start."""
        ...

    def parked_since(self, at: float) -> ParkedSince:
        """Return how many were parked after a time."""
        ...

    def causes(self, limit: int) -> list[ParkedCause]:
        """Return the causes, the most frequent first."""
        ...

    def get(self, record_id: str) -> StoredDeadLetter | None:
        """Return one of them."""
        ...

    def remove(self, record_id: str) -> bool:
        """Remove one of them; tell whether it was there."""
        ...

    def settle(self, event: StoredDeadLetter, by: str) -> bool:
        """Remove one that ``by`` has brought to the table, and leave word for who had parked it.

        Tell whether it was there.
        """
        ...

    def settle_all(self, events: Sequence[StoredDeadLetter], by: str) -> list[StoredDeadLetter]:
        """Do as :meth:`settle` does with several at once; return those that were there."""
        ...

    def settled_by_others(self, parked_by: str) -> int:
        """Return how many of ``parked_by``'s others have brought to the table; each is told once."""
        ...

    def count(self) -> int:
        """Return how many there are."""
        ...

    def size_bytes(self) -> int:
        """Return the space taken."""
        ...


class SqliteDeadLetterStore:
    """Dead letters in one SQLite file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._counted: tuple[tuple[int, ...], int] = ((), 0)
        self._parked: tuple[tuple[float, ...], ParkedSince] = ((), ParkedSince())
        self._heard: tuple[int, ...] = ()

    def park(self, events: Iterable[StoredDeadLetter]) -> None:
        rows = [astuple(e) for e in events]
        seen = self._inode()
        try:
            self._keep(rows)
        except OutboxError as error:
            name = getattr(error.__cause__, "sqlite_errorname", "")
            if name not in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
                raise
            self._keep([*self._set_aside(seen), *rows])

    def _keep(self, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._connected(create=True) as connection:
            connection.executemany("INSERT OR REPLACE INTO dead_letter VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _inode(self) -> int | None:
        try:
            return os.stat(self.path).st_ino
        except OSError:
            return None

    def _set_aside(self, damaged: int | None) -> list[tuple[Any, ...]]:
        """Keep a damaged file under another name, and return what can be read of it."""
        if self._inode() != damaged:  # another process has done so just now
            return []
        saved = self._readable()
        aside = f"{self.path}.damaged-{int(time.time())}"
        for suffix in ("", "-journal"):
            with suppress(FileNotFoundError):
                os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
        logger.error("dead letters damaged: %d saved from the file, which is kept as %s", len(saved), aside)
        return saved

    def _readable(self) -> list[tuple[Any, ...]]:
        saved: list[tuple[Any, ...]] = []
        with suppress(OutboxError), self._connected(create=False) as connection:
            saved.extend(connection.execute("SELECT * FROM dead_letter"))
        return saved

    def all(self, limit: int | None = None) -> list[StoredDeadLetter]:
        most = -1 if limit is None else limit
        return self._select("SELECT * FROM dead_letter ORDER BY parked_at, record_id LIMIT ?", most)

    def page(self, after: Place | None, limit: int) -> list[StoredDeadLetter]:
        parked_at, record_id = after or (float("-inf"), "")
        sql = "SELECT * FROM dead_letter WHERE (parked_at, record_id) > (?, ?) ORDER BY parked_at, record_id LIMIT ?"
        return self._select(sql, parked_at, record_id, limit)

    def parked_since(self, at: float) -> ParkedSince:
        changed, settled = self._state()
        if not changed:
            return ParkedSince()
        asked = (*changed, at)
        if self._parked[0] != asked:
            sql = "SELECT count(*), max(parked_at), error FROM dead_letter WHERE parked_at > ?"
            with self._connected(create=False) as connection:
                count, newest_at, error = connection.execute(sql, (at,)).fetchone()
            self._parked = (asked if settled else (), ParkedSince(count, newest_at or 0.0, error or ""))
        return self._parked[1]

    def causes(self, limit: int) -> list[ParkedCause]:
        if not os.path.exists(self.path):
            return []
        sql = (
            "SELECT coalesce(code, error), error, count(*), max(parked_at) FROM dead_letter GROUP BY 1 "
            "ORDER BY 3 DESC, 4 DESC LIMIT ?"
        )
        with self._connected(create=False) as connection:
            return [ParkedCause(*row) for row in connection.execute(sql, (limit,))]

    def get(self, record_id: str) -> StoredDeadLetter | None:
        found = self._select("SELECT * FROM dead_letter WHERE record_id = ?", record_id)
        return found[0] if found else None

    def remove(self, record_id: str) -> bool:
        if not os.path.exists(self.path):
            return False
        with self._connected(create=False) as connection:
            sql = "DELETE FROM dead_letter WHERE record_id = ?"
            return connection.execute(sql, (record_id,)).rowcount > 0

    def settle(self, event: StoredDeadLetter, by: str) -> bool:
        return bool(self.settle_all([event], by))

    def settle_all(self, events: Sequence[StoredDeadLetter], by: str) -> list[StoredDeadLetter]:
        if not os.path.exists(self.path):
            return []
        now = time.time()
        sql = "DELETE FROM dead_letter WHERE record_id = ?"
        with self._connected(create=True) as connection:
            there = [event for event in events if connection.execute(sql, (event.record_id,)).rowcount > 0]
            of_others = [(event.parked_by, now) for event in there if event.parked_by != by]
            if of_others:
                connection.execute("DELETE FROM retried WHERE retried_at < ?", (now - _WORD_SECONDS,))
                connection.executemany("INSERT INTO retried VALUES (?, ?)", of_others)
        return there

    def settled_by_others(self, parked_by: str) -> int:
        changed, settled = self._state()
        if not changed or changed == self._heard:
            return 0
        found = 0
        with self._connected(create=False) as connection:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'retried'").fetchone():
                known = connection.execute("SELECT count(*) FROM retried WHERE parked_by = ?", (parked_by,))
                if known.fetchone()[0]:
                    found = connection.execute("DELETE FROM retried WHERE parked_by = ?", (parked_by,)).rowcount
        self._heard = changed if settled else ()
        return found

    def count(self) -> int:
        changed, settled = self._state()
        if not changed:
            return 0
        if self._counted[0] != changed:
            with self._connected(create=False) as connection:
                found = int(connection.execute("SELECT count(*) FROM dead_letter").fetchone()[0])
            self._counted = (changed if settled else (), found)
        return self._counted[1]

    def _state(self) -> tuple[tuple[int, ...], bool]:
        """Return what changes with the file, and whether that is certain by now; nothing where there is no file."""
        try:
            seen = os.stat(self.path)
        except OSError:
            return (), False
        if seen.st_size == 0:  # somebody makes it just now
            return (), False
        return (seen.st_mtime_ns, seen.st_size, seen.st_ino), time.time() - seen.st_mtime > _CLOCK_SECONDS

    def size_bytes(self) -> int:
        try:
            return os.path.getsize(self.path)
        except OSError:
            return 0

    def _select(self, sql: str, *parameters: str | float) -> list[StoredDeadLetter]:
        if not os.path.exists(self.path):
            return []
        with self._connected(create=False) as connection:
            return [StoredDeadLetter(*row) for row in connection.execute(sql, parameters)]

    @contextmanager
    def _connected(self, *, create: bool) -> Iterator[sqlite3.Connection]:
        with quiet, self._as_outbox_error():
            if create:
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                if create:
                    connection.executescript(_schema())
                with connection:
                    yield connection
            finally:
                connection.close()

    @contextmanager
    def _as_outbox_error(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise OutboxError(f"the dead letters {self.path} failed: {error}") from error


class MemoryDeadLetters:
    """Dead letters in memory, beside an outbox in memory."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._events: dict[str, StoredDeadLetter] = {}
        register_renewed(self)

    def renew_after_fork(self) -> None:
        """In a forked child: forget them, they are the parent's."""
        self._events = {}

    def park(self, events: Iterable[StoredDeadLetter]) -> None:
        with self._lock:
            self._events.update({event.record_id: event for event in events})

    def all(self, limit: int | None = None) -> list[StoredDeadLetter]:
        with self._lock:
            return list(self._events.values())[:limit]

    def page(self, after: Place | None, limit: int) -> list[StoredDeadLetter]:
        later = sorted((one for one in self.all() if after is None or place_of(one) > after), key=place_of)
        return later[:limit]

    def parked_since(self, at: float) -> ParkedSince:
        found = [one for one in self.all() if one.parked_at > at]
        newest = max(found, key=place_of, default=None)
        return ParkedSince() if newest is None else ParkedSince(len(found), newest.parked_at, newest.error)

    def causes(self, limit: int) -> list[ParkedCause]:
        by_cause: dict[str, list[StoredDeadLetter]] = {}
        for one in self.all():
            by_cause.setdefault(one.code or one.error, []).append(one)
        found = [
            ParkedCause(cause, ones[-1].error, len(ones), max(one.parked_at for one in ones))
            for cause, ones in by_cause.items()
        ]
        return sorted(found, key=lambda one: (-one.count, -one.newest_at))[:limit]

    def get(self, record_id: str) -> StoredDeadLetter | None:
        return self._events.get(record_id)

    def remove(self, record_id: str) -> bool:
        with self._lock:
            return self._events.pop(record_id, None) is not None

    def settle(self, event: StoredDeadLetter, by: str) -> bool:
        return self.remove(event.record_id)

    def settle_all(self, events: Sequence[StoredDeadLetter], by: str) -> list[StoredDeadLetter]:
        return [event for event in events if self.remove(event.record_id)]

    def settled_by_others(self, parked_by: str) -> int:
        return 0  # there are none who could

    def count(self) -> int:
        return len(self._events)

    def size_bytes(self) -> int:
        with self._lock:
            return sum(len(event.body) for event in self._events.values())


def place_of(event: StoredDeadLetter) -> Place:
    """Return where a dead letter stands in the order of :meth:`DeadLetterStore.page`."""
    return event.parked_at, event.record_id


def _schema() -> str:
    return resources.files(__package__).joinpath("dead_letters.sql").read_text(encoding="utf-8")
