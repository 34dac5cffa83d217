"""The embedded table: one SQLite file, made on first use, that any SQLite tool can read.

The journal is a rollback journal (SQLite's default), not WAL: several processes may write the file, and WAL
with several writers can corrupt it in SQLite 3.7.0 to 3.51.2 (https://sqlite.org/wal.html#walresetbug).
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson

from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.json.parser import NOT_JSON, JsonNumber, parse_json
from otel_audit_exporter.runtime.fork_safety import Lock, register_fork_aware
from otel_audit_exporter.runtime.owner import give_to_owner
from otel_audit_exporter.runtime.threads import RLock
from otel_audit_exporter.sinks.base import JSON_COLUMNS, SinkError, no_file_left, not_stored, seconds_left
from otel_audit_exporter.sinks.known_rows import KnownRows
from otel_audit_exporter.sinks.sql_names import quoted, quoted_names
from otel_audit_exporter.sinks.verdict import OUT_OF_TIME, Fault, Verdict

DEFAULT_NOT_NULL: Final = frozenset({"yacht_id", "entity_type", "action", "entity_id", "created_at"})

# A lock on the file is waited for in steps, so that a fork, which waits for this sink, does not wait long.
_BUSY_STEP_SECONDS: Final = 0.1
_PAUSE_SECONDS: Final = 0.005

# orjson rounds numbers with more digits than a double has; the slower reader keeps every one.
_LONG_NUMBER: Final = re.compile(rb"\d{18}")
_SQLITE_INTEGERS: Final = range(-(2**63), 2**63)
_LOSSLESS: Final = Encoder()

_NO_ROW: Final = Verdict(Fault.RECORD, "make rows for this sink's columns")


class SQLiteSink:
    """Insert rows into a table of a SQLite file; file (0600) and table are made where they are missing.

    An insert is one transaction, synced to the disk; a row that a trigger drops is refused. ``path``: the file, in an
    existing directory. ``columns``: those that every row has. ``key_columns``: the primary key. ``json_columns``: hold
    JSON text for any value; in the others text and numbers are stored as such. ``not_null``: the columns that a table
    made here refuses null in. ``compared_columns``: those in which a row whose key is there should equal the one in the
    table: a difference is logged, and counted in ``known_rows``.
    """

    name = "sqlite"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str = "pms_audit_log",
        columns: Sequence[str],
        key_columns: Sequence[str] = ("id",),
        json_columns: Collection[str] = JSON_COLUMNS,
        not_null: Collection[str] = DEFAULT_NOT_NULL,
        compared_columns: Collection[str] | None = None,
    ) -> None:
        self._path = Path(path).absolute()
        self._columns = tuple(columns)
        self._encoders = [_json_text if column in json_columns else _plain for column in columns]
        self._create = _create_table(table, columns, key_columns, not_null)
        self._insert = _insert_into(table, columns, key_columns)
        self._keys = [at for at, column in enumerate(self._columns) if column in key_columns]
        self.known_rows = KnownRows(columns, compared_columns)
        self._find = _find_in(table, self._columns, [self._columns[at] for at in self._keys])
        self._table = table
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._inherited: list[sqlite3.Connection] = []
        self._lock = RLock()
        register_fork_aware(self)

    @property
    def target(self) -> str:
        return f"{self._path} {self._table}"

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Store every row whose key is not there yet, in one transaction."""
        values = [self._values(row) for row in rows]
        while not self._stored(values, deadline):
            time.sleep(min(_PAUSE_SECONDS, seconds_left(deadline)))

    def try_insert(self, row: bytes, deadline: float) -> bool:
        """Insert a row and roll back; return whether it was in the table until then. Raises as :meth:`insert` does."""
        with self._locked(deadline):
            try:
                connection = self._connect()
                connection.execute(f"PRAGMA busy_timeout = {int(seconds_left(deadline) * 1000)}")
                connection.execute("BEGIN IMMEDIATE")
                before = connection.total_changes
                connection.execute(self._insert, self._values(row))
                return connection.total_changes > before
            except sqlite3.Error as error:
                raise sqlite_error(error) from None
            finally:
                self._disconnect()  # which rolls back

    def close(self) -> None:
        """Close the file; a later insert opens it again."""
        with self._lock:
            self._disconnect()

    # SQLite keeps the state of its locks in the process's memory: a child forked in the middle of a transaction
    # would take the parent's lock for its own, and write beside it. So a fork waits until no sink is writing.

    def locks_of_fork(self) -> list[Lock]:
        """Return the lock that is held while the sink writes."""
        return [self._lock]

    def renew_after_fork(self) -> None:
        """Forget the parent's connection, which stays open: closing it here could free the parent's locks."""
        self._lock = RLock()
        if self._connection is not None:
            self._inherited.append(self._connection)
            self._connection = None

    def __repr__(self) -> str:
        return f"<SQLiteSink {self.target}>"

    def _stored(self, values: Sequence[Sequence[Any]], deadline: float) -> bool:
        with self._locked(deadline):
            try:
                self._store(values, deadline)
                return True
            except sqlite3.Error as error:
                if _is_busy(error) and seconds_left(deadline) > 0:
                    return False
                self._disconnect()
                raise sqlite_error(error) from None  # a trigger's words may hold a row's values

    def _store(self, values: Sequence[Sequence[Any]], deadline: float) -> None:
        connection = self._connect()
        wait = min(_BUSY_STEP_SECONDS, seconds_left(deadline))
        connection.execute(f"PRAGMA busy_timeout = {int(wait * 1000)}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            inserted = connection.executemany(self._insert, values).rowcount
            there = range(len(values)) if inserted == len(values) else self._there(connection, values)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if len(there) < len(values):
            raise not_stored(there)

    def _there(self, connection: sqlite3.Connection, values: Sequence[Sequence[Any]]) -> Sequence[int]:
        """Return the places of the rows that the table has, also from earlier; log those with other content."""
        places = []
        for place, row in enumerate(values):
            found = connection.execute(self._find, [row[at] for at in self._keys]).fetchone()
            if found is not None:
                places.append(place)
                sent, there = (dict(zip(self._columns, one, strict=True)) for one in (row, found))
                self.known_rows.compare(self.target, sent, there)
        return places

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and self._file != self._file_there():
            self._disconnect()  # removed or replaced: what is written to the open one is in no table any more
        return self._connection or self._open()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        self._make_file()
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_STEP_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(self._create)
        except BaseException:
            connection.close()
            raise
        self._connection, self._file = connection, self._file_there()
        return connection

    def _make_file(self) -> None:
        """Make a missing file for its owner alone: SQLite would make it for everybody to read."""
        with suppress(OSError):  # it is there, or SQLite raises the error
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            give_to_owner(self._path)

    def _file_there(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _values(self, row: bytes) -> list[Any]:
        try:
            fields = _fields(row)
            return [encode(fields[name]) for name, encode in zip(self._columns, self._encoders, strict=True)]
        except (ValueError, KeyError, TypeError):
            raise SinkError(_NO_ROW, "a row is no JSON object with a value for every column") from None

    @contextmanager
    def _locked(self, deadline: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=seconds_left(deadline)):
            raise SinkError(OUT_OF_TIME, "another thread is writing the file")
        try:
            yield
        finally:
            self._lock.release()


def _fields(row: bytes) -> Any:
    if not _LONG_NUMBER.search(row):
        try:
            return orjson.loads(row)
        except orjson.JSONDecodeError:  # nested too deep, a number beyond a double, or no JSON
            pass
    fields = parse_json(row.decode())
    if fields is NOT_JSON:
        raise ValueError("no JSON object")
    return fields


def _plain(value: Any) -> Any:
    if isinstance(value, JsonNumber):
        value = int(value.text) if len(value.text) < 20 and value.text.isdigit() else value.text
    if isinstance(value, dict | list) or (isinstance(value, int) and value not in _SQLITE_INTEGERS):
        return _json_text(value)
    return value


def _json_text(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode()
    except TypeError:  # what only the slower reader gives, or nested too deep
        return _LOSSLESS.value([value])[1:-1].decode()  # in a list: a string stays a string, even one that holds JSON


def _create_table(table: str, columns: Sequence[str], keys: Sequence[str], not_null: Collection[str]) -> str:
    lines = [
        f"{quoted(column)} TEXT{' NOT NULL' if column in not_null or column in keys else ''}" for column in columns
    ]
    return f"CREATE TABLE IF NOT EXISTS {quoted(table)} ({', '.join(lines)}, PRIMARY KEY ({quoted_names(keys)}))"


def _insert_into(table: str, columns: Sequence[str], keys: Sequence[str]) -> str:
    # Not INSERT OR IGNORE, which drops a row that violates NOT NULL or CHECK without a word.
    holders = ", ".join("?" * len(columns))
    return (
        f"INSERT INTO {quoted(table)} ({quoted_names(columns)}) VALUES ({holders})"  # noqa: S608  # quoted names
        f" ON CONFLICT ({quoted_names(keys)}) DO NOTHING"
    )


def _find_in(table: str, columns: Sequence[str], keys: Sequence[str]) -> str:
    there = " AND ".join(f"{quoted(key)} IS ?" for key in keys)
    return f"SELECT {quoted_names(columns)} FROM {quoted(table)} WHERE {there}"  # noqa: S608  # quoted names


# By SQLite's error name (https://sqlite.org/rescode.html), the extended one first, then its beginning.
_REMEDIES: Final[Mapping[str, tuple[Fault, str]]] = {
    "SQLITE_BUSY": (Fault.TRANSIENT, "find what holds a lock on the file"),
    "SQLITE_LOCKED": (Fault.TRANSIENT, "find what holds a lock on the file"),
    "SQLITE_FULL": (Fault.TRANSIENT, "free disk space"),
    "SQLITE_IOERR": (Fault.TRANSIENT, "check the disk, its space and its quota"),
    "SQLITE_NOMEM": (Fault.TRANSIENT, ""),
    "SQLITE_INTERRUPT": (Fault.TRANSIENT, ""),
    "SQLITE_PROTOCOL": (Fault.TRANSIENT, ""),
    "SQLITE_SCHEMA": (Fault.TRANSIENT, ""),
    "SQLITE_CONSTRAINT_FOREIGNKEY": (Fault.RECORD, "write the row that this one refers to"),
    "SQLITE_CONSTRAINT": (Fault.RECORD, "correct the row, or relax the constraint"),
    "SQLITE_TOOBIG": (Fault.RECORD, "shorten the value"),
    "SQLITE_MISMATCH": (Fault.RECORD, "correct the value"),
    "SQLITE_READONLY": (Fault.CONFIGURATION, "make file and directory writable for this process"),
    "SQLITE_CANTOPEN": (
        Fault.CONFIGURATION,
        "create the directory and make it writable, or set OTEL_AUDIT_SQLITE_PATH to a file in one that is",
    ),
    "SQLITE_PERM": (Fault.CONFIGURATION, "make file and directory writable for this process"),
    "SQLITE_AUTH": (Fault.CONFIGURATION, "make file and directory writable for this process"),
    "SQLITE_NOTADB": (Fault.CONFIGURATION, "set OTEL_AUDIT_SQLITE_PATH to a SQLite file, or to a new one"),
    "SQLITE_CORRUPT": (Fault.CONFIGURATION, "the file is damaged: restore it, or move it away"),
    "SQLITE_ERROR": (
        Fault.CONFIGURATION,
        "compare the table with OTEL_AUDIT_TABLE and OTEL_AUDIT_COLUMNS: add the column, or take it out",
    ),
}
_NAME: Final = r"[\w.$ -]+"
_SENTENCES: Final = re.compile(
    rf"^(?:(?:NOT NULL|UNIQUE|CHECK|FOREIGN KEY) constraint failed(?:: {_NAME}(?:, {_NAME})*)?"
    rf"|table {_NAME} has no column named {_NAME}|no such (?:table|column): {_NAME}"
    r"|database is locked|database table is locked|database or disk is full|disk I/O error"
    r"|unable to open database file|attempt to write a readonly database|file is not a database"
    r"|database disk image is malformed|string or blob too big|datatype mismatch"
    r"|ON CONFLICT clause does not match any PRIMARY KEY or UNIQUE constraint)$"
)


def classify_sqlite(error: sqlite3.Error) -> Verdict:
    """Say whose fault an error of SQLite is."""
    name = _error_name(error)
    for known in (name, "_".join(name.split("_")[:2])):
        if known in _REMEDIES:
            fault, remedy = _REMEDIES[known]
            return Verdict(fault, remedy, foreign_key=known == "SQLITE_CONSTRAINT_FOREIGNKEY")
    return Verdict(Fault.RECORD if isinstance(error, sqlite3.DataError) else Fault.TRANSIENT)


def sqlite_error(error: sqlite3.Error) -> SinkError:
    """Say what an error of SQLite is, with no value of a row in its words."""
    if _error_name(error).startswith("SQLITE_CANTOPEN") and (full := no_file_left()):
        return full
    said = str(error)
    message = said if _SENTENCES.match(said) else "SQLite refuses the insert"
    return SinkError(classify_sqlite(error), message, code=_error_name(error) or None)


def _error_name(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or ""


def _is_busy(error: sqlite3.Error) -> bool:
    return _error_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
