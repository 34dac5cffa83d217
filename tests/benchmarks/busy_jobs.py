"""Jobs in a busy process: calls beside threads that compute, and the pauses of a thread that is not involved."""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from tests.benchmarks.apart import Result
from tests.benchmarks.bare import bare_emit
from tests.benchmarks.events import CALLS, ENTITY, YACHT, Call, call, pipeline_in
from tests.benchmarks.patterns import Seconds, summed_up

_WARM_UP: Final = 200
_PAUSE_SECONDS: Final = 0.001
_HANDLERS: Final = 8
_MOST_WORK_SECONDS: Final = 0.003
_STEPS: Final = 1000


def beside_computing(
    directory: Path,
    *,
    side: str,
    setting: str,
    computing: Sequence[int],
    seconds: float,
    options: dict[str, Any] | None = None,
) -> Result:
    """Measure the calls of one side for so many seconds beside each number of computing threads.

    ``side``: the name of another call, or of the event that ``audit_event()`` says.
    """
    say = CALLS[side] if options is not None else _OTHERS[side]()
    if options is not None:
        pipeline_in(directory, **options)
    for _ in range(_WARM_UP):
        say()
    result: Result = {}
    for count in computing:
        with threads_that_compute(count):
            taken = _SETTINGS[setting](say, seconds)
        result |= {f"{figure} {count}": value for figure, value in summed_up(taken).items()}
    return result


@contextmanager
def threads_that_compute(count: int) -> Iterator[None]:
    """Have so many threads compute meanwhile, which wants the interpreter all the time."""
    over = threading.Event()

    def compute() -> None:
        number = 0
        while not over.is_set():
            for _ in range(_STEPS):
                number += 1

    with _started([threading.Thread(target=compute) for _ in range(count)]):
        try:
            yield
        finally:
            over.set()


@contextmanager
def _started(threads: Sequence[threading.Thread]) -> Iterator[None]:
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def one_a_millisecond(say: Call, seconds: float) -> Seconds:
    """Call, and sleep for a millisecond, for so long."""
    taken: Seconds = array("d")
    clock = time.perf_counter
    end = clock() + seconds
    while (before := clock()) < end:
        say()
        taken.append(clock() - before)
        time.sleep(_PAUSE_SECONDS)
    return taken


def from_handlers(say: Call, seconds: float) -> Seconds:
    """Call from handler threads, each of which computes between its calls."""
    taken: Seconds = array("d")
    clock = time.perf_counter
    end = clock() + seconds

    def handle() -> None:
        while clock() < end:
            compute_for(random.random() * _MOST_WORK_SECONDS)
            before = clock()
            say()
            taken.append(clock() - before)

    with _started([threading.Thread(target=handle) for _ in range(_HANDLERS)]):
        pass
    return taken


def compute_for(seconds: float) -> None:
    """Compute for so much of this thread's own time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def pauses(directory: Path, *, seconds: float, options: dict[str, Any] | None = None, backlog: int = 0) -> Result:
    """Return how late a thread that only sleeps comes back, while others call once a millisecond and deliver.

    Without ``options`` nothing is audited.
    """
    if options is not None:
        pipeline_in(directory, **options)
        for _ in range(backlog):
            call()
    late: list[float] = []
    over = threading.Event()

    def sleep() -> None:
        while not over.is_set():
            before = time.perf_counter()
            time.sleep(_PAUSE_SECONDS)
            late.append(time.perf_counter() - before - _PAUSE_SECONDS)

    with _started([threading.Thread(target=sleep)]):
        one_a_millisecond(call if options is not None else _nothing, seconds)
        over.set()
    return {"longest": 1000 * max(late), "p99": 1000 * sorted(late)[len(late) * 99 // 100]}


def _nothing() -> None:
    """Do nothing."""


def _submit() -> Call:
    """Return what hands a row to a thread pool."""
    pool = ThreadPoolExecutor(5)
    return lambda: pool.submit(_insert, {"id": str(uuid.uuid4()), "yacht_id": YACHT, "entity_id": ENTITY})


def _insert(row: dict[str, str]) -> None:
    """Insert nothing: the caller's side alone is measured."""


def _queue_handler() -> Call:
    """Return what logs a line by way of a queue, and a listener that writes it nowhere."""
    lines: SimpleQueue[Any] = SimpleQueue()
    QueueListener(lines, logging.NullHandler()).start()
    log = logging.getLogger("bench.queue")
    log.propagate = False
    log.setLevel(logging.INFO)
    log.addHandler(QueueHandler(lines))
    return lambda: log.info("create receiving %s of %s", ENTITY, YACHT)


_OTHERS: Final[dict[str, Callable[[], Call]]] = {
    "bare": lambda: bare_emit()[0],
    "submit": _submit,
    "queue": _queue_handler,
}
_SETTINGS: Final = {"one a millisecond": one_a_millisecond, "handlers": from_handlers}
