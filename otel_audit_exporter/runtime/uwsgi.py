"""uWSGI: a server in C that forks its workers, and whose main threads wait in C."""

from __future__ import annotations

import signal
import sys
from typing import Final

from otel_audit_exporter.runtime.log import logger

_FORK_HOOKS: Final = "py-call-uwsgi-fork-hooks"
# What a thread's own fault raises, and what samples threads, stays with the thread.
_OWN: Final = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS", "SIGPROF")


def leave_signals_to_uwsgi() -> None:
    """In uWSGI: have no signal of the process handled on this thread. Elsewhere nothing is changed.

    A worker that is asked twice to end (by its master, and by what ends the whole group) stays for ever otherwise.
    """
    if "uwsgi" in sys.modules and hasattr(signal, "pthread_sigmask"):
        own = {getattr(signal, name) for name in _OWN if hasattr(signal, name)}
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - own)


def warn_if_a_fork_may_hang() -> None:
    """Log a warning where uWSGI forks its workers after this, and tells Python nothing of it.

    Such a worker may wait for ever for the lock of the interpreter, which a thread of the master held at the fork.
    """
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or uwsgi.worker_id() != 0 or _FORK_HOOKS in uwsgi.opt:
        return
    logger.warning(
        "audit: uWSGI forks its workers after this, and a worker may hang at its start, as a thread runs here. What to "
        "do: set %s and enable-threads, or lazy-apps",
        _FORK_HOOKS,
    )
