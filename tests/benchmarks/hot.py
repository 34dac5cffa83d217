"""Events that are delivered as they come: what the process spends on one beside its call, and OTLP's rate."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from otel_audit_exporter import get_audit_stats
from tests.benchmarks.apart import Result, column, run_apart
from tests.benchmarks.delivery_jobs import drained
from tests.benchmarks.events import call, pipeline_in
from tests.benchmarks.limits import exported_by_the_sdk
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Row, compared, limited

_RATE: Final = 2000
_MOST_MICROSECONDS: Final = 6.0
_WARM_UP: Final = 500
_POLL_SECONDS: Final = 0.02


def _run(bench: Bench) -> Sequence[Row]:
    return [*_processor_time(bench), *_otlp(bench)]


def _processor_time(bench: Bench) -> Sequence[Row]:
    results = bench.in_turns(bench.sizes.rounds, {"hot": partial(_hot, bench)})["hot"]
    what = f"processor time an event beside its call, {_RATE:,} a second through PostgREST"
    return [limited("hot", what, column(results, "microseconds"), "µs", _MOST_MICROSECONDS)]


def _hot(bench: Bench) -> Result:
    bench.project.empty_table()
    return run_apart(delivered_hot, {"options": bench.project.supabase, "seconds": bench.sizes.paced_seconds})


def delivered_hot(directory: Path, *, options: dict[str, Any], seconds: float) -> Result:
    """Call at an even rate until the last event is stored; the caller's own time is left out."""
    pipeline_in(directory, **options)
    for _ in range(_WARM_UP):
        call()
    _wait()
    count = int(seconds * _RATE)
    begun, busy, own = time.perf_counter(), time.process_time(), time.thread_time()
    for number in range(count):
        if (left := begun + number / _RATE - time.perf_counter()) > 0:
            time.sleep(left)
        call()
    _wait()
    spent = time.process_time() - busy - (time.thread_time() - own)
    return {"microseconds": 1e6 * spent / count}


def _wait() -> None:
    while get_audit_stats().pending:
        time.sleep(_POLL_SECONDS)


def _otlp(bench: Bench) -> Sequence[Row]:
    rows = bench.sizes.backlog_rows // 5
    with _receiver() as endpoint:
        options = {"exporter": "otlp", "endpoint": endpoint}
        sides = {
            "ours": partial(run_apart, drained, {"options": options, "rows": rows}),
            "sdk": partial(run_apart, exported_by_the_sdk, {"endpoint": endpoint, "rows": rows}),
        }
        results = bench.in_turns(bench.sizes.few, sides)
    ours, theirs = (column(results[name], "rows_per_second") for name in sides)
    return [compared("hot", "backlog, OTLP", ours, "the SDK's exporter, 1,000 at once", theirs, "rows/s")]


@contextmanager
def _receiver() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.receiver_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


HOT: Final = Measurement("hot", "events that are delivered as they come", _run)
