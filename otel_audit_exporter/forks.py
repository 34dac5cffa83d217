"""Forks: every lock of ours is taken before one, and everything of the parent's is forgotten in the child."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import ExitStack
from typing import Final, Protocol


class Forkable(Protocol):
    """Something with locks and connections that a fork must not tear."""

    def fork_locks(self) -> ExitStack:
        """Take every lock; leaving the stack gives them back."""
        ...

    def renew_after_fork(self) -> None:
        """In the child: make new locks and forget the parent's connections."""
        ...


# Held by whoever opens, closes or checkpoints a SQLite file on a thread of ours: a fork in the middle of that would
# leave SQLite's own locks held in the child for ever.
quiet: Final = threading.RLock()
_known: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()
_taken: list[ExitStack] = []


def survive_forks(thing: Forkable) -> None:
    """Have ``thing`` held still around every fork of this process."""
    _known.add(thing)


def _before() -> None:
    for thing in list(_known):
        _taken.append(thing.fork_locks())
    quiet.acquire()


def _after_in_parent() -> None:
    quiet.release()
    while _taken:
        _taken.pop().close()


def _after_in_child() -> None:
    quiet.release()  # the thread that took it is the one that goes on here
    _taken.clear()
    for thing in list(_known):
        thing.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
