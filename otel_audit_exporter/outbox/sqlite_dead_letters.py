"""Dead letters beside an outbox on disk: one SQLite file per destination, shared by its processes."""

from __future__ import annotations

import copy
import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from otel_audit_exporter.outbox.dead_letter_store import (
    ParkedCause,
    ParkedSince,
    Place,
    StoredDeadLetter,
    one_request,
)
from otel_audit_exporter.outbox.letter_file import SELECT, LetterFile
from otel_audit_exporter.runtime.clock import Clock

_CLOCK_SECONDS: Final = 2.0  # no file system's clock is coarser: a younger change may hide another one
_WORD_SECONDS: Final = 7 * 86_400.0  # who has not asked for so long does not run any more


class _Seen:
    """What was found in the file when it was read last, and what it was like then."""

    def __init__(self) -> None:
        self.counted: tuple[tuple[int, ...], int] = ((), 0)
        self.parked: tuple[tuple[float, ...], ParkedSince] = ((), ParkedSince())
        self.asked: tuple[int, ...] = ()


class SqliteDeadLetterStore:
    """Dead letters in one SQLite file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file = LetterFile(path)
        self._wait = 0.0
        self._seen = _Seen()

    def waiting(self, seconds: float) -> SqliteDeadLetterStore:
        patient = copy.copy(self)
        patient._wait = seconds
        return patient

    def park(self, events: Iterable[StoredDeadLetter]) -> None:
        self._file.keep(events, self._wait)

    def all(self, limit: int | None = None) -> list[StoredDeadLetter]:
        most = -1 if limit is None else limit
        return self._select(f"{SELECT} ORDER BY parked_at, record_id LIMIT ?", most)

    def page(self, after: Place | None, limit: int) -> list[StoredDeadLetter]:
        place = after or (float("-inf"), "")
        sql = f"{SELECT} WHERE (parked_at, record_id) > (?, ?) ORDER BY parked_at, record_id LIMIT ?"

        def read(connection: sqlite3.Connection) -> list[StoredDeadLetter]:
            return one_request(connection.execute(sql, (*place, limit)))

        return self._file.read(read, [], self._wait)

    def parked_since(self, at: float) -> ParkedSince:
        changed, settled = self._state()
        if not changed:
            return ParkedSince()
        asked = (*changed, at)
        if self._seen.parked[0] != asked:
            sql = "SELECT count(*), max(parked_at), error FROM dead_letter WHERE parked_at > ?"
            row = self._file.read(lambda connection: connection.execute(sql, (at,)).fetchone(), (0, 0, ""), self._wait)
            found = ParkedSince(row[0], row[1] or 0.0, row[2] or "")
            self._seen.parked = (asked if settled else (), found)
            return found
        return self._seen.parked[1]

    def causes(self, limit: int) -> list[ParkedCause]:
        sql = (
            "SELECT coalesce(code, error), error, count(*), max(parked_at) FROM dead_letter GROUP BY 1 "
            "ORDER BY 3 DESC, 4 DESC LIMIT ?"
        )

        def read(connection: sqlite3.Connection) -> list[ParkedCause]:
            return [ParkedCause(*row) for row in connection.execute(sql, (limit,))]

        return self._file.read(read, [], self._wait)

    def get(self, record_id: str) -> StoredDeadLetter | None:
        found = self._select(f"{SELECT} WHERE record_id = ?", record_id)
        return found[0] if found else None

    def remove(self, record_id: str) -> bool:
        sql = "DELETE FROM dead_letter WHERE record_id = ?"
        return self._file.change(
            lambda connection: connection.execute(sql, (record_id,)).rowcount > 0, False, self._wait
        )

    def correct(self, event: StoredDeadLetter) -> bool:
        keep = "INSERT INTO original SELECT record_id, body, error, reasons, ? FROM dead_letter WHERE record_id = ?"
        change = "UPDATE dead_letter SET body = ?, error = ?, code = ?, reasons = ? WHERE record_id = ?"

        def correct(connection: sqlite3.Connection) -> bool:
            connection.execute(keep, (Clock.wall(), event.record_id))
            new = (event.body, event.error, event.code, event.reasons, event.record_id)
            return connection.execute(change, new).rowcount > 0

        return self._file.change(correct, False, self._wait)

    def originals(self, record_id: str) -> list[bytes]:
        sql = "SELECT body FROM original WHERE record_id = ? ORDER BY corrected_at"
        return self._file.read(
            lambda connection: [row[0] for row in connection.execute(sql, (record_id,))], [], self._wait
        )

    def settle_all(self, events: Sequence[StoredDeadLetter], by: str) -> list[StoredDeadLetter]:
        now = Clock.wall()
        sql = "DELETE FROM dead_letter WHERE record_id = ?"

        def settle(connection: sqlite3.Connection) -> list[StoredDeadLetter]:
            there = [event for event in events if connection.execute(sql, (event.record_id,)).rowcount > 0]
            of_others = [(event.parked_by, now) for event in there if event.parked_by != by]
            if of_others:
                connection.execute("DELETE FROM retried WHERE retried_at < ?", (now - _WORD_SECONDS,))
                connection.executemany("INSERT INTO retried VALUES (?, ?)", of_others)
            return there

        return self._file.change(settle, [], self._wait)

    def settled_by_others(self, parked_by: str) -> int:
        changed, settled = self._state()
        if not changed or changed == self._seen.asked:
            return 0
        known = "SELECT count(*) FROM retried WHERE parked_by = ?"
        found = self._file.read(
            lambda connection: int(connection.execute(known, (parked_by,)).fetchone()[0]), 0, self._wait
        )
        if found:
            sql = "DELETE FROM retried WHERE parked_by = ?"
            found = self._file.change(lambda connection: connection.execute(sql, (parked_by,)).rowcount, 0, self._wait)
        self._seen.asked = changed if settled else ()
        return found

    def count(self) -> int:
        changed, settled = self._state()
        if not changed:
            return 0
        if self._seen.counted[0] != changed:
            sql = "SELECT count(*) FROM dead_letter"
            found = self._file.read(lambda connection: int(connection.execute(sql).fetchone()[0]), 0, self._wait)
            self._seen.counted = (changed if settled else (), found)
            return found
        return self._seen.counted[1]

    def _state(self) -> tuple[tuple[int, ...], bool]:
        """Return what changes with the file, and whether that is certain by now; nothing where there is no file."""
        try:
            seen = os.stat(self.path)
        except OSError:
            return (), False
        if seen.st_size == 0:  # somebody makes it just now
            return (), False
        return (seen.st_mtime_ns, seen.st_size, seen.st_ino), Clock.wall() - seen.st_mtime > _CLOCK_SECONDS

    def size_bytes(self) -> int:
        try:
            return os.path.getsize(self.path)
        except OSError:
            return 0

    def _select(self, sql: str, *parameters: str | float) -> list[StoredDeadLetter]:
        def read(connection: sqlite3.Connection) -> list[StoredDeadLetter]:
            return [StoredDeadLetter(*row) for row in connection.execute(sql, parameters)]

        return self._file.read(read, [], self._wait)
