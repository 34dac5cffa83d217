"""The end of the process: interpreter exit, SIGTERM where nobody else handles it, multiprocessing children."""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
import weakref
from contextlib import suppress
from types import FrameType
from typing import Final, Protocol

from otel_audit_exporter.runtime.fork_safety import ForkSafeLock, call_in_child


class ProcessExitHook(Protocol):
    """Something that delivers what it can when the process ends."""

    def end_with_process(self) -> None:
        """Deliver within the time set for it; never raise."""
        ...


_endable: Final[weakref.WeakSet[ProcessExitHook]] = weakref.WeakSet()
_terminating = False
_ending = ForkSafeLock()  # held while things are ended, so that the interpreter's exit waits for SIGTERM's thread


def end_with_process(thing: ProcessExitHook, *, on_sigterm: bool) -> None:
    """Have ``thing`` ended at interpreter exit, and on SIGTERM where that is unhandled and we may handle it."""
    _endable.add(thing)
    end_with_multiprocessing_child()
    is_main = threading.current_thread() is threading.main_thread()
    if on_sigterm and is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        with suppress(ValueError):  # in a sub-interpreter, which gets no signals
            signal.signal(signal.SIGTERM, _on_sigterm)


def end_with_multiprocessing_child() -> None:
    """In a ``multiprocessing`` child, which leaves without atexit: have everything ended there too."""
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, _end_all, exitpriority=10)


def _end_all() -> None:
    with _ending:
        for thing in list(_endable):
            thing.end_with_process()


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    # Runs between two bytecodes of the main thread, inside whatever lock that holds: so it takes none, and
    # leaves the work to a thread of its own. The second signal, ours or somebody's, ends the process.
    global _terminating
    if not _terminating:
        _terminating = True
        try:
            _thread.start_new_thread(_terminate, ())
            return
        except RuntimeError:  # the interpreter is ending already
            pass
    _die()


def _die() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    if os.getpid() == 1:  # the first process of a container, for which the kernel ignores the default action
        os._exit(128 + signal.SIGTERM)


def _at_exit() -> None:
    _end_all()
    if _terminating:  # the main thread came to its end meanwhile: the exit status stays that of the signal
        _die()


def _terminate() -> None:
    with _ending:
        try:
            for thing in list(_endable):
                thing.end_with_process()
        finally:
            _signal_main_thread()


def _signal_main_thread() -> None:
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def _in_child() -> None:
    global _terminating
    _terminating = False


atexit.register(_at_exit)
call_in_child(_in_child)
