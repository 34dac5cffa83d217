"""Named places at which a process dies, and ways in which the code is broken on purpose.

All of it is patched into the worker process from here: the package knows nothing of it.
"""

import os
import signal
import sqlite3
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

import otel_audit_exporter
from otel_audit_exporter.delivery import bisect_insert as delivery
from otel_audit_exporter.delivery import channel as lane
from otel_audit_exporter.outbox import dead_letter_store as deadletters
from otel_audit_exporter.outbox import directory as folder
from otel_audit_exporter.outbox import store as outbox
from otel_audit_exporter.sinks import sqlite as sqlite_sink
from otel_audit_exporter.sinks.supabase import rest_client
from otel_audit_exporter.sinks.supabase import sink as supabase_sink

Patch = Callable[[int], None]

_SINKS = (supabase_sink.SupabaseSink, sqlite_sink.SQLiteSink)


_fired: Path | None = None


def fired_file(directory: Path, pid: int) -> Path:
    """Where process `pid` writes down that its failpoint was reached: its exit alone looks like any other kill."""
    return directory / f"{pid}.fired"


def die() -> None:
    """Say that the failpoint was reached, and end this process as `kill -9` does."""
    if _fired is not None:
        _fired.touch()
    os.kill(os.getpid(), signal.SIGKILL)


class _Countdown:
    """Dies at the given visit, whichever thread makes it."""

    def __init__(self, visits: int) -> None:
        self._left = visits
        self._lock = threading.Lock()

    def visit(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                die()


def _around(owner: Any, name: str, visits: int, *, before: bool) -> None:
    original, countdown = getattr(owner, name), _Countdown(visits)

    def patched(*args: Any, **kwargs: Any) -> Any:
        if before:
            countdown.visit()
        result = original(*args, **kwargs)
        if not before:
            countdown.visit()
        return result

    setattr(owner, name, patched)


def _around_insert(visits: int, *, before: bool) -> None:
    for sink in _SINKS:
        _around(sink, "insert", visits, before=before)


def _at_statement(beginning: str, visits: int) -> None:
    """Die when SQLite begins the statement: in the middle of a transaction where it is not the first."""
    original, countdown = outbox._open, _Countdown(visits)

    def watch(statement: str) -> None:
        if statement.startswith(beginning):
            countdown.visit()

    def patched(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = original(*args, **kwargs)
        connection.set_trace_callback(watch)
        return connection

    outbox._open = patched


AFTER_A_CALL = "after a call has returned"
FAILPOINTS: dict[str, Patch] = {
    AFTER_A_CALL: lambda n: _around(otel_audit_exporter, "audit_event", n, before=False),
    "before the event is committed": lambda n: _around(lane.Lane, "accept", n, before=True),
    "between the outbox's commit and the emit": lambda n: _around(lane.Lane, "accept", n, before=False),
    "before the sink's insert": lambda n: _around_insert(n, before=True),
    "between the sink's commit and the settle": lambda n: _around_insert(n, before=False),
    "in the middle of a settle": lambda n: _at_statement("DELETE FROM event", 5 * n),
    "before a settle's commit": lambda n: _at_statement("COMMIT", n + 1),
    "after a settle": lambda n: _around(outbox.OutboxFile, "settle", n, before=False),
    "while a new outbox file is proved": lambda n: _at_statement("DELETE FROM event", 1),
    "while a new outbox file is made": lambda n: _around(outbox, "_prepare", n, before=True),
    "before an orphan is opened": lambda n: _around(folder.OutboxDirectory, "_open_orphan", n, before=True),
    "between an orphan's opening and its adoption": lambda n: _around(
        folder.OutboxDirectory, "_open_orphan", n, before=False
    ),
    "before an emptied file is removed": lambda n: _around(folder, "_unlink", n, before=True),
    "between an emptied file's removal and that of its lock": lambda n: _around(folder, "_unlink", n, before=False),
    "before a row is parked": lambda n: _around(deadletters.SqliteDeadLetterStore, "park", n, before=True),
    "between parking and settling": lambda n: _around(deadletters.SqliteDeadLetterStore, "park", n, before=False),
}


# --- broken on purpose: each of these must be found out by the checker -------------------------------------------


def _settle_before_the_answer(_: int) -> None:
    original = delivery._Run._insert

    def patched(self: Any, items: Sequence[Any]) -> Any:
        self._on_stored(items)
        return original(self, items)

    delivery._Run._insert = patched  # type: ignore[method-assign]


def _fresh_id_per_retry(_: int) -> None:
    def with_fresh_id(row: bytes) -> bytes:
        return orjson.dumps(orjson.loads(row) | {"id": str(uuid.uuid4())})

    _patch_rows(with_fresh_id)


def _any_2xx(_: int) -> None:
    rest_client._stored = lambda status, headers: 200 <= status < 300

    def believing(self: Any, requests: Any, rows: Sequence[bytes], prefer: str) -> Any:
        self._post(requests, self._address, f"{prefer}return=minimal", rows)
        return supabase_sink._Taken(len(rows))

    supabase_sink.SupabaseSink._insert_by_ids = believing  # type: ignore[method-assign]


def _synchronous_off(_: int) -> None:
    original = outbox._prepare

    def patched(connection: sqlite3.Connection, **options: Any) -> None:
        original(connection, **options)
        connection.execute("PRAGMA synchronous = OFF")

    outbox._prepare = patched


def _memory_before_disk(_: int) -> None:
    """The event is said to be accepted while it is only in a transaction that is still open."""

    def lazily(self: Any, body: bytes, then: Callable[[], None]) -> int:
        with self.lock:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN")
            self.last_seq += 1
            self._connection.execute("INSERT INTO event VALUES (?, 0, ?)", (self.last_seq, body))
            then()
            return int(self.last_seq)

    outbox.OutboxFile.append = lazily  # type: ignore[method-assign]


def _value_changed_on_the_way(_: int) -> None:
    _patch_rows(lambda row: row.replace(b"kind_1", b"kind_2"))


def _patch_rows(change: Callable[[bytes], bytes]) -> None:
    original = lane.Lane._rows
    lane.Lane._rows = lambda self, entries: list(map(change, original(self, entries)))  # type: ignore[method-assign]


BREAKS: dict[str, Patch] = {
    "settle before the sink's answer": _settle_before_the_answer,
    "a fresh id per retry": _fresh_id_per_retry,
    "any 2xx accepted": _any_2xx,
    "synchronous off": _synchronous_off,
    "accepted before the commit": _memory_before_disk,
    "a value changed on the way": _value_changed_on_the_way,
}


def apply(failpoint: str | None, visits: int, breaks: Sequence[str] = (), *, reports: Path) -> None:
    """Patch this process; it reports in the directory `reports` that it reached its failpoint."""
    global _fired
    _fired = fired_file(reports, os.getpid())
    for name in breaks:
        BREAKS[name](0)
    if failpoint is not None:
        FAILPOINTS[failpoint](visits)
