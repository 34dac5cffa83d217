"""Signals in uWSGI, whose main thread waits in C: one that another thread handles does not wake it."""

from __future__ import annotations

import signal
import sys
from typing import Final

# What a thread's own fault raises, and what samples threads, stays with the thread.
_OWN: Final = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS", "SIGPROF")


def leave_signals_to_uwsgi() -> None:
    """In uWSGI: have no signal of the process handled on this thread. Elsewhere nothing is changed.

    A worker that is asked twice to end (by its master, and by what ends the whole group) stays for ever otherwise.
    """
    if "uwsgi" in sys.modules and hasattr(signal, "pthread_sigmask"):
        own = {getattr(signal, name) for name in _OWN if hasattr(signal, name)}
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - own)
