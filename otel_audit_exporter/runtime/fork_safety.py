"""Forks: every lock of ours is taken before one, and everything of the parent's is forgotten in the child."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from typing import Final, Protocol


class Lock(Protocol):
    """Any of Python's locks."""

    def acquire(self) -> bool:
        """Take it."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


class ForkAware(Protocol):
    """Something with locks and connections that a fork must not tear."""

    def locks_before_store(self) -> Iterable[Lock]:
        """Return the locks under which ``quiet`` may be taken."""
        ...

    def locks_after_store(self) -> Iterable[Lock]:
        """Return the locks that may be taken under ``quiet``, asked for when the outer ones are held."""
        ...

    def renew_after_fork(self) -> None:
        """In the child: make new locks and forget the parent's connections."""
        ...


# Held by whoever opens, closes or checkpoints a SQLite file on a thread of ours: a fork in the middle of that would
# leave SQLite's own locks held in the child for ever.
quiet: Final = threading.RLock()
_known: Final[weakref.WeakSet[ForkAware]] = weakref.WeakSet()
_taken: list[Lock] = []


def register_fork_aware(thing: ForkAware) -> None:
    """Have ``thing`` held still around every fork of this process."""
    _known.add(thing)


def _before() -> None:
    things = list(_known)
    _take(lock for thing in things for lock in thing.locks_before_store())
    _take([quiet])
    _take(lock for thing in things for lock in thing.locks_after_store())


def _take(locks: Iterable[Lock]) -> None:
    for lock in locks:
        lock.acquire()
        _taken.append(lock)


def _after_in_parent() -> None:
    while _taken:
        _taken.pop().release()


def _after_in_child() -> None:
    quiet.release()  # the thread that took it is the one that goes on here
    _taken.clear()
    for thing in list(_known):
        thing.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
