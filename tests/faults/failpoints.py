"""Named places at which a process dies, and ways in which the code is broken on purpose.

All of it is patched into the worker process from here: the package knows nothing of it.
"""

import os
import signal
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

import otel_audit_exporter
from otel_audit_exporter.delivery import bisect_insert, channel, event_sender
from otel_audit_exporter.outbox import (
    adoption,
    directory,
    ended,
    frames,
    group_commit,
    log,
    reader,
    segment,
    space,
    stripe,
)
from otel_audit_exporter.outbox import sqlite_dead_letters as deadletters
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


_SEGMENTS = (segment.MappedSegment, segment.WrittenSegment)


def _in_put(stage: str, visits: int) -> None:
    """Die in the middle of the stores of an append."""
    for kind in _SEGMENTS:
        countdown, original = _Countdown(visits), kind.put
        kind.put = _dying_put(stage, countdown, original)  # type: ignore[method-assign]


def _dying_put(stage: str, countdown: _Countdown, original: Any) -> Any:
    def put(self: Any, offset: int, end: int, payload: bytes, crc: int) -> None:
        if stage == "heads":
            _store(self, offset, bytes(8))
            _store(self, end, bytes(8))
        else:
            _store(self, offset + 8, payload[: len(payload) // 2 if stage == "half" else None])
        countdown.visit()
        original(self, offset, end, payload, crc)

    return put


def _store(target: Any, offset: int, data: bytes) -> None:
    """Store bytes of a segment as it does itself, but for the head."""
    if isinstance(target, segment.MappedSegment):
        target._map[offset : offset + len(data)] = data
    else:
        segment.pwrite(target._descriptor, data, offset)


def _in_a_record(visits: int) -> None:
    """Die when half of a record is written."""
    countdown, original = _Countdown(visits), segment.pwrite

    def patched(descriptor: int, data: bytes, offset: int) -> None:
        if len(data) <= 64 * ended.RECORD_BYTES and any(data):
            original(descriptor, data[: len(data) - ended.RECORD_BYTES // 2], offset)
            countdown.visit()
        original(descriptor, data, offset)

    ended.pwrite = patched  # type: ignore[attr-defined]


AFTER_A_CALL = "after a call has returned"
FAILPOINTS: dict[str, Patch] = {
    AFTER_A_CALL: lambda n: _around(otel_audit_exporter, "audit_event", n, before=False),
    "before the event is appended": lambda n: _around(channel.DeliveryChannel, "accept", n, before=True),
    "between the append and the emit": lambda n: _around(channel.DeliveryChannel, "accept", n, before=False),
    "before the first store of an append": lambda n: _around_put(37 * n, before=True),
    "when an append has cleared both heads": lambda n: _in_put("heads", 37 * n),
    "in the middle of an append's body": lambda n: _in_put("half", 37 * n),
    "between an append's body and its head": lambda n: _in_put("whole", 37 * n),
    "between an append's head and its publication": lambda n: _around_put(37 * n, before=False),
    "before a segment is made": lambda n: _around(space.SegmentSpace, "make", n + 1, before=True),
    "between a segment's blocks and its name": lambda n: _around(space, "open_new", n + 1, before=True),
    "after a segment is made": lambda n: _around(space.SegmentSpace, "make", n + 1, before=False),
    "before a full segment is sealed": lambda n: _around(stripe.Stripe, "_go_on_in", n, before=True),
    "after a full segment is sealed": lambda n: _around(stripe.Stripe, "_seal", n, before=False),
    "before the sink's insert": lambda n: _around_insert(n, before=True),
    "between the sink's answer and the ended record": lambda n: _around_insert(n, before=False),
    "before the ended record": lambda n: _around(log.OutboxLog, "end", n, before=True),
    "in the middle of the ended record": lambda n: _in_a_record(n + 1),
    "after the ended record": lambda n: _around(log.OutboxLog, "end", n, before=False),
    "before a segment is freed": lambda n: _around(stripe.Stripe, "drop", n, before=True),
    "after a segment is freed": lambda n: _around(space.SegmentSpace, "free", n, before=False),
    "while a log is made": lambda n: _around(directory, "EndedFile", 1, before=True),
    "before a new log has its name": lambda n: _around(directory, "EndedFile", 1, before=False),
    "before a new log has a segment": lambda n: _around(log.OutboxLog, "start", 1, before=True),
    "before an orphan is opened": lambda n: _around(directory, "open_orphan", 1, before=True),
    "while an orphan is opened": lambda n: _around(adoption, "_cut", 1, before=True),
    "between an orphan's opening and its adoption": lambda n: _around(directory, "open_orphan", 1, before=False),
    "before an emptied log is removed": lambda n: _around(directory.OutboxDirectory, "_remove", n, before=True),
    "while an emptied log is removed": lambda n: _around(directory.shutil, "rmtree", n, before=True),  # type: ignore[attr-defined]
    "between an emptied log's removal and its lock": lambda n: _around(
        space.SegmentSpace, "give_back", n, before=False
    ),
    "before a row is parked": lambda n: _around(deadletters.SqliteDeadLetterStore, "park", n, before=True),
    "between parking and the ended record": lambda n: _around(
        deadletters.SqliteDeadLetterStore, "park", n, before=False
    ),
}


def _around_put(visits: int, *, before: bool) -> None:
    for kind in _SEGMENTS:
        _around(kind, "put", visits, before=before)


# --- broken on purpose: each of these must be found out by the checker -------------------------------------------


def _end_before_the_answer(_: int) -> None:
    original = bisect_insert._Run._insert

    def patched(self: Any, items: Sequence[Any]) -> Any:
        self._on_stored(items)
        return original(self, items)

    bisect_insert._Run._insert = patched  # type: ignore[method-assign]


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


def _no_syncs(_: int) -> None:
    for module in (segment, ended, directory, group_commit):
        for name in ("sync_file", "sync_folder"):
            if hasattr(module, name):
                setattr(module, name, lambda _: None)


def _accepted_before_the_store(_: int) -> None:
    """The event is said to be accepted while it is only in a queue that a thread appends from."""
    waiting: list[tuple[Any, bytes]] = []
    original = log.OutboxLog.append

    def append_late() -> None:
        while True:
            threading.Event().wait(0.05)
            while waiting:
                original(*waiting.pop(0))

    def lazily(self: Any, body: bytes, kind: int = frames.EVENT) -> Any:
        if not waiting and not any(thread.name == "late" for thread in threading.enumerate()):
            threading.Thread(target=append_late, name="late", daemon=True).start()
        waiting.append((self, body))
        stripe = self.stripes[0]
        current, offset, number = stripe.at
        return stripe, number + len(waiting), current, offset

    log.OutboxLog.append = lazily  # type: ignore[method-assign]


def _head_before_the_body(_: int) -> None:
    """Store the head first; die now and then in the middle of the body."""
    countdown = _Countdown(50)

    def put(self: Any, offset: int, end: int, payload: bytes, crc: int) -> None:
        _store(self, end, bytes(8))
        _store(self, offset, frames.pack_head(len(payload), crc))
        _store(self, offset + 8, payload[: len(payload) // 2])
        countdown.visit()
        _store(self, offset + 8, payload)

    for kind in _SEGMENTS:
        kind.put = put  # type: ignore[method-assign]


class _Fits:
    """Equal to every checksum."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def _checksum_not_checked(_: int) -> None:
    for module in (reader, adoption, frames):
        module.crc32 = lambda *_: _Fits()  # type: ignore[attr-defined]


def _sparse_segments(_: int) -> None:
    def make_sparse(path: Path, size: int) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(descriptor, size)
        return descriptor

    space.make_blocks = make_sparse  # type: ignore[attr-defined]


def _value_changed_on_the_way(_: int) -> None:
    _patch_rows(lambda row: row.replace(b"kind_1", b"kind_2"))


def _patch_rows(change: Callable[[bytes], bytes]) -> None:
    original = event_sender.EventSender._rows

    def changed(self: Any, entries: Any) -> list[bytes]:
        return list(map(change, original(self, entries)))

    event_sender.EventSender._rows = changed  # type: ignore[method-assign]


BREAKS: dict[str, Patch] = {
    "a range ended before the sink's answer": _end_before_the_answer,
    "a fresh id per retry": _fresh_id_per_retry,
    "any 2xx accepted": _any_2xx,
    "no syncs": _no_syncs,
    "accepted before the store": _accepted_before_the_store,
    "the head before the body": _head_before_the_body,
    "the checksum not checked": _checksum_not_checked,
    "sparse segments": _sparse_segments,
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
