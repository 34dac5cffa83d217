"""The log: what was appended is read, whatever interrupts the append, and nothing else is."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest

from otel_audit_exporter.errors import OutboxFullError
from otel_audit_exporter.outbox import log as log_module
from otel_audit_exporter.outbox import segment as segment_module
from otel_audit_exporter.outbox import stripe as stripe_module
from otel_audit_exporter.outbox.ended import LOST, STORED, Record, read_records
from otel_audit_exporter.outbox.frames import EVENT
from otel_audit_exporter.outbox.log import LogClosedError, OutboxLog
from otel_audit_exporter.outbox.segment import FIRST_BYTES, LARGEST_BYTES, Segment
from otel_audit_exporter.outbox.stripe import Stripe
from tests.stack.waiting import wait_until
from tests.support.interruptions import Timeout, exceptions_in, interrupt, signals
from tests.support.raw_logs import KINDS, event_bytes, file_log, make_log, memory_log, open_copy, read_all, said
from tests.support.running import in_threads

MODULES = (log_module, stripe_module, segment_module)


@pytest.fixture(params=KINDS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OutboxLog]:
    made = make_log(request.param, tmp_path / "own.log")
    yield made
    made.close_files()


def only_stripe(log: OutboxLog) -> Stripe:
    (stripe,) = log.stripes
    return stripe


def test_what_was_appended_is_read_in_order(log: OutboxLog) -> None:
    written = said(log, [event_bytes(number, number % 700) for number in range(3000)])
    assert read_all(log) == (sorted(written), [])
    assert (log.accepted, log.pending) == (3000, 3000)


def test_each_next_segment_is_twice_as_large_up_to_a_limit(log: OutboxLog) -> None:
    written = said(log, [event_bytes(number, 40_000) for number in range(400)])
    assert [segment.size for segment in only_stripe(log).segments][:8] == [
        *(FIRST_BYTES << doubled for doubled in range(7)),
        LARGEST_BYTES,
    ]
    assert read_all(log) == (written, [])


@pytest.mark.parametrize("size", [FIRST_BYTES - 200, FIRST_BYTES, LARGEST_BYTES - 100, LARGEST_BYTES, 9_000_001])
def test_an_event_larger_than_a_segment_has_one_of_its_own(log: OutboxLog, size: int) -> None:
    written = said(log, [b"small", event_bytes(1, size), b"small again", event_bytes(2, size), b"the last"])
    assert read_all(log, rows=2) == (written, [])


def test_every_size_around_the_end_of_a_segment_is_read_back(tmp_path: Path) -> None:
    for left in range(100):
        log = memory_log()
        written = said(log, [event_bytes(1, FIRST_BYTES - 200), event_bytes(2, left), event_bytes(3, 30)])
        assert read_all(log) == (written, []), left


def test_a_segment_that_was_made_beforehand_is_the_next_one(log: OutboxLog) -> None:
    called: list[int] = []
    log.on_work = lambda: called.append(1)
    written = said(log, [event_bytes(number, 10_000) for number in range(4)])
    assert called
    log.do_work()
    stripe = log.stripes[0]
    spare = stripe.spare
    assert spare is not None
    written += said(log, [event_bytes(number, 10_000) for number in range(4, 8)])
    assert (stripe.at[0], log.made_in_calls) == (spare, 0)
    assert read_all(log) == (written, [])


def test_the_next_segment_of_a_small_one_is_asked_for_early(log: OutboxLog) -> None:
    """A busy process fills it in less time than a thread that waits for the interpreter takes to make one."""
    asked: list[int] = []
    log.on_work = lambda: asked.append(1)
    said(log, [event_bytes(number, 1000) for number in range(7)])
    assert not asked
    said(log, [event_bytes(number, 1000) for number in range(7, 9)])
    assert asked


def test_a_stripe_is_ready_for_a_call_that_comes_while_all_are_in_hand(tmp_path: Path) -> None:
    log = file_log(tmp_path / "own.log")
    written = said(log, [event_bytes(number, 10_000) for number in range(4)])
    log.do_work()
    with log.taken_stripe():
        written += said(log, [event_bytes(4, 10_000)])
    assert (len(log.stripes), log.made_in_calls) == (2, 0)
    assert read_all(log) == (sorted(written), [])
    log.close_files()


def test_a_spare_takes_no_room_that_events_need(tmp_path: Path) -> None:
    """Where the outbox is more than half full, the next segment is made when the present one is half full."""
    log = file_log(tmp_path / "own.log", max_bytes=FIRST_BYTES + 2 * FIRST_BYTES)
    with log.taken_stripe():
        said(log, [event_bytes(0, 100)])  # a second stripe
    stripe = log.stripes[1]
    said(log, [event_bytes(1, 10_000)])
    log.do_work()
    assert [one.spare for one in log.stripes] == [None, None]
    assert stripe.at[2] + log.stripes[0].at[2] == 2
    log.close_files()


def test_the_room_that_is_left_in_other_stripes_is_used(tmp_path: Path) -> None:
    log = file_log(tmp_path / "own.log", max_bytes=2 * FIRST_BYTES)
    with log.taken_stripe():
        written = said(log, [event_bytes(0, 10_000)])
    with suppress(OutboxFullError):
        for number in range(1, 100):
            written += said(log, [event_bytes(number, 10_000)])
    assert len(written) == 12
    assert read_all(log) == (sorted(written), [])
    assert all_stripes_are_back(log)
    log.close_files()


def test_an_idle_log_keeps_a_small_segment_of_each_stripe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = file_log(tmp_path / "own.log")
    with log.taken_stripe():
        said(log, [event_bytes(number, 10_000) for number in range(20)])
    said(log, [event_bytes(number, 10_000) for number in range(20)])
    log.end(STORED, [(stripe, 1, 20) for stripe in log.stripes])
    log.do_work()
    monkeypatch.setattr(log_module, "IDLE_SECONDS", -1.0)
    log.do_work()
    assert [[segment.size for segment in stripe.segments] for stripe in log.stripes] == [[FIRST_BYTES]] * 2
    log.close_files()


def test_no_stripe_is_kept_ready_where_the_outbox_is_half_full(tmp_path: Path) -> None:
    """Its room is for events."""
    log = file_log(tmp_path / "own.log", max_bytes=3 * FIRST_BYTES)
    written = said(log, [event_bytes(number, 10_000) for number in range(4)])
    log.do_work()
    assert read_all(log) == (written, [])
    assert len(log.stripes) == 1
    log.close_files()


def test_an_append_does_not_wait_for_who_makes_the_next_segment(
    log: OutboxLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes into another stripe, also where its own is full."""
    written = said(log, [event_bytes(number, 10_000) for number in range(4)])
    making, go_on = threading.Event(), threading.Event()
    make = log.space.make

    def make_slowly(log_id: bytes, stripe: int, ordinal: int, size: int, needed: int) -> Segment:
        if (stripe, ordinal) == (0, 2):
            making.set()
            assert go_on.wait(30)
        return make(log_id, stripe, ordinal, size, needed)

    monkeypatch.setattr(log.space, "make", make_slowly)
    housekeeper = threading.Thread(target=log.do_work, daemon=True)
    housekeeper.start()
    assert making.wait(30)
    written += said(log, [event_bytes(number, 10_000) for number in range(4, 20)])
    go_on.set()
    housekeeper.join(30)
    assert not housekeeper.is_alive()
    written += said(log, [event_bytes(number, 10_000) for number in range(20, 40)])
    assert read_all(log) == (sorted(written), [])
    assert all_stripes_are_back(log)


def test_a_signal_handler_that_appends_waits_for_no_other_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It interrupts who notes a new segment; the other thread makes one, too, and waits to note it."""
    log = file_log(tmp_path / "own.log")
    with log.taken_stripe():
        written = said(log, [event_bytes(number, 10_000) for number in range(6)])
    written += said(log, [event_bytes(number, 10_000) for number in range(6, 12)])
    assert log._ended is not None
    write, other = log._ended._write, log.stripes[1]
    preparing = threading.Thread(target=other.prepare, daemon=True)

    def append(*_: object) -> None:
        preparing.start()
        wait_until(lambda: not other._turn._free, "the other thread is at it")
        written.extend(said(log, [event_bytes(12, 10_000)]))

    def write_interrupted() -> None:
        monkeypatch.setattr(log._ended, "_write", write)
        signal.raise_signal(signal.SIGUSR1)
        write()

    before = signal.signal(signal.SIGUSR1, append)
    try:
        monkeypatch.setattr(log._ended, "_write", write_interrupted)
        written += said(log, [event_bytes(13, 10_000)])
    finally:
        signal.signal(signal.SIGUSR1, before)
    preparing.join(30)
    assert not preparing.is_alive()
    assert read_all(log) == (sorted(written), [])
    log.close_files()


def test_two_threads_that_prepare_leave_the_turn_to_who_has_it(log: OutboxLog) -> None:
    """One that comes in vain takes nothing from the other, which is making a segment meanwhile."""
    stripe = only_stripe(log)
    written = said(log, [event_bytes(number, 10_000) for number in range(6)])
    make, inside = stripe._make, []

    def make_slowly(*arguments: int) -> Segment:
        stripe._make = make
        stripe.prepare()
        inside.extend(said(log, [event_bytes(number, 10_000) for number in range(6, 20)]))
        return make(*arguments)

    stripe._make = make_slowly
    stripe.prepare()
    written += [*inside, *said(log, [event_bytes(number, 10_000) for number in range(20, 40)])]
    assert read_all(log) == (sorted(written), [])
    for one in log.stripes:
        ordinals = [segment.ordinal for segment in one.segments]
        assert ordinals == sorted(ordinals)


def test_a_turn_that_an_exception_has_lost_comes_back(log: OutboxLog) -> None:
    stripe = only_stripe(log)
    stripe._turn._free.clear()
    written = said(log, [event_bytes(number, 10_000) for number in range(12)])
    assert read_all(log) == (written, [])
    assert (len(log.stripes), len(stripe._turn._free)) == (1, 1)


def test_a_stripe_that_is_made_while_the_log_is_closed_takes_no_event(
    log: OutboxLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = log.space.make

    def make_late(*args: Any) -> Segment:
        log.close()
        return make(*args)

    monkeypatch.setattr(log.space, "make", make_late)
    with log.taken_stripe(), pytest.raises(LogClosedError):
        said(log, [b"one"])
    assert log.close()
    with pytest.raises(LogClosedError):
        said(log, [b"two"])
    assert log.accepted == 0


def test_a_spare_that_is_too_small_is_passed_over(log: OutboxLog) -> None:
    written = said(log, [event_bytes(1, 40_000)])
    log.do_work()
    written += said(log, [event_bytes(2, 2 * LARGEST_BYTES), event_bytes(3, 100)])
    assert read_all(log) == (written, [])


def test_only_segments_whose_events_have_all_ended_are_freed(log: OutboxLog) -> None:
    written = said(log, [event_bytes(number, 10_000) for number in range(60)])
    stripe = only_stripe(log)
    before, first_size = list(stripe.segments), stripe.segments[0].size
    assert len(before) > 3
    log.end(STORED, [(stripe, 2, 59)])
    log.free_segments()
    assert stripe.segments == before
    log.end(STORED, [(stripe, 1, 1)])
    used = log.space.quota.used_bytes
    log.free_segments()
    assert stripe.segments == before[-1:]
    log.space.drop_all_emptied()
    assert log.space.quota.used_bytes <= used - first_size
    assert read_all(log)[0][-1] == written[-1]
    assert (read_all(log)[1], log.pending) == ([], 1)


def test_ranges_that_overlap_end_once(log: OutboxLog) -> None:
    said(log, [b"event"] * 10)
    stripe = only_stripe(log)
    assert log.end(STORED, [(stripe, 2, 5)]) == 4
    assert log.end(LOST, [(stripe, 4, 7)]) == 2
    assert (log.pending, stripe.lost) == (4, [(4, 7)])


def test_threads_that_end_events_at_once_end_each_once(log: OutboxLog) -> None:
    said(log, [b"event"] * 4000)
    stripe, fresh = only_stripe(log), list[int]()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def end(thread: int) -> None:
        fresh.extend(log.end(STORED, [(stripe, n, n + thread % 3)]) for n in range(1 + thread, 3990, 8))

    try:
        in_threads([partial(end, thread) for thread in range(8)])
    finally:
        sys.setswitchinterval(interval)
    assert sum(fresh) == stripe.ended.count == 4000 - log.pending
    assert next(iter(stripe.ended.ranges()))[0] == 1


def test_an_event_waits_no_more_once_its_released_log_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another process removes it while its records are read."""
    log = file_log(tmp_path / "folder" / "own.log")
    said(log, [event_bytes(1)])
    assert log.still_waits(only_stripe(log), 1)

    def read_late(path: Path, log_id: bytes) -> list[Record]:
        shutil.rmtree(path.parent)
        return read_records(path, log_id)

    monkeypatch.setattr(log_module, "read_records", read_late)
    assert not log.still_waits(only_stripe(log), 1)
    log.close_files()


def test_past_the_quota_events_are_refused_until_some_have_ended(tmp_path: Path) -> None:
    log = file_log(tmp_path / "own.log", max_bytes=1_000_000)
    accepted = 0

    def fill() -> None:
        nonlocal accepted
        while True:
            log.append(event_bytes(accepted, 10_000))
            accepted += 1

    with pytest.raises(OutboxFullError, match="OTEL_AUDIT_OUTBOX_MAX_BYTES"):
        fill()
    assert accepted > 40
    assert sum(file.stat().st_size for file in (tmp_path / "own.log").glob("*.seg")) <= 1_000_000
    assert len(read_all(log)[0]) == accepted
    log.end(STORED, [(stripe, 1, stripe.at[2]) for stripe in log.stripes])
    log.free_segments()
    said(log, [event_bytes(number, 10_000) for number in range(5)])
    assert log.pending == 5


def test_threads_that_append_at_once_lose_nothing(log: OutboxLog) -> None:
    written: list[tuple[int, int, bytes]] = []

    def append(thread: int) -> None:
        for number in range(300):
            written.extend(said(log, [event_bytes(thread * 1000 + number, 400)]))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads([partial(append, thread) for thread in range(8)])
    finally:
        sys.setswitchinterval(interval)
    assert read_all(log) == (sorted(written), [])
    assert len(log._pool) == len(log.stripes)


def test_closing_takes_no_more_events_and_waits_for_running_appends(log: OutboxLog) -> None:
    with log.taken_stripe():
        assert not log.close()
        with pytest.raises(LogClosedError):
            said(log, [b"one"])
    assert log.close()
    assert log.close()


# --- interruptions ------------------------------------------------------------------------------------------------


def all_stripes_are_back(log: OutboxLog) -> bool:
    return {*log._pool} == {*log.stripes} and len(log._pool) == len(log.stripes)


@pytest.mark.parametrize("size", [100, 7_000, FIRST_BYTES + 1])
def test_an_append_between_any_two_steps_of_another_loses_neither(tmp_path: Path, size: int) -> None:
    steps, more = 0, True
    while more:
        log = memory_log()
        written = said(log, [event_bytes(0, 30_000)])
        inside: list[tuple[int, int, bytes]] = []
        more = interrupt(
            lambda log=log, written=written: written.extend(said(log, [event_bytes(1, size)])),  # type: ignore[misc]
            steps,
            lambda log=log, inside=inside: inside.extend(said(log, [event_bytes(2, 60), event_bytes(3, size)])),  # type: ignore[misc]
            MODULES,
        )
        assert len(inside) == 2 * more
        written += [*inside, *said(log, [event_bytes(4, 50)])]
        assert read_all(log) == (sorted(written), []), steps
        assert all_stripes_are_back(log)
        steps += 1
    assert steps > 60


@pytest.mark.parametrize(
    ("kind", "interrupted", "after"),
    [
        *(("memory", size, [100]) for size in (100, FIRST_BYTES + 1)),
        *(("memory", size, [FIRST_BYTES + 1, 100]) for size in (100, FIRST_BYTES + 1)),
        *(("memory", size, [100, 70_000, 100, 300_000]) for size in (100, FIRST_BYTES + 1)),
        ("mapped", FIRST_BYTES + 1, [70_000, 100, 300_000]),
    ],
)
def test_an_exception_inside_an_append_costs_no_other_event(
    tmp_path: Path, kind: str, interrupted: int, after: list[int]
) -> None:
    """It comes between any two steps."""
    steps, more = 0, True

    def stop() -> None:
        raise Timeout

    while more:
        log = make_log(kind, tmp_path / f"{steps}.log")
        written = said(log, [event_bytes(0, 30_000)])
        stripe = only_stripe(log)
        with suppress(Timeout):
            more = interrupt(
                partial(stripe.append, EVENT, event_bytes(1, interrupted)), steps, stop, (stripe_module, segment_module)
            )
        mine = stripe.at[2] == 2  # it may be there, or not
        later = said(log, [event_bytes(10 + number, size) for number, size in enumerate(after)])
        log.end(STORED, [(stripe, 1, 1)])
        log.free_segments()
        events, lost = read_all(log)
        expected = [*([(0, 2, event_bytes(1, interrupted))] if mine else []), *later]
        assert ([event for event in events if event not in written], lost) == (expected, []), steps
        log.close_files()
        steps += 1 if kind == "memory" else 7
    assert steps > 60


@pytest.mark.parametrize("kind", ["memory", "mapped"])
def test_nested_signal_handlers_that_append_lose_nothing(tmp_path: Path, kind: str) -> None:
    """They interrupt appends, three deep."""
    log, written, chance = make_log(kind, tmp_path / "own.log"), list[tuple[int, int, bytes]](), Random(1)
    depth, deepest, calls = 0, 0, 0

    def append() -> None:
        nonlocal calls
        calls += 1
        body = event_bytes(calls, chance.choice((40, 400, 6000)))
        stripe, number, *_ = log.append(body)
        written.append((stripe.index, number, body))

    def handle(frame: FrameType | None) -> None:
        nonlocal depth, deepest
        if depth == 3:
            return
        depth += 1
        deepest = max(deepest, depth)
        try:
            append()
            append()
        finally:
            depth -= 1

    with signals(handle, 0.0001):
        for _ in range(6000):
            append()
    assert deepest > 1
    assert len(written) > 6200
    assert read_all(log) == (sorted(written), [])
    assert all_stripes_are_back(log)
    assert open_copy(log.path, tmp_path / "copy").events == sorted(written) if log.path else True


@pytest.mark.parametrize("kind", ["memory", "mapped"])
def test_asynchronous_exceptions_lose_no_event_that_was_accepted(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)  # one that comes between two calls ends a thread
    monkeypatch.setattr(sys, "unraisablehook", lambda args: None)
    log, accepted, numbers = make_log(kind, tmp_path / "own.log"), list[tuple[int, int, bytes]](), iter(range(8_000))
    refused = 0

    def append_all() -> None:
        nonlocal refused
        for number in numbers:
            body = event_bytes(number, 40 + number % 5 * 2000)
            try:
                stripe, at, *_ = log.append(body)
                accepted.append((stripe.index, at, body))
            except Timeout:
                refused += 1

    for seed in range(1000):
        thread = threading.Thread(target=append_all)
        thread.start()
        assert thread.ident is not None
        with exceptions_in(thread.ident, seed):
            thread.join()
        if next(numbers, None) is None:
            break
    assert refused > 10
    assert_nothing_is_lost(log, accepted)


def test_a_ctrl_c_during_an_append_loses_no_event_or_stripe() -> None:
    log, accepted, refused = memory_log(), list[tuple[int, int, bytes]](), 0
    files = {module.__file__ for module in MODULES}

    def press(frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename in files:
            raise KeyboardInterrupt

    with signals(press, 0.0001):
        for number in range(15_000):
            body = event_bytes(number, 40 + number % 5 * 2000)
            try:
                stripe, at, *_ = log.append(body)
            except KeyboardInterrupt:
                refused += 1
            else:
                accepted.append((stripe.index, at, body))
    assert refused > 20
    assert_nothing_is_lost(log, accepted)


def assert_nothing_is_lost(log: OutboxLog, accepted: list[tuple[int, int, bytes]]) -> None:
    events, lost = read_all(log)
    assert (set(accepted) - set(events), lost) == (set(), [])
    assert max(Counter(event[:2] for event in events).values()) == 1
    assert all_stripes_are_back(log)
