"""The registry of what has to survive a fork."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from otel_audit_exporter.runtime import fork_safety
from otel_audit_exporter.runtime.fork_safety import (
    ForkSafeLock,
    call_in_child,
    register_fork_aware,
    register_renewed,
    renew_if_forked,
)
from tests.support.running import in_threads, run_in_child

SECONDS = 20


class Part:
    """Something that counts how often it was renewed."""

    def __init__(self) -> None:
        self.renewals = 0

    def renew_after_fork(self) -> None:
        self.renewals += 1


class Broken(Part):
    def renew_after_fork(self) -> None:
        raise ValueError("cannot")


class Locked(Part):
    """Something with a lock that a fork waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def locks_of_fork(self) -> list[fork_safety.Lock]:
        return [self.lock]

    def renew_after_fork(self) -> None:
        assert self.lock.locked()
        super().renew_after_fork()


@pytest.fixture
def calls() -> Iterator[list[int]]:
    """Where a function that is called in each child says that it was."""
    made: list[int] = []
    before = list(fork_safety._calls)
    yield made
    fork_safety._calls[:] = before


def fork_in_c() -> int:
    """Fork as a server written in C does: Python's hooks do not run."""
    return int(ctypes.PyDLL(None).fork())


def run_in_c_child(task: Callable[[], object]) -> bool:
    pid = fork_in_c()
    if pid == 0:
        try:
            task()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def test_objects_and_functions_are_renewed_once_in_a_child(calls: list[int]) -> None:
    part, locked = Part(), Locked()
    register_renewed(part)
    register_fork_aware(locked)
    call_in_child(lambda: calls.append(1))

    def look() -> None:
        assert (part.renewals, locked.renewals, calls) == (1, 1, [1])
        assert not renew_if_forked()
        assert part.renewals == 1

    assert run_in_child(look, SECONDS)
    assert (part.renewals, locked.renewals, calls) == (0, 0, [])
    assert not locked.lock.locked()


def test_what_cannot_be_renewed_keeps_nothing_else_from_it(caplog: pytest.LogCaptureFixture) -> None:
    broken, parts = Broken(), [Part() for _ in range(5)]
    for part in (*parts[:2], broken, *parts[2:]):
        register_renewed(part)

    def look() -> None:
        assert [part.renewals for part in parts] == [1] * 5
        assert [record.levelno for record in caplog.records] == [logging.ERROR]

    assert run_in_child(look, SECONDS)


def test_the_registry_keeps_nothing_alive() -> None:
    part = Part()
    register_renewed(part)
    registered = weakref.ref(part)
    del part
    assert registered() is None


def test_a_lock_held_at_the_fork_is_free_in_the_child() -> None:
    lock = ForkSafeLock()

    def use() -> None:
        in_threads([lock.acquire])

    with lock:
        assert run_in_child(use, SECONDS)


def test_a_block_that_a_fork_leaves_twice_ends_well_in_both() -> None:
    lock = ForkSafeLock()

    def leave() -> None:
        in_threads([lock.acquire])
        lock.release()

    with lock:
        assert run_in_child(leave, SECONDS)
    in_threads([lock.acquire])


def test_one_thread_at_a_time_holds_a_lock_in_children_too() -> None:
    lock, count = ForkSafeLock(), 0

    def add() -> None:
        nonlocal count
        for _ in range(2000):
            with lock, lock:
                now = count
                sys.getswitchinterval()
                count = now + 1

    def use() -> None:
        in_threads([add] * 8)
        assert count == 16_000

    assert run_in_child(use, SECONDS)


def test_a_fork_waits_for_a_lock_held_during_a_change() -> None:
    locked, is_held, forking = Locked(), threading.Event(), threading.Event()
    register_fork_aware(locked)
    whole = True

    def change() -> None:
        nonlocal whole
        with locked.lock:
            whole = False
            is_held.set()
            forking.wait()
            whole = True

    thread = threading.Thread(target=change)
    thread.start()
    is_held.wait()
    threading.Timer(0.05, forking.set).start()

    def look() -> None:
        assert whole

    assert run_in_child(look, SECONDS)
    thread.join()


def test_threads_that_fork_at_once_do_not_deadlock() -> None:
    things = [Locked() for _ in range(20)]
    for thing in things:
        register_fork_aware(thing)

    def fork() -> None:
        assert run_in_child(lambda: None, SECONDS)

    in_threads([fork] * 8)


class TestForksWithoutHooks:
    def test_one_call_renews_everything_once(self, calls: list[int]) -> None:
        part = Part()
        register_renewed(part)
        call_in_child(lambda: calls.append(1))

        def look() -> None:
            assert part.renewals == 0
            in_threads([renew_if_forked] * 8)
            assert not renew_if_forked()
            assert (part.renewals, calls) == (1, [1])

        assert run_in_c_child(look)

    def test_each_child_renews_once_and_so_does_its_child(self) -> None:
        part = Part()
        register_renewed(part)

        def look() -> None:
            assert renew_if_forked()
            assert run_in_c_child(lambda: _assert_renewed(part, times=2, by_this_call=True))
            assert run_in_child(lambda: _assert_renewed(part, times=2, by_this_call=False), SECONDS)
            assert part.renewals == 1

        assert run_in_c_child(look)

    def test_a_lock_that_was_held_is_free_after_it(self) -> None:
        lock = ForkSafeLock()

        def use() -> None:
            assert renew_if_forked()
            in_threads([lock.acquire, fork_safety.quiet.acquire])

        with lock, fork_safety.quiet:
            assert run_in_c_child(use)

    def test_the_childs_hook_alone_is_enough(self) -> None:
        """`PyOS_AfterFork_Child`, which uWSGI calls, runs no hook of before the fork."""

        def use() -> None:
            ctypes.pythonapi.PyOS_AfterFork_Child()
            assert not renew_if_forked()
            in_threads([fork_safety.quiet.acquire])

        with fork_safety.quiet:
            assert run_in_c_child(use)


def _assert_renewed(part: Part, *, times: int, by_this_call: bool) -> None:
    assert renew_if_forked() is by_this_call
    assert part.renewals == times
