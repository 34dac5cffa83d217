"""Real servers under load: workers forked from a preloaded master, recycled, killed at random, and ended."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from random import Random

import pytest

from tests.faults import scenario
from tests.faults.scenario import Scenario
from tests.stack import AuditTable, Stack
from tests.stack.ports import HOST, free_port
from tests.stack.waiting import wait_until

_PATIENCE_SECONDS = 60.0
_JOB = "AUDIT_TEST_JOB"


@contextmanager
def served(scene: Scenario, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with scene.log.open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], env=os.environ | {_JOB: scene.job.to_json()}, stdout=log, stderr=log
        )
    with server:
        try:
            yield server
        finally:
            server.kill()


def ask(port: int) -> int | None:
    """Make one request; return the pid of the worker that answered, None where none did."""
    with (
        suppress(OSError, HTTPException),
        urllib.request.urlopen(f"http://{HOST}:{port}/", timeout=_PATIENCE_SECONDS) as answer,
    ):
        return int(answer.read())
    return None


def load(port: int, requests: int, kill_every: int, seed: int) -> int:
    """Make requests, and kill the worker that answered now and then; return how many were killed."""
    chance, killed = Random(seed), 0
    for _ in range(requests):
        worker = ask(port)
        if worker is not None and chance.random() < 1 / kill_every:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
                killed += 1
    return killed


def end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    server.wait(_PATIENCE_SECONDS)


def gunicorn(port: int, *options: str) -> Sequence[str]:
    return "gunicorn", "--preload", "-w", "4", "-b", f"{HOST}:{port}", *options, "tests.faults.served:wsgi"


@pytest.mark.timeout(240)
def test_preloaded_workers_killed_under_load_lose_and_double_nothing(
    stack: Stack, audit_table: AuditTable, tmp_path: Path
) -> None:
    """There are four workers, which are also recycled."""
    stack.gateway.keep_requests(False)
    scene, port = scenario.on_stack(tmp_path, stack, audit_table), free_port()
    with served(scene, *gunicorn(port, "--max-requests", "40", "--max-requests-jitter", "20")) as server:
        wait_until(lambda: ask(port) is not None, "gunicorn serves", _PATIENCE_SECONDS)
        with ThreadPoolExecutor(6) as clients:
            killed = sum(clients.map(lambda seed: load(port, 150, 25, seed), range(6)))
        end(server)
    assert killed > 5
    assert len(scene.said.accepted) > 500
    assert scene.violations() == []


@pytest.mark.parametrize("name", ["gunicorn", "uvicorn"])
def test_a_server_that_is_ended_has_delivered(tmp_path: Path, name: str) -> None:
    scene, port = scenario.on_sqlite(tmp_path, schedule_delay_millis=60_000), free_port()
    commands = {
        "gunicorn": gunicorn(port),
        "uvicorn": ("uvicorn", "--host", HOST, "--port", str(port), "tests.faults.served:asgi"),
    }
    with served(scene, *commands[name]) as server:
        wait_until(lambda: ask(port) is not None, f"{name} serves", _PATIENCE_SECONDS)
        load(port, 50, 10**9, seed=0)
        end(server)
    assert {str(row["id"]) for row in scene.rows()} == scene.said.accepted
    assert scene.violations() == []
