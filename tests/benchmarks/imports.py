"""What importing the library costs, beside the part of the SDK that it plugs into."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from tests.benchmarks.apart import Result, column, plain_environment
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Budget, Row, compared

_PROGRAM = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def _run(bench: Bench) -> Sequence[Row]:
    ours, theirs = "otel_audit_exporter", "opentelemetry.sdk._logs.export"
    results = bench.in_turns(bench.sizes.imports, {ours: lambda: _import(ours), theirs: lambda: _import(theirs)})
    return [
        compared(
            "import",
            f"`import {ours}`",
            column(results[ours], "milliseconds"),
            f"`import {theirs}`",
            column(results[theirs], "milliseconds"),
            "ms",
            budget=Budget(1.3),
        )
    ]


def _import(name: str) -> Result:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(name)],
        stdout=subprocess.PIPE,
        env=plain_environment(),
        text=True,
        check=True,
    )
    return {"milliseconds": 1000 * float(done.stdout)}


IMPORTS = Measurement("imports", "import time", _run)
