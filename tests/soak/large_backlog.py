"""Millions of events pending: what they take of memory, of a fork, and of a shutdown's time."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.backlog_jobs import fill
from tests.benchmarks.delivery_jobs import AwaySink, anonymous_mib
from tests.benchmarks.events import pipeline_in

_MIB = 80.0
_FORK_SECONDS = 0.05
_SHUTDOWN_SECONDS = 1.1  # its second, and what it takes to return
_QUOTA_BYTES = 2**34


def hold_backlog(pending: int) -> tuple[str, bool]:
    """Have so many events pending in one process. Return the figures, and whether all is well."""
    with tempfile.TemporaryDirectory(prefix="audit-soak-") as directory:
        command = [sys.executable, "-m", "tests.soak.large_backlog", directory, str(pending)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    seen = json.loads(done.stdout.splitlines()[-1])
    words = (
        f"{seen['pending']:,} events pending: {seen['mib']:.1f} MiB of memory, fork() {1000 * seen['fork']:.1f} ms, "
        f"shutdown(1000) {seen['shutdown']:.2f} s"
    )
    well = seen["mib"] <= _MIB and seen["fork"] <= _FORK_SECONDS and seen["shutdown"] <= _SHUTDOWN_SECONDS
    return words, well and seen["pending"] == pending


def _program(directory: Path, pending: int) -> dict[str, float]:
    pipeline = pipeline_in(
        directory / "outbox", exporter="sqlite", path=str(directory / "table.db"), outbox_max_bytes=_QUOTA_BYTES
    )
    channel = pipeline.primary.channel
    channel.sink = AwaySink()
    before = anonymous_mib()
    fill(pipeline, pending)
    figures = {"pending": channel.logs.pending, "mib": anonymous_mib() - before, "fork": _fork_seconds()}
    begun = time.perf_counter()
    pipeline.shutdown(1000)
    return {**figures, "shutdown": time.perf_counter() - begun}


def _fork_seconds() -> float:
    begun = time.perf_counter()
    child = os.fork()
    if child == 0:
        os._exit(0)
    taken = time.perf_counter() - begun
    os.waitpid(child, 0)
    return taken


if __name__ == "__main__":
    print(json.dumps(_program(Path(sys.argv[1]), int(sys.argv[2]))), flush=True)
    os._exit(0)
