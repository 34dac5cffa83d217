"""Threads, forked children and programs, whose errors a test sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn


def in_threads(tasks: list[Callable[[], object]]) -> None:
    """Run every task at once, each in a thread, and return when all have ended well."""
    errors: list[BaseException] = []

    def run(task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


def run_in_child(task: Callable[[], object], seconds: int = 0) -> bool:
    """Run a task in a forked child; False where it raised, or did not end within ``seconds`` (0: no limit)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: the process has threads
        pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        end_with(task)
    return os.waitpid(pid, 0)[1] == 0


def end_with(work: Callable[[], object]) -> NoReturn:
    """In a forked child: work, and end; nothing else of the parent's may run there."""
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def run_python(program: str, **environ: str) -> str:
    """Run a program in a process of its own, which has to end well, and return what it prints."""
    names = {name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "DATABASE_URL"))}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env=names | environ,
        timeout=90,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
