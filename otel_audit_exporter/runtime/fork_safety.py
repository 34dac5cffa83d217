"""Forks: the one registry of what has to survive a fork.

There are three ways in. A lock whose state is of no use in a child is a :class:`ForkSafeLock`, which is free in every
new process. An object that has to start again is registered with :func:`register_renewed`, a module's function with
:func:`call_in_child`. An object whose data must not be copied in the middle of a change is registered with
:func:`register_fork_aware`: the fork waits for its locks.

The order of locks, from the outside to the inside. A thread that holds one of them takes only those below it:

1. ``compat._Built.lock``, then ``pipeline.current.Running.lock``
2. ``AuditPipeline._lock``, then ``AuditExporter._lock``
3. ``DeliveryChannel._ending``, then ``OutboxLog._ending``
4. ``GroupCommit._writing``, then the quota's lock
5. the lock of each ``SQLiteSink``, held for as long as one transaction takes
6. the file locks of outbox directories, between processes
7. ``quiet``, around the opening and closing of SQLite files of dead letters

A fork takes 5 and 7, in this order. A thread that holds any other lock of the package takes no lock of another
module. ``tests/faults/test_forks_and_locks.py`` has the list of all locks.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.runtime.threads import RLock


class Lock(Protocol):
    """Any of Python's locks."""

    def acquire(self) -> bool:
        """Take it."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


class Renewable(Protocol):
    """Something that starts again in a forked child."""

    def renew_after_fork(self) -> None:
        """In the child: make new locks and forget the parent's connections. May be called more than once."""
        ...


class ForkAware(Renewable, Protocol):
    """Something that a fork must not copy in the middle of a change."""

    def locks_of_fork(self) -> Iterable[Lock]:
        """Return the locks that a fork has to hold."""
        ...


class _Process:
    """What is known of the process that runs this: made again in each."""

    def __init__(self) -> None:
        self.lock = RLock()  # for the registry and for the renewal of single locks
        self.forking = RLock()  # one fork at a time
        self.taken: list[Lock] = []


class _Turn:
    """The renewal in one process."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.has_begun = False


class ForkSafeLock:
    """A re-entrant lock that is free in a forked child, even if a thread of the parent held it.

    For what is whole at every instant, or made again in the child: a fork does not wait for this lock. Not for what a
    call takes in the thread of an application: an exception of a signal handler may come between its acquire and the
    block that it guards, and leaves it held.
    """

    __slots__ = ("_lock", "_process")

    def __init__(self) -> None:
        self._process = _process
        self._lock = RLock()

    def acquire(self) -> bool:
        """Take it."""
        renew_if_forked()
        process = _process
        if self._process is not process:
            with process.lock:
                if self._process is not process:
                    self._lock = RLock()
                    self._process = process
        return self._lock.acquire()

    def release(self) -> None:
        """Give it back."""
        with suppress(RuntimeError):  # forked while it was held here: the child's lock is another one
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


_process = _Process()
_pid = os.getpid()  # of the process for which everything here is renewed
_turns: Final[dict[int, _Turn]] = {}
_held_still: Final[weakref.WeakSet[ForkAware]] = weakref.WeakSet()
_renewed: Final[weakref.WeakSet[Renewable]] = weakref.WeakSet()
_calls: Final[list[Callable[[], object]]] = []

# Held by whoever opens or closes a SQLite file on a thread of ours: a fork in the middle of that would
# leave SQLite's own locks held in the child for ever.
quiet: Final = ForkSafeLock()


def register_fork_aware(thing: ForkAware) -> None:
    """Have every fork of this process wait for the locks of ``thing``, and ``thing`` renewed in the child.

    ``thing`` is not kept alive.
    """
    with _process.lock:
        _held_still.add(thing)
        _renewed.add(thing)


def register_renewed(thing: Renewable) -> None:
    """Have ``thing`` renewed in every forked child. It is not kept alive."""
    with _process.lock:
        _renewed.add(thing)


def call_in_child(function: Callable[[], object]) -> None:
    """Have ``function`` called in every forked child, before any object is renewed."""
    with _process.lock:
        _calls.append(function)


def renew_if_forked() -> bool:
    """Do what the hooks of a fork do where it ran none (a fork in C, as uWSGI's); return whether that was so.

    It costs one ``getpid``. In each process only the first call renews; others wait for it.
    """
    pid = os.getpid()
    return pid != _pid and _renew(pid)


def _before() -> None:
    _process.forking.acquire()
    with _process.lock:  # not held below: whoever holds one of the others may be registering something
        things = list(_held_still)
    _take(lock for thing in things for lock in thing.locks_of_fork())
    _take([quiet])


def _take(locks: Iterable[Lock]) -> None:
    for lock in locks:
        lock.acquire()
        _process.taken.append(lock)


def _after_in_parent() -> None:
    while _process.taken:
        _process.taken.pop().release()
    _process.forking.release()


def _after_in_child() -> None:
    # The hook before the fork may not have run (uWSGI calls only those of the child), so nothing is released here.
    global _pid
    _pid = -1  # the new pid may equal the parent's: in a namespace of its own
    _turns.clear()
    _renew(os.getpid())


def _renew(pid: int) -> bool:
    """Renew everything, once in a process: others wait until it is done. Return whether it was done here."""
    global _pid
    turn = _turns.setdefault(pid, _Turn())  # atomic, as no lock of the parent's can be trusted here
    with turn.lock:
        if turn.has_begun or pid == _pid:
            return False
        turn.has_begun = True
        _renew_everything()
        _pid = pid
        _turns.clear()
    return True


def _renew_everything() -> None:
    global _process
    _process = _Process()
    for call in [*_calls, *(thing.renew_after_fork for thing in list(_renewed))]:
        try:
            call()
        except Exception as error:  # the others have to be renewed all the same
            logger.error("audit: a forked child could not begin anew: %s", type(error).__name__)
            logger.debug("audit: where a forked child could not begin anew", exc_info=error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
