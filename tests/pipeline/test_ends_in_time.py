"""Programs that end while the sink is away: one attempt that fails is enough, as the next process goes on."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_audit_exporter import audit_event, configure_audit
from otel_audit_exporter.pipeline.exporter import AuditExporter
from tests.support.events import arguments
from tests.support.process_state import forget_pipelines

ENTITY = "01890000-0000-7000-8000-000000000001"
PROGRAM = f"""
import os, signal, sys, time
import otel_audit_exporter as audit
pipeline = audit.configure_audit(outbox_dir="outbox", **eval(sys.argv[1]))
def emit():
    audit.audit_event("x", entity_type="t", entity_id="{ENTITY}", yacht_id="{ENTITY}", user_id="{ENTITY}")
emit()
if "known" in sys.argv:
    while pipeline.primary.channel.sender.backoff.is_open:
        time.sleep(0.01)
begun = time.monotonic()
import atexit
atexit.register(lambda: None)
print(begun, flush=True)
if "term" in sys.argv:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""
MUCH_LESS_THAN_BEFORE_SECONDS = 7.0  # it was the whole of OTEL_AUDIT_SHUTDOWN_TIMEOUT, 10 s


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield server.getsockname()[1]


def seconds_to_end(folder: Path, options: dict[str, object], *how: str) -> float:
    """Run a program that emits and ends; return how long its end takes. The monotonic clock is the machine's."""
    command = [sys.executable, "-c", PROGRAM, repr(options), *how]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90, check=False)
    ended = time.monotonic()
    assert run.returncode == (-signal.SIGTERM if "term" in how else 0), run.stderr
    return ended - float(run.stdout)


@pytest.mark.parametrize("how", [(), ("term",)])
def test_a_program_that_ends_at_once_makes_one_attempt(tmp_path: Path, how: tuple[str, ...]) -> None:
    away: dict[str, object] = {"exporter": "supabase", "url": "http://127.0.0.1:1", "key": "k" * 20}
    assert seconds_to_end(tmp_path, away, *how) < MUCH_LESS_THAN_BEFORE_SECONDS
    assert list((tmp_path / "outbox").glob("*/*.log"))


@pytest.mark.parametrize("how", [(), ("term",)])
def test_a_sink_that_is_known_to_hang_gets_a_second(tmp_path: Path, silent: int, how: tuple[str, ...]) -> None:
    hangs: dict[str, object] = {
        "exporter": "supabase",
        "url": f"http://127.0.0.1:{silent}",
        "key": "k" * 20,
        "export_timeout_millis": 9_000,
    }
    assert seconds_to_end(tmp_path, hangs, "known", *how) < MUCH_LESS_THAN_BEFORE_SECONDS


def test_the_end_of_a_process_delivers_to_an_available_sink(tmp_path: Path, bare_environment: None) -> None:
    pipeline = configure_audit("sqlite", path=str(tmp_path / "audit.db"), schedule_delay_millis=60_000)
    exporter: AuditExporter = pipeline.primary
    for _ in range(3_000):
        audit_event(**arguments())
    pipeline.end_with_process()
    assert exporter.channel.counters.pending == 0
    forget_pipelines()
