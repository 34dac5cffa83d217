"""Threads and forked children, whose errors a test sees."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable


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


def run_in_child(task: Callable[[], object]) -> bool:
    """Run a task in a forked child; False where it raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: the process has threads
        pid = os.fork()
    if pid == 0:
        try:
            task()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0
