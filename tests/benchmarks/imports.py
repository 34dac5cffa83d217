"""What importing the library costs, beside the part of the SDK that it plugs into."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

from tests.benchmarks.apart import Result, column, plain_environment
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Budget, Row, compared

_PROGRAM: Final = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


_BUDGETS: Final = {
    "import otel_audit_exporter": Budget(0.3),
    "from otel_audit_exporter import audit_event, configure_audit": Budget(1.8),
}
_THEIRS: Final = "import opentelemetry.sdk._logs.export"


def _run(bench: Bench) -> Sequence[Row]:
    sides = {statement: partial(_import, statement) for statement in (*_BUDGETS, _THEIRS)}
    for compile_first in sides.values():
        compile_first()
    results = bench.in_turns(bench.sizes.imports, sides)
    theirs = column(results[_THEIRS], "milliseconds")
    return [
        compared(
            "import",
            f"`{statement}`",
            column(results[statement], "milliseconds"),
            f"`{_THEIRS}`",
            theirs,
            "ms",
            budget=budget,
            threads=False,
        )
        for statement, budget in _BUDGETS.items()
    ]


def _import(statement: str) -> Result:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(statement)],
        stdout=subprocess.PIPE,
        env=plain_environment(),
        text=True,
        check=True,
    )
    return {"milliseconds": 1000 * float(done.stdout)}


IMPORTS = Measurement("imports", "import time", _run)
