"""Group commit: what was synced is recorded, what was not is refused, and nobody waits for ever."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from otel_audit_exporter.errors import OutboxError, OutboxFullError
from otel_audit_exporter.outbox import group_commit as module
from otel_audit_exporter.outbox import segment as segment_module
from otel_audit_exporter.outbox.group_commit import GroupCommit
from otel_audit_exporter.outbox.log import LogClosedError, OutboxLog
from otel_audit_exporter.outbox.segment import WrittenSegment
from tests.stack.waiting import wait_until
from tests.support.interruptions import Timeout, interrupt
from tests.support.raw_logs import Event, event_bytes, file_log, open_copy, read_all
from tests.support.running import in_threads

MODULES = (module, segment_module)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OutboxLog]:
    made = file_log(tmp_path / "own.log", WrittenSegment, durable=True)
    yield made
    made.close_files()


@pytest.fixture
def commit(log: OutboxLog) -> GroupCommit:
    return GroupCommit(log)


def append(commit: GroupCommit, written: list[Event], *bodies: bytes) -> None:
    written += [put(commit, body) for body in bodies]


def put(commit: GroupCommit, body: bytes) -> Event:
    stripe, number, *_ = commit.append(body)
    return stripe.index, number, body


class Syncs:
    """Stands for the disk: counts the syncs, holds them up, and lets one fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.fail_at: set[int] = set()
        self.free = threading.Event()
        self.free.set()
        monkeypatch.setattr(segment_module, "sync_file", self._sync)

    def _sync(self, descriptor: int) -> None:
        self.count += 1
        number = self.count
        self.free.wait(60)
        if number in self.fail_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def syncs(log: OutboxLog, monkeypatch: pytest.MonkeyPatch) -> Syncs:
    return Syncs(monkeypatch)


def test_each_event_is_synced_before_its_call_returns(commit: GroupCommit, log: OutboxLog, syncs: Syncs) -> None:
    written = []
    for number in range(5):
        written.append(put(commit, event_bytes(number)))
        assert syncs.count == number + 1
    assert read_all(log) == (written, [])


def has_joined(commit: GroupCommit, number: int) -> bool:
    group = commit._group
    return group is not None and len(group.events) == number


def while_one_is_synced(
    commit: GroupCommit, syncs: Syncs, bodies: list[bytes], log: OutboxLog
) -> tuple[list[Event], list[OutboxError]]:
    """Have these events committed as one group, which is written after another one."""
    written, errors = list[Event](), list[OutboxError]()

    def append(body: bytes) -> None:
        try:
            written.append(put(commit, body))
        except OutboxError as error:
            errors.append(error)

    syncs.free.clear()
    first = threading.Thread(target=append, args=(b"first",))
    first.start()
    wait_until(lambda: syncs.count == 1, "the first one is being synced")
    threads = [threading.Thread(target=append, args=(body,)) for body in bodies]
    for number, thread in enumerate(threads, 1):
        thread.start()
        wait_until(partial(has_joined, commit, number), "it joins the group")
    syncs.free.set()
    for thread in (first, *threads):
        thread.join()
    return written, errors


def test_events_that_come_during_a_sync_share_the_next(commit: GroupCommit, log: OutboxLog, syncs: Syncs) -> None:
    written, errors = while_one_is_synced(commit, syncs, [event_bytes(number) for number in range(10)], log)
    assert (syncs.count, errors, len(written)) == (2, [], 11)
    assert read_all(log) == (sorted(written), [])


def test_a_group_over_two_segments_syncs_the_older_one_first(
    commit: GroupCommit, log: OutboxLog, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    original = WrittenSegment.sync

    def sync(segment: WrittenSegment) -> None:
        synced.append(segment.ordinal)
        original(segment)

    monkeypatch.setattr(WrittenSegment, "sync", sync)
    bodies = [event_bytes(number, 30_000) for number in range(4)]
    written, errors = while_one_is_synced(commit, syncs, bodies, log)
    assert (synced, errors) == ([1, 1, 2], [])
    assert read_all(log) == (sorted(written), [])


def test_calls_whose_sync_failed_are_refused_and_later_ones_succeed(
    commit: GroupCommit, log: OutboxLog, syncs: Syncs, tmp_path: Path
) -> None:
    """A refused call leaves no event."""
    syncs.fail_at = {2}
    written, errors = while_one_is_synced(commit, syncs, [event_bytes(number) for number in range(6)], log)
    assert (len(written), len(errors)) == (1, 6)
    assert all("Input/output error" in str(error) for error in errors)
    assert (log.accepted, log.pending) == (1, 1)
    (failed,) = (stripe.at[0] for stripe in log.stripes if stripe.ended.count)
    later = [commit.append(b"a later one") for _ in log.stripes]
    assert all(ref[2] is not failed for ref in later)
    written += [(stripe.index, number, b"a later one") for stripe, number, *_ in later]
    assert log.accepted == log.pending == len(written)
    events, lost = read_all(log)
    assert ({event for event in events if event[1] not in log.stripes[event[0]].ended}, lost) == (set(written), [])
    copy = open_copy(tmp_path / "own.log", tmp_path / "copy")
    assert (copy.log.pending, copy.found.lost) == (len(written), 0)
    assert {event for event in copy.events if event[1] not in copy.log.stripes[event[0]].ended} == set(written)


def test_a_failed_sync_refuses_only_the_calls_of_its_segment(commit: GroupCommit, log: OutboxLog, syncs: Syncs) -> None:
    """The group spans two segments."""
    syncs.fail_at = {4}  # the new segment's own file is synced when it is made, before its first frame
    bodies = [event_bytes(number, 30_000) for number in range(4)]
    written, errors = while_one_is_synced(commit, syncs, bodies, log)
    assert len(written) + len(errors) == 5
    assert len(errors) >= 1
    assert log.pending == len(written)
    events, lost = read_all(log)
    assert ({event for event in events if event[1] not in log.stripes[event[0]].ended}, lost) == (set(written), [])


def test_a_failed_sync_is_never_tried_again_on_the_same_file(
    commit: GroupCommit, log: OutboxLog, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fail(segment: WrittenSegment) -> None:
        synced.append(segment.ordinal)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(WrittenSegment, "sync", fail)
    for _ in range(3):
        with pytest.raises(OutboxError):
            commit.append(b"event")
    assert synced == [1, 2, 3]
    assert (log.accepted, log.pending) == (0, 0)


def test_events_that_found_room_are_recorded_without_a_new_segment(
    commit: GroupCommit, log: OutboxLog, syncs: Syncs
) -> None:
    log.space.quota.max_bytes = log.space.quota.used_bytes
    written, errors = while_one_is_synced(commit, syncs, [event_bytes(n, 30_000) for n in range(4)], log)
    assert (len(written), {type(error) for error in errors}) == (3, {OutboxFullError})
    assert read_all(log) == (sorted(written), [])


def test_a_large_event_and_a_large_group_are_recorded(commit: GroupCommit, log: OutboxLog, syncs: Syncs) -> None:
    bodies = [event_bytes(number, 400_000) for number in range(6)]
    written, errors = while_one_is_synced(commit, syncs, bodies, log)
    assert (errors, read_all(log)) == ([], (sorted(written), []))


def test_a_signal_handler_that_appends_in_the_middle_waits_for_nobody(tmp_path: Path) -> None:
    steps, more = 0, True
    while more:
        log = file_log(tmp_path / f"{steps}.log", WrittenSegment)
        commit, written = GroupCommit(log), list[Event]()
        inner = partial(append, commit, written, b"inner", b"inner again")
        more = interrupt(partial(append, commit, written, b"outer"), steps, inner, [module], real=True)
        assert read_all(log) == (sorted(written), []), steps
        log.close_files()
        steps += 1
    assert steps > 20


def test_an_exception_in_the_committing_thread_keeps_nobody_waiting(tmp_path: Path) -> None:
    steps, more = 0, True
    while more:
        log = file_log(tmp_path / f"{steps}.log", WrittenSegment)
        commit, written = GroupCommit(log), list[Event]()
        with suppress(Timeout, OutboxError):
            more = interrupt(partial(commit.append, b"interrupted"), steps, raise_timeout, MODULES, real=True)
        in_time(partial(append, commit, written, b"next"))
        in_time(partial(append, commit, written, b"last"))
        events, lost = read_all(log)
        events = [event for event in events if event[1] not in log.stripes[event[0]].ended]
        assert ([event for event in events if event[2] != b"interrupted"], lost) == (written, []), steps
        copy = open_copy(tmp_path / f"{steps}.log", tmp_path / "copy")
        assert (copy.found.lost, copy.log.pending) == (0, log.pending), steps
        log.close_files()
        steps += 1
    assert steps > 30


def raise_timeout() -> None:
    raise Timeout


def in_time(work: Callable[[], object]) -> None:
    """Do some work in another thread, as this one may be remembered as being in the middle of a call."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it waits for ever"


def test_many_threads_lose_nothing(commit: GroupCommit, log: OutboxLog, syncs: Syncs) -> None:
    written: list[Event] = []

    def append(thread: int) -> None:
        for number in range(50):
            written.append(put(commit, event_bytes(thread * 100 + number, 700)))

    syncs.free.clear()
    freeing = threading.Timer(0.5, syncs.free.set)  # meanwhile others come, and are synced together
    freeing.start()
    in_threads([partial(append, thread) for thread in range(16)])
    freeing.join()
    assert read_all(log) == (sorted(written), [])
    assert syncs.count < 800


def test_after_the_end_calls_are_refused(commit: GroupCommit, log: OutboxLog) -> None:
    assert log.close()
    with pytest.raises(LogClosedError):
        commit.append(b"late")
