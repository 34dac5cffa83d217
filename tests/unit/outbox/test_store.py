"""The stores of what is accepted and not yet settled: the same promises on disk, with syncs and in memory."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from otel_audit_exporter.errors import OutboxError, OutboxFullError
from otel_audit_exporter.outbox.store import (
    FORMAT_VERSION,
    MemoryOutbox,
    OutboxFile,
    Refusal,
    bodies_of,
    count_events,
    numbers_of,
    salvage,
)

AnyStore = OutboxFile | MemoryOutbox
MAX_BYTES = 2**20


def nothing() -> None:
    """Follow an append with nothing."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.outbox"


@pytest.fixture(params=["disk", "fsync", "memory"])
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[AnyStore]:
    made: AnyStore = MemoryOutbox(max_bytes=MAX_BYTES)
    if request.param != "memory":
        made = OutboxFile(path, durable=request.param == "fsync", max_bytes=MAX_BYTES)
    yield made
    made.close()


def fill(store: AnyStore, count: int) -> list[int]:
    return [store.append(b"[%d]" % number, nothing) for number in range(count)]


def all_of(store: AnyStore, after: int = 0, upto: int | None = None, limit: int = 1000) -> list[int]:
    return [seq for seq, _ in store.read(after, upto, limit, 2**20)]


def refusal(seq: int, next_try_at: float = 50.0) -> Refusal:
    return Refusal(seq, "23514", "refused", 1, 10.0, next_try_at)


class _InterruptedAfter:
    """A connection during one of whose statements a signal comes, whose handler raises when it has been executed."""

    def __init__(self, connection: sqlite3.Connection, statement: str) -> None:
        self._connection = connection
        self._statement = statement

    def execute(self, sql: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        cursor = self._connection.execute(sql, parameters)
        if sql == self._statement:
            raise KeyboardInterrupt
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class TestStore:
    def test_events_are_numbered_in_the_order_in_which_they_come(self, store: AnyStore) -> None:
        assert fill(store, 3) == [1, 2, 3]
        assert store.last_seq == 3
        assert store.read(0, None, 10, 2**20) == [(1, b"[0]"), (2, b"[1]"), (3, b"[2]")]

    def test_what_was_committed_when_a_signal_s_handler_raised_is_counted(self, path: Path) -> None:
        store = OutboxFile(path)
        execute, counted = store._execute, []

        def interrupted(*arguments: Any) -> sqlite3.Cursor:
            execute(*arguments)
            raise KeyboardInterrupt

        store._execute = interrupted
        with pytest.raises(KeyboardInterrupt):
            store.append(b"[1]", lambda: counted.append(1))
        assert (store.count(), counted) == (1, [1])
        store.close()

    def test_what_was_not_committed_when_a_signal_s_handler_raised_is_not_counted(self, path: Path) -> None:
        store = OutboxFile(path)
        counted: list[int] = []

        def interrupted(*arguments: Any) -> sqlite3.Cursor:
            raise KeyboardInterrupt

        store._execute = interrupted
        with pytest.raises(KeyboardInterrupt):
            store.append(b"[1]", lambda: counted.append(1))
        assert (store.count(), counted) == (0, [])
        store.close()

    @pytest.mark.parametrize(("statement", "kept"), [("COMMIT", 1), ("BEGIN IMMEDIATE", 0)])
    def test_with_syncs_too_what_was_committed_when_a_handler_raised_is_counted(
        self, path: Path, statement: str, kept: int
    ) -> None:
        store = OutboxFile(path, durable=True)
        counted: list[int] = []
        store._connection = cast("sqlite3.Connection", _InterruptedAfter(store._connection, statement))
        with pytest.raises(KeyboardInterrupt):
            store.append(b"[1]", lambda: counted.append(1))
        assert (store.count(), len(counted)) == (kept, kept)
        store._connection = store._connection._connection  # type: ignore[attr-defined]
        store.append(b"[2]", nothing)
        assert store.count() == kept + 1
        store.close()

    def test_a_new_store_is_empty(self, store: AnyStore) -> None:
        assert store.count() == 0
        assert store.last_seq == 0
        assert not store.has(10)
        assert store.oldest_accepted_at() is None
        assert all_of(store) == []

    def test_what_follows_an_append_runs_once_the_event_is_there(self, store: AnyStore) -> None:
        seen: list[int] = []
        store.append(b"[]", lambda: seen.append(store.count()))
        assert seen == [1]

    def test_reading_is_bounded_by_number_count_and_bytes(self, store: AnyStore) -> None:
        fill(store, 10)
        assert all_of(store, after=3, upto=6) == [4, 5, 6]
        assert all_of(store, limit=4) == [1, 2, 3, 4]
        assert [seq for seq, _ in store.read(0, None, 10, 7)] == [1, 2]
        assert [seq for seq, _ in store.read(0, None, 10, 1)] == [1]  # one at least, however large

    def test_settling_removes_once(self, store: AnyStore) -> None:
        fill(store, 5)
        assert store.settle([2, 4, 4, 99]) == 2
        assert store.settle([2, 4]) == 0
        assert all_of(store) == [1, 3, 5]
        assert store.count() == 3
        assert store.count(3) == 2

    def test_a_number_is_never_used_twice(self, store: AnyStore) -> None:
        store.settle(fill(store, 3))
        assert fill(store, 1) == [4]
        assert store.last_seq == 4

    def test_numbered_events_can_be_asked_for(self, store: AnyStore) -> None:
        fill(store, 4)
        store.settle([2])
        assert store.get([4, 2, 1]) == [(4, b"[3]"), (1, b"[0]")]
        assert store.present(1, 3) == {1, 3}

    def test_it_is_known_whether_anything_up_to_a_number_waits(self, store: AnyStore) -> None:
        fill(store, 3)
        store.settle([1])
        assert not store.has(1)
        assert store.has(2)
        store.settle([2, 3])
        assert not store.has(3)

    def test_the_oldest_event_s_age_is_known(self, store: AnyStore) -> None:
        before = time.time()
        fill(store, 1)
        between = time.time()
        fill(store, 1)
        oldest = store.oldest_accepted_at()
        assert oldest is not None
        assert before <= oldest <= between
        store.settle([1])
        younger = store.oldest_accepted_at()
        assert younger is not None
        assert younger >= between

    def test_a_refused_event_waits_apart_from_the_others(self, store: AnyStore) -> None:
        fill(store, 3)
        store.refuse([refusal(2)])
        assert all_of(store) == [1, 3]
        assert store.count() == 3
        assert store.refusals() == [refusal(2)]
        assert store.get([2]) == [(2, b"[1]")]

    def test_refusals_are_due_by_their_time(self, store: AnyStore) -> None:
        fill(store, 3)
        store.refuse([refusal(1, 10.0), refusal(2, 20.0), refusal(3, 30.0)])
        assert [one.seq for one in store.refusals(due_at=20.0)] == [1, 2]
        assert [one.seq for one in store.refusals(limit=1)] == [1]

    def test_a_later_refusal_replaces_the_earlier_one(self, store: AnyStore) -> None:
        fill(store, 1)
        store.refuse([refusal(1, 10.0)])
        store.refuse([refusal(1, 20.0)])
        assert store.refusals() == [refusal(1, 20.0)]

    def test_a_settled_event_s_refusal_is_gone_too(self, store: AnyStore) -> None:
        fill(store, 2)
        store.refuse([refusal(1), refusal(2)])
        store.settle([1])
        assert store.refusals() == [refusal(2)]

    def test_a_full_store_says_so_and_goes_on_settling(self, store: AnyStore) -> None:
        large = b"[" + b"x" * 50_000 + b"]"
        accepted: list[int] = []
        counted: list[int] = []

        def fill_up() -> None:
            for _ in range(100):
                accepted.append(store.append(large, lambda: counted.append(1)))

        with pytest.raises(OutboxFullError, match="OTEL_AUDIT_OUTBOX_MAX_BYTES"):
            fill_up()
        assert len(accepted) == len(counted) == store.count() > 5
        assert store.settle(accepted[:-1]) == len(accepted) - 1
        store.append(large, nothing)
        assert store.size_bytes() < MAX_BYTES

    def test_the_limit_can_be_changed(self, store: AnyStore) -> None:
        store.limit_bytes(2**18)

        def fill_up() -> None:
            for _ in range(10):
                store.append(b"x" * 50_000, nothing)

        with pytest.raises(OutboxFullError):
            fill_up()
        store.limit_bytes(2**22)
        store.append(b"x" * 50_000, nothing)

    def test_threads_append_and_settle_at_once(self, store: AnyStore) -> None:
        submitted: list[int] = []
        numbers: list[int] = []

        def append() -> None:
            for _ in range(200):
                numbers.append(store.append(b"[]", lambda: submitted.append(1)))

        threads = [threading.Thread(target=append) for _ in range(4)]
        for thread in threads:
            thread.start()
        settled = 0
        while any(thread.is_alive() for thread in threads) or store.count():
            settled += store.settle([seq for seq, _ in store.read(0, None, 50, 2**20)])
        for thread in threads:
            thread.join()
        assert settled == len(submitted) == 800
        assert sorted(numbers) == list(range(1, 801))

    def test_an_empty_settlement_is_no_trouble(self, store: AnyStore) -> None:
        assert store.settle([]) == 0
        store.refuse([])


class TestFile:
    def test_what_is_accepted_survives_the_store(self, path: Path) -> None:
        first = OutboxFile(path)
        fill(first, 3)
        first.refuse([refusal(2)])
        first.settle([1])
        first.close()
        again = OutboxFile(path)
        assert again.get([1, 2, 3]) == [(2, b"[1]"), (3, b"[2]")]
        assert again.refusals() == [refusal(2)]
        assert fill(again, 1) == [4]
        again.close()

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no such signal")
    @pytest.mark.parametrize("durable", [False, True])
    def test_what_is_accepted_survives_a_kill(self, path: Path, durable: bool) -> None:
        program = (
            "import os, signal\n"
            "from otel_audit_exporter.outbox.store import OutboxFile\n"
            f"store = OutboxFile({os.fspath(path)!r}, durable={durable})\n"
            "for number in range(500):\n"
            "    store.append(b'[%d]' % number, lambda: None)\n"
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
        run = subprocess.run([sys.executable, "-c", program], check=False)
        assert run.returncode == -signal.SIGKILL
        assert count_events(path) == 500
        store = OutboxFile(path)
        assert [body for _, body in store.read(0, None, 1000, 2**20)] == [b"[%d]" % n for n in range(500)]
        store.close()

    def test_only_the_owner_may_read_the_file(self, path: Path) -> None:
        store = OutboxFile(path)
        fill(store, 1)
        modes = {file.name: file.stat().st_mode & 0o077 for file in path.parent.iterdir()}
        store.close()
        assert set(modes.values()) == {0}, modes

    def test_a_newer_format_is_left_alone(self, path: Path) -> None:
        OutboxFile(path).close()
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
        connection.close()
        before = path.read_bytes()
        with pytest.raises(OutboxError, match=r"outbox format 2 is newer .* run a newer version"):
            OutboxFile(path)
        assert path.read_bytes() == before

    def test_what_is_no_outbox_is_an_error_of_the_outbox(self, path: Path) -> None:
        path.write_bytes(b"no database at all, and long enough to look at " * 50)
        with pytest.raises(OutboxError, match=r"events\.outbox"):
            OutboxFile(path)

    def test_a_directory_that_is_not_there_is_an_error_of_the_outbox(self, tmp_path: Path) -> None:
        with pytest.raises(OutboxError):
            OutboxFile(tmp_path / "missing" / "events.outbox")

    def test_a_closed_store_still_tells_what_waits(self, path: Path) -> None:
        store = OutboxFile(path)
        fill(store, 2)
        store.settle([1])
        store.close()
        assert store.closed
        assert not store.still_waits(1)
        assert store.still_waits(2)
        assert store.has(2)
        assert all_of(store) == []

    def test_a_removed_store_has_nothing_waiting(self, path: Path) -> None:
        store = OutboxFile(path)
        store.close()
        path.unlink()
        assert not store.has(1)
        assert not store.still_waits(1)

    def test_what_can_be_read_of_a_damaged_file_is_saved(self, path: Path) -> None:
        store = OutboxFile(path)
        for number in range(200):
            store.append(b"[%d,%s]" % (number, b'"' + b"x" * 500 + b'"'), nothing)
        store.close()
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"\xff" * 4096)
        saved = sorted(salvage(path))
        assert 100 < len(saved) < 200
        assert (saved[0][0], saved[-1][0]) == (1, 200)
        assert all(body.startswith(b"[%d," % (seq - 1)) for seq, _, body in saved)

    def test_what_lies_between_two_damaged_places_is_saved(self, path: Path) -> None:
        with closing(OutboxFile(path)) as store:
            for number in range(1000):
                store.append(b"[%d,%s]" % (number, b'"' + b"x" * 500 + b'"'), nothing)
        size = path.stat().st_size
        with path.open("r+b") as file:
            for at in (size // 4, size * 3 // 4):
                file.seek(at // 4096 * 4096)
                file.write(b"\xff" * 4096)
        assert len({seq for seq, _, _ in salvage(path)}) > 950

    def test_room_is_given_back_to_the_disk(self, path: Path) -> None:
        store = OutboxFile(path)
        for _ in range(5):
            store.settle([store.append(b"x" * 10_000, nothing) for _ in range(1000)])
        store.checkpoint()
        size = store.size_bytes()
        store.close()
        assert size < 2**20

    def test_threads_share_syncs(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = OutboxFile(path, durable=True)
        commits: list[int] = []
        original: Callable[..., None] = store._insert_all

        def slow(group: object) -> None:
            time.sleep(0.02)
            commits.append(1)
            original(group)

        monkeypatch.setattr(store, "_insert_all", slow)
        threads = [threading.Thread(target=fill, args=(store, 10)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.count() == 80
        assert len(commits) < 60
        store.close()


def test_what_is_refused_is_noted_where_there_is_no_room_for_events(path: Path) -> None:
    store = OutboxFile(path, max_bytes=MAX_BYTES)
    with pytest.raises(OutboxFullError):
        fill_up(store)
    _, most = store.room_bytes()
    store.refuse(refusal(seq) for seq in range(1, 201))
    assert store.count_refused() == 200
    assert store.room_bytes()[1] <= most + 2**18
    with pytest.raises(OutboxFullError):
        fill_up(store)
    store.close()


def fill_up(store: OutboxFile) -> None:
    for _ in range(MAX_BYTES // 3000 + 1):
        store.append(b"[%s]" % (b"x" * 3000), nothing)


class TestRuns:
    BODIES = (b'{"a":\n1\n}', b"[\xff]", b"", b"\0", b'{"a":\n[2]\n}')

    @pytest.fixture
    def filled(self, path: Path) -> Iterator[OutboxFile]:
        with closing(OutboxFile(path)) as store:
            for body in self.BODIES:
                store.append(body, nothing)
            yield store

    def test_a_run_is_what_is_read_one_by_one(self, filled: OutboxFile) -> None:
        assert filled.find_run(0, 5, 100, 2**20) == range(1, 6)
        run = filled.read_run(range(1, 6))
        assert run is not None
        assert list(run) == filled.read(0, None, 100, 2**20) == list(enumerate(self.BODIES, 1))
        assert (len(run), run[1], run[3:]) == (5, (2, b"[\xff]"), list(run)[3:])
        assert list(numbers_of(run)) == [1, 2, 3, 4, 5]
        assert tuple(bodies_of(run)) == self.BODIES

    def test_a_run_is_bounded_by_number_count_and_bytes(self, filled: OutboxFile) -> None:
        assert filled.find_run(0, 5, 2, 2**20) == range(1, 3)
        assert filled.find_run(3, 5, 2, 2**20) == range(4, 6)
        assert filled.find_run(0, 3, 100, 2**20) == range(1, 4)
        assert not filled.find_run(0, 5, 100, sum(map(len, self.BODIES)) - 1)
        assert not filled.find_run(5, 5, 100, 2**20)

    def test_where_the_first_are_settled_the_run_begins_later(self, filled: OutboxFile) -> None:
        filled.settle([1, 2])
        assert filled.find_run(0, 5, 100, 2**20) == range(3, 6)
        assert not filled.find_run(0, 2, 100, 2**20)

    def test_events_with_others_missing_between_them_are_no_run(self, filled: OutboxFile) -> None:
        filled.settle([3])
        assert not filled.find_run(0, 5, 100, 2**20)
        assert filled.read_run(range(1, 6)) is None
        assert filled.find_run(3, 5, 100, 2**20) == range(4, 6)

    def test_where_one_is_refused_none_are_read_as_a_run(self, filled: OutboxFile) -> None:
        filled.refuse([Refusal(5, None, "no", 1, 0.0, 0.0)])
        assert not filled.find_run(0, 4, 100, 2**20)

    def test_a_closed_file_has_no_run(self, filled: OutboxFile) -> None:
        filled.close()
        assert not filled.find_run(0, 5, 100, 2**20)
        assert filled.read_run(range(1, 6)) is None
