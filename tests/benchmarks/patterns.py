"""Ways to call: each makes calls in a pattern and returns what each call took.

A call is what the caller waits for, from before it to after it; what other threads of the process take of the
interpreter meanwhile is part of it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from tests.benchmarks.events import Call

Seconds: TypeAlias = "array[float]"
_WARM_UP: Final = 500


def measured(pattern: str, call: Call, rest: Call, options: dict[str, Any]) -> dict[str, float]:
    """Warm up, call in the pattern of that name, and sum up in microseconds."""
    for _ in range(_WARM_UP):
        call()
    rest()
    return summed_up(_PATTERNS[pattern](call, rest, **options))


def bursts(call: Call, rest: Call, *, bursts: int, calls: int) -> Seconds:
    """Call so often one after another, let everything be delivered, and again: the call without its aftermath."""
    taken: Seconds = array("d")
    for _ in range(bursts):
        taken.extend(one_by_one(call, calls))
        rest()
    return taken


def flat_out(call: Call, rest: Call, *, calls: int) -> Seconds:
    """Call without a pause, so that the process delivers at the same time."""
    return one_by_one(call, calls)


def paced(call: Call, rest: Call, *, rate: float, seconds: float) -> Seconds:
    """Call at an even rate, as a busy service does."""
    taken: Seconds = array("d")
    clock = time.perf_counter
    begun = clock()
    for number in range(int(rate * seconds)):
        left = begun + number / rate - clock()
        if left > 0:
            time.sleep(left)
        before = clock()
        call()
        taken.append(clock() - before)
    return taken


def threads(call: Call, rest: Call, *, threads: int, calls: int) -> Seconds:
    """Call flat out from several threads at once, ``calls`` in all."""
    taken: list[Seconds] = []
    start = threading.Barrier(threads)

    def work() -> None:
        start.wait()
        taken.append(one_by_one(call, calls // threads))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return _together(taken)


def tasks(call: Call, rest: Call, *, tasks: int, calls: int) -> Seconds:
    """Call from many tasks of one event loop, each of which gives way to the others after a call."""
    taken: Seconds = array("d")

    async def work() -> None:
        for _ in range(calls // tasks):
            taken.extend(one_by_one(call, 1))
            await asyncio.sleep(0)

    async def together() -> None:
        await asyncio.gather(*(work() for _ in range(tasks)))

    asyncio.run(together())
    return taken


def one_by_one(call: Call, calls: int) -> Seconds:
    """Call so often and return what each call took."""
    taken: Seconds = array("d", bytes(8 * calls))
    clock = time.perf_counter
    for number in range(calls):
        before = clock()
        call()
        taken[number] = clock() - before
    return taken


def summed_up(taken: Seconds) -> dict[str, float]:
    """Return mean and percentiles in microseconds."""
    ascending = sorted(taken)
    shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    return {
        "mean": 1e6 * sum(ascending) / len(ascending),
        **{
            name: 1e6 * ascending[min(int(share * len(ascending)), len(ascending) - 1)]
            for name, share in shares.items()
        },
    }


def _together(parts: Sequence[Seconds]) -> Seconds:
    whole: Seconds = array("d")
    for part in parts:
        whole.extend(part)
    return whole


_PATTERNS: Final[dict[str, Callable[..., Seconds]]] = {
    "bursts": bursts,
    "flat_out": flat_out,
    "paced": paced,
    "threads": threads,
    "tasks": tasks,
}
