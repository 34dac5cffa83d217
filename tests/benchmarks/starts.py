"""What a cold start costs with the profile ``ephemeral``: from a new interpreter to the first row in the table."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.benchmarks.apart import Result, column, plain_environment
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Row, alone, limited
from tests.stack import Stack
from tests.support.events import arguments
from tests.support.otlp_receiver import Receiver

_LIMIT_MILLISECONDS: Final = 60.0
# The client of each sink is somebody else's, and mostly the application has it already: it is told apart.
_CLIENTS: Final[Mapping[str, str]] = {
    "sqlite": "import sqlite3",
    "supabase": "import httpx, httpcore, certifi",
    "postgres": "import psycopg",
    "otlp": "import requests, opentelemetry.exporter.otlp.proto.http._log_exporter",
}
_PROGRAM: Final = """
import json, os, sys, time
said = json.loads(sys.argv[1])
steps = {{}}
def step(name, begun=[time.perf_counter()]):
    now = time.perf_counter()
    steps[name], begun[0] = 1000 * (now - begun[0]), now
import opentelemetry.sdk._logs.export
step("sdk")
{client}
step("client")
from otel_audit_exporter import audit_event, configure_audit
step("names")
configure_audit(profile="ephemeral", **said["options"])
receipt = audit_event(**said["event"])
step("event")
receipt.result(60)
step("row")
print(json.dumps(steps), flush=True)
os._exit(0)
"""


def _run(bench: Bench) -> Sequence[Row]:
    rows: list[Row] = []
    with Stack() as stack, Receiver() as receiver, tempfile.TemporaryDirectory(prefix="audit-bench-") as directory:
        table = stack.create_table()
        options: Mapping[str, dict[str, Any]] = {
            "sqlite": {"path": str(Path(directory) / "audit.db")},
            "supabase": {"url": stack.url, "key": stack.service_key, "table": table.name},
            "postgres": {"dsn": stack.dsn(), "table": table.name},
            "otlp": {"endpoint": receiver.endpoint},
        }
        sides = {sink: partial(_start, sink, options[sink]) for sink in options}
        for compile_first in sides.values():
            compile_first()
        for sink, results in bench.in_turns(bench.sizes.imports, sides).items():
            rows += _rows(sink, results)
    return rows


def _rows(sink: str, results: Sequence[Result]) -> list[Row]:
    what, event = f"configure and first event, {sink}", column(results, "event")
    note = f"on a quiet machine; beside it the SDK's import took {median(column(results, 'sdk')):.0f} ms"
    return [
        limited("start", what, event, "ms", _LIMIT_MILLISECONDS, note=note, noisy=False),
        alone("start", f"its client's import, {sink}", column(results, "client"), "ms"),
        alone("start", f"its first row, after that, {sink}", column(results, "row"), "ms"),
    ]


def _start(sink: str, options: Mapping[str, Any]) -> Result:
    event = {name: value if isinstance(value, dict) else str(value) for name, value in arguments().items()}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _PROGRAM.format(client=_CLIENTS[sink]),
            json.dumps({"options": {"exporter": sink, **options}, "event": event}),
        ],
        stdout=subprocess.PIPE,
        env=plain_environment(),
        text=True,
        check=True,
    )
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


STARTS: Final = Measurement("starts", "a cold start with the profile ephemeral", _run)
