"""A handler that computes, in a real threaded server with eight clients: what its own audit adds to it."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.benchmarks.apart import Result, column, plain_environment, run_apart
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Budget, Row, compared, limited
from tests.benchmarks.served import SETTINGS
from tests.stack.ports import HOST, free_port

_CLIENTS: Final = 8
_WARM_UP_SECONDS: Final = 0.3
_START_SECONDS: Final = 30.0
_MOST_MICROSECONDS: Final = 100.0
_END_SECONDS: Final = 10.0
_MODULE: Final = "tests.benchmarks.served"
_COMMANDS: Final = {
    "gunicorn gthread": ("gunicorn", "-k", "gthread", "-w", "1", "--threads", "8", "-b", "{at}", f"{_MODULE}:wsgi()"),
    "FastAPI under uvicorn": (
        *("uvicorn", "--factory", f"{_MODULE}:asgi", "--host", "{host}", "--port", "{port}"),
        *("--log-level", "warning", "--no-access-log"),
    ),
}


def _run(bench: Bench) -> Sequence[Row]:
    results = bench.in_turns(bench.sizes.rounds, {name: partial(_served, bench, name) for name in _COMMANDS})
    rows: list[Row] = []
    for name in _COMMANDS:
        handler = f"a handler that computes, {name}, 8 at once"
        gain, ours, theirs = (column(results[name], figure) for figure in ("gain", "with p99", "without p99"))
        note = f"{median(column(results[name], 'requests')):,.0f} requests a second"
        rows += [
            limited("server", f"{handler}: its audit adds to its p50", gain, "µs", _MOST_MICROSECONDS, note=note),
            compared("server", f"{handler}, p99", ours, "without its audit", theirs, "µs", budget=Budget(1.0)),
        ]
    return rows


def _served(bench: Bench, name: str) -> Result:
    bench.project.empty_table()
    arguments = {"name": name, "options": bench.project.supabase, "seconds": bench.sizes.served_seconds}
    return run_apart(served, arguments)


def served(directory: Path, *, name: str, options: dict[str, Any], seconds: float) -> Result:
    """Serve, ask from eight clients for so long, and sum up what the handlers took."""
    port = free_port()
    places = {"at": f"{HOST}:{port}", "host": HOST, "port": port}
    said = json.dumps({"directory": str(directory), "options": options})
    server = subprocess.Popen(
        [sys.executable, "-m", *(part.format(**places) for part in _COMMANDS[name])],
        env={**plain_environment(), SETTINGS: said},
        stdout=subprocess.DEVNULL,
        stderr=None if os.environ.get("BENCH_SHOW") else subprocess.DEVNULL,
    )
    try:
        _wait_until_it_serves(port)
        _ask_together(port, _WARM_UP_SECONDS)
        _ask(_connected(port), "/figures")
        _ask_together(port, seconds)
        return _summed_up(json.loads(_ask(_connected(port), "/figures")), seconds)
    finally:
        server.terminate()
        server.wait(_END_SECONDS)


def _summed_up(handled: Sequence[tuple[bool, float, float]], seconds: float) -> Result:
    result: Result = {"requests": len(handled) / seconds}
    beyond = {}
    for name, audited in (("with", True), ("without", False)):
        taken = sorted(in_all for kind, in_all, _ in handled if kind is audited)
        result[f"{name} p99"] = 1e6 * taken[len(taken) * 99 // 100]
        beyond[name] = 1e6 * median(rest for kind, _, rest in handled if kind is audited)
    return {**result, "gain": beyond["with"] - beyond["without"]}


def _ask_together(port: int, seconds: float) -> None:
    end = time.perf_counter() + seconds

    def ask() -> None:
        client = _connected(port)
        while time.perf_counter() < end:
            _ask(client, "/")
        client.close()

    clients = [threading.Thread(target=ask) for _ in range(_CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def _ask(client: http.client.HTTPConnection, path: str) -> bytes:
    client.request("GET", path)
    response = client.getresponse()
    body = response.read()
    assert response.status == 200, body
    return body


def _connected(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(HOST, port)


def _wait_until_it_serves(port: int) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            _ask(_connected(port), "/figures")
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


SERVERS: Final = Measurement("servers", "what its audit adds to a handler in gunicorn and uvicorn", _run)
