"""Interruptions: something else between any two steps of a piece of work, and exceptions at any moment."""

from __future__ import annotations

import ctypes
import dis
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from types import FrameType, ModuleType
from typing import Any, Final

# After these the interpreter looks for signals and asynchronous exceptions.
_LOOKS: Final = ("CALL", "RESUME", "JUMP_BACKWARD")


def interrupt(
    work: Callable[[], object],
    at: int,
    interruption: Callable[[], object],
    modules: Sequence[ModuleType],
    *,
    real: bool = False,
) -> bool:
    """Do some work, and something else before its step number ``at``; False where it has not so many steps.

    The steps are the bytecodes of these modules; ``real``: those before which the interpreter calls signal handlers.
    An interruption may raise.
    """
    left, files, before_it = at, {module.__file__ for module in modules}, ""

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left, before_it
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= not real or before_it.startswith(_LOOKS)
            before_it = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if left < 0 and not done:
                done.append(True)
                interruption()
        return trace

    done: list[bool] = []

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return left < 0


@contextmanager
def signals(handler: Callable[[FrameType | None], object], every_seconds: float) -> Iterator[None]:
    """Have a handler called in this thread, the main one, all the time; in the middle of itself, too."""
    previous = signal.signal(signal.SIGALRM, lambda number, frame: handler(frame))
    signal.setitimer(signal.ITIMER_REAL, every_seconds, every_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


class Timeout(Exception):  # noqa: N818
    """What a soft time limit raises in the middle of whatever a thread does."""


@contextmanager
def exceptions_in(thread: int, seed: int) -> Iterator[None]:
    """Raise :class:`Timeout` in a thread at random moments, as ``PyThreadState_SetAsyncExc`` does."""
    stop, chance = threading.Event(), Random(seed)

    def throw() -> None:
        while not stop.wait(chance.uniform(0, 0.0005)):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Timeout))

    thrower, interval = threading.Thread(target=throw), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thrower.start()
    try:
        yield
    finally:
        stop.set()
        thrower.join()
        sys.setswitchinterval(interval)
