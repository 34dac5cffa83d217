"""The SQLite file of the dead letters: each use opens it, holds nothing while it waits, and closes it.

SQLite's own busy time is 0: where somebody else holds the file (a backup, a stopped process), a try ends at once. Who
may wait tries again, and holds no lock of ours in between.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.outbox.dead_letter_store import DeadLettersBusyError
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import quiet
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.runtime.owner import give_to_owner
from otel_audit_exporter.runtime.threads import Event

COLUMNS: Final = (
    *("record_id", "body", "error", "code", "attempts", "first_failed_at", "parked_at", "parked_by", "reasons"),
)
# Read at once, and not at the first use, which a fork could interrupt.
_SCHEMA: Final = resources.files(__package__).joinpath("dead_letters.sql").read_text(encoding="utf-8")
_NAMES: Final = ", ".join(COLUMNS)
SELECT: Final = f"SELECT {_NAMES} FROM dead_letter"  # noqa: S608  # of our own names
INSERT: Final = f"INSERT OR REPLACE INTO dead_letter ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
_VERSION: Final = 2  # `user_version`; an earlier file may lack the column `reasons`, and has no index
_PAUSE_SECONDS: Final = 0.01
T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class _ForeignFileError(sqlite3.DatabaseError):
    """Say that a file of this name holds something else."""


class LetterFile:
    """One such file, shared by the processes of a destination. Safe to use from any thread."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def read(self, work: Work[T], default: T, wait: float) -> T:
        """Return what ``work`` finds; ``default`` where there is no file.

        Somebody who holds the file is waited for, for ``wait`` seconds; then it is a :class:`DeadLettersBusyError`.
        Any other trouble is an :class:`OutboxError`.
        """
        return self._use(work, default, wait, begin=None)

    def change(self, work: Work[T], default: T, wait: float) -> T:
        """Do as :meth:`read` does, in a transaction."""
        return self._use(work, default, wait, begin="BEGIN IMMEDIATE")

    def keep(self, rows: Iterable[tuple[Any, ...]], wait: float) -> None:
        """Store these rows, in a file that is made where there is none."""
        rows = list(rows)
        self.write(lambda connection: connection.executemany(INSERT, rows), wait)

    def write(self, work: Work[T], wait: float) -> None:
        """Do as :meth:`change` does, in a file that is made where there is none.

        A damaged or foreign file is set aside; a caller who only reads gets an error that it cannot be read.
        """
        self._use(work, None, wait, begin="BEGIN IMMEDIATE", create=True)

    def _use(self, work: Work[T], default: T, wait: float, *, begin: str | None, create: bool = False) -> T:
        until, aside = Clock.monotonic() + wait, False
        while True:
            seen = self._inode()
            if seen is None and not create:
                return default
            try:
                return self._try(work, default, begin, create)
            except (sqlite3.Error, OSError) as error:
                if _is_busy(error):
                    if Clock.monotonic() >= until:
                        raise DeadLettersBusyError(f"the dead letters {self.path} are held by somebody else") from error
                elif create and _is_damage(error) and not aside:
                    aside = True
                    self._set_aside(seen, error)
                    continue
                else:
                    raise OutboxError(f"the dead letters {self.path} failed: {error}") from error
            Event().wait(_PAUSE_SECONDS)

    def _try(self, work: Work[T], default: T, begin: str | None, create: bool) -> T:
        with quiet:  # no fork in the middle: the child would have SQLite's own locks for ever
            if create:
                flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
                os.close(os.open(self.path, flags, 0o600))
                give_to_owner(self.path)
            with closing(self._connection()) as connection:
                if not _prepare(connection, create):
                    return default
                if begin is None:
                    return work(connection)
                connection.execute(begin)
                found = work(connection)
                connection.execute("COMMIT")
                return found

    def _connection(self) -> sqlite3.Connection:
        uri = f"{Path(self.path).absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _inode(self) -> int | None:
        try:
            return os.stat(self.path).st_ino
        except OSError:
            return None

    # --- a file that is damaged, or another one ---------------------------------------------------------------

    def _set_aside(self, damaged: int | None, why: Exception) -> None:
        """Keep a damaged or foreign file under another name, and take over what can be read of it."""
        if self._inode() != damaged:  # another process has done so just now
            return
        saved = [] if isinstance(why, _ForeignFileError) else self._readable()
        aside = f"{self.path}.damaged-{time.time_ns() // 10**9}"
        try:
            os.replace(self.path, aside)
            with suppress(FileNotFoundError):
                os.replace(f"{self.path}-journal", f"{aside}-journal")
        except OSError as error:
            raise OutboxError(f"the dead letters {self.path} are damaged ({why}): {error}") from error
        logger.error(
            "audit: dead letters damaged: %d saved from the file (%s), which is kept as %s", len(saved), why, aside
        )
        if saved:
            self.keep(saved, 1.0)

    def _readable(self) -> list[tuple[Any, ...]]:
        saved: list[tuple[Any, ...]] = []
        with suppress(sqlite3.Error), quiet, closing(self._connection()) as connection:
            saved.extend(connection.execute(SELECT))  # up to the place that is damaged
        return saved


def _prepare(connection: sqlite3.Connection, create: bool) -> bool:
    """Bring the tables up to date; False where there are none, and none are to be made."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == _VERSION:
        return True
    known = {row[1] for row in connection.execute("PRAGMA table_info(dead_letter)")}
    missing = set(COLUMNS) - known
    if version > _VERSION and not missing:  # a newer version's, which has more
        return True
    if not known and not _has_tables(connection):
        if create:
            _upgrade(connection)
        return create  # else somebody makes it just now
    if missing - {"reasons"}:
        raise _ForeignFileError("it holds something else")
    _upgrade(connection)
    return True


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' LIMIT 1").fetchone() is not None


def _upgrade(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    known = {row[1] for row in connection.execute("PRAGMA table_info(dead_letter)")}
    if known and "reasons" not in known:
        connection.execute("ALTER TABLE dead_letter ADD COLUMN reasons TEXT")
    for statement in _SCHEMA.split(";"):
        connection.execute(statement)
    connection.execute("COMMIT")


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _is_damage(error: Exception) -> bool:
    name = getattr(error, "sqlite_errorname", "")
    return isinstance(error, _ForeignFileError) or name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
