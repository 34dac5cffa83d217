"""The outbox that syncs each event: sixteen threads, beside one sync after another on the same disk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.apart import Result, column, run_apart
from tests.benchmarks.call_jobs import discard_rows
from tests.benchmarks.events import call, pipeline_in
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Budget, Row, compared

_THREADS: Final = 16
_MODELLED_SECONDS: Final = 0.005
_FILE_BYTES: Final = 4 * 2**20
_EVENT_BYTES: Final = 512
_ON_DISK: Final = Budget(1.5, at_least=True)
_MODELLED: Final = Budget(8, at_least=True)


def _run(bench: Bench) -> Sequence[Row]:
    return [_row(bench, None, "that disk's syncs", _ON_DISK), _row(bench, _MODELLED_SECONDS, "5 ms each", _MODELLED)]


def _row(bench: Bench, modelled: float | None, syncs: str, budget: Budget) -> Row:
    how = {"seconds": bench.sizes.synced_seconds, "modelled": modelled}
    sides = {"ours": partial(run_apart, accepted, how), "one by one": partial(run_apart, synced, how)}
    results = bench.in_turns(bench.sizes.rounds, sides)
    ours, theirs = (column(results[name], "per_second") for name in sides)
    what = f"`audit_event()`, outbox fsync, {_THREADS} threads, {syncs}"
    against = "one `fdatasync` after another"
    return compared("fsync", what, ours, against, theirs, "events/s", budget=budget)


def accepted(directory: Path, *, seconds: float, modelled: float | None) -> Result:
    """Say events from sixteen threads for so long; return how many a second were accepted."""
    _model(modelled)
    options: dict[str, Any] = {"exporter": "sqlite", "path": str(directory / "table.db"), "outbox": "fsync"}
    discard_rows(pipeline_in(directory, **options))
    call()
    counts = [0] * _THREADS
    end = time.perf_counter() + seconds

    def say(place: int) -> None:
        while time.perf_counter() < end:
            call()
            counts[place] += 1

    threads = [threading.Thread(target=say, args=(place,)) for place in range(_THREADS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"per_second": sum(counts) / (time.perf_counter() - begun)}


def synced(directory: Path, *, seconds: float, modelled: float | None) -> Result:
    """Write and sync one event after another for so long; return how many a second that were."""
    _model(modelled)
    descriptor = os.open(directory / "synced", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, bytes(_FILE_BYTES))
    os.fsync(descriptor)
    event, count = b"x" * _EVENT_BYTES, 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        os.pwrite(descriptor, event, count * _EVENT_BYTES % _FILE_BYTES)
        os.fdatasync(descriptor)
        count += 1
    return {"per_second": count / (time.perf_counter() - begun)}


def _model(seconds: float | None) -> None:
    """Have each sync take so long, whatever the disk does."""
    if seconds is not None:
        for name in ("fdatasync", "fsync"):
            setattr(os, name, lambda descriptor: time.sleep(seconds))


DURABLE: Final = Measurement("fsync", "events that are synced one by one, from many threads", _run)
