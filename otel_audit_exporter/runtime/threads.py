"""The interpreter's own threads, locks and events, also where gevent replaces those of the standard library later.

gevent runs all of a process's "threads" on one, which a wait outside of it stops: what delivers must not be one of
them. The names here were taken before it came.
"""

from __future__ import annotations

import sys
import threading
from _thread import allocate_lock, get_ident, start_new_thread
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from threading import Lock, RLock
else:
    from _thread import RLock

    Lock = allocate_lock

__all__ = ["Condition", "Event", "Lock", "RLock", "Thread", "call_blocking", "get_ident", "is_green", "new_thread"]

T = TypeVar("T")
_original_idents: Final[set[int]] = set()


class Condition(threading.Condition):
    """A condition that threads wait for, and no greenlet."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until notified, or until ``timeout`` (seconds); return whether it was notified."""
        inner: Any = self  # what the standard library's own has, which is not declared
        waiter = allocate_lock()
        waiter.acquire()
        inner._waiters.append(waiter)
        state, notified = inner._release_save(), False
        try:
            notified = waiter.acquire(timeout=-1 if timeout is None else max(timeout, 0.0))
            return notified
        finally:
            inner._acquire_restore(state)
            if not notified and waiter in inner._waiters:
                inner._waiters.remove(waiter)


class Event(threading.Event):
    """An event that threads wait for, and no greenlet."""

    def __init__(self) -> None:
        self._cond = Condition(Lock())
        self._flag = False


class Thread(Protocol):
    """What is asked of a thread."""

    @property
    def ident(self) -> int | None:
        """Its number, once it runs."""

    def start(self) -> None:
        """Start it. Raises RuntimeError where none can be started."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""

    def is_alive(self) -> bool:
        """Return whether it runs."""


class _OriginalThread:
    """A thread that gevent knows nothing of."""

    def __init__(self, target: Callable[..., object], args: tuple[object, ...]) -> None:
        self.ident: int | None = None
        self._work = (target, args)
        self._running = allocate_lock()

    def start(self) -> None:
        self._running.acquire()
        try:
            start_new_thread(self._run, ())
        except BaseException:
            self._running.release()
            raise

    def _run(self) -> None:
        self.ident = get_ident()
        _original_idents.add(self.ident)
        target, args = self._work
        try:
            target(*args)
        finally:
            _original_idents.discard(self.ident)
            self._running.release()

    def join(self, timeout: float | None = None) -> None:
        if self._running.acquire(timeout=-1 if timeout is None else max(timeout, 0.0)):
            self._running.release()

    def is_alive(self) -> bool:
        return self._running.locked()


def new_thread(target: Callable[..., object], name: str, args: tuple[object, ...] = ()) -> Thread:
    """Return a daemon thread that is not started yet, and never a thread of gevent."""
    if is_green():
        return _OriginalThread(target, args)
    return threading.Thread(target=target, name=name, args=args, daemon=True)


def is_green() -> bool:
    """Return whether gevent has replaced the standard library's threads in this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def call_blocking(function: Callable[..., T], *args: object) -> T:
    """Return ``function(*args)``; in a greenlet, let the others run meanwhile."""
    if not is_green() or get_ident() in _original_idents:
        return function(*args)
    from gevent import get_hub

    answer: T = get_hub().threadpool.apply(function, args)
    return answer
