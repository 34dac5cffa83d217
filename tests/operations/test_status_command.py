"""`otel-audit status`: every process that shares the outbox directory."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from otel_audit_exporter import shutdown_audit
from otel_audit_exporter.cli.status import _view
from tests.operations.conftest import Configure
from tests.operations.stubs import AWAY, BAD_ROW, StubExporter, emit

COMMAND = [sys.executable, "-m", "otel_audit_exporter.cli", "status"]
DIES = """
import os
from otel_audit_exporter import configure_audit
from tests.operations.stubs import AWAY, StubExporter, emit
exporter = StubExporter(ids="text")
exporter.sink.fail(AWAY)
configure_audit(exporter)
emit(4)
os._exit(0)
"""


def status(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *options], capture_output=True, text=True, check=True)


def as_json(*options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in status("--format", "json", *options).stdout.splitlines()]


@pytest.fixture
def waiting(configured: Configure, stub: StubExporter, no_usual_look: None) -> None:
    """Three events wait in this process, four in one that is gone, and one is parked."""
    pipeline = configured()
    emit(1)
    pipeline.force_flush()
    stub.sink.fail(BAD_ROW)
    emit(1)
    assert pipeline.force_flush()
    stub.sink.fail(AWAY)
    emit(3)
    subprocess.run([sys.executable, "-c", DIES], check=True)


@pytest.mark.usefixtures("waiting")
def test_live_and_dead_processes_are_listed_with_pending_and_parked_events() -> None:
    (document,) = as_json()
    assert (document["pending"], document["parked"]) == (7, 1)
    assert (document["live"], document["orphaned"]) == (1, 1)
    assert {(one["pid"] == os.getpid(), one["live"], one["pending"]) for one in document["processes"]} == {
        (True, True, 3),
        (False, False, 4),
    }
    assert 0 < document["oldest_pending_seconds"] < 100


@pytest.mark.usefixtures("waiting")
def test_the_table_says_the_same_to_people() -> None:
    done = status()
    assert "7 events pending, the oldest for" in done.stderr
    assert "1 parked" in done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["destination", "process", "state", "pending", "oldest", "size", "parked"]
    assert sorted(state for row in rows for state in ("live", "orphaned") if state in row.split()) == [
        "live",
        "orphaned",
    ]


@pytest.mark.usefixtures("waiting")
def test_an_unreadable_outbox_is_not_shown_as_empty(tmp_path: Path) -> None:
    (folder,) = (tmp_path / "outbox").iterdir()
    (folder / "dead-letters.db").write_bytes(b"damaged" * 1000)
    (folder / "1-aaaaaaaaaaaa.log").mkdir()
    (folder / "1-aaaaaaaaaaaa.log" / "log.json").write_bytes(b"damaged" * 1000)
    done = status()
    assert "7 events pending" in done.stderr
    assert "2 files not counted: cannot be read" in done.stderr
    assert done.stdout.splitlines()[1].split()[-1] == "?"
    (document,) = as_json()
    assert document["parked"] is None
    assert [one["pending"] for one in document["processes"] if one["problem"]] == [None]


@pytest.mark.usefixtures("waiting")
def test_on_a_narrow_terminal_no_number_is_broken() -> None:
    written = io.StringIO()
    Console(width=70, file=written).print(_view(os.environ["OTEL_AUDIT_OUTBOX_DIR"]))
    lines = written.getvalue().splitlines()
    assert any(str(os.getpid()) in line and "KiB" in line for line in lines)


def test_an_empty_directory_has_nothing_to_show(tmp_path: Path) -> None:
    done = status("--outbox-dir", str(tmp_path))
    assert done.stdout == ""
    assert done.stderr == f"{tmp_path}: 0 events pending, 0 parked\n"


def test_a_missing_directory_is_reported_as_missing(tmp_path: Path) -> None:
    done = status("--outbox-dir", str(tmp_path / "nothing"))
    assert done.stdout == ""
    assert "0 events pending, 0 parked; there is no such directory (OTEL_AUDIT_OUTBOX_DIR)" in done.stderr


@pytest.mark.usefixtures("waiting")
def test_watching_prints_again_and_again_until_it_is_interrupted() -> None:
    command = [*COMMAND, "--watch", "--interval", "0.1", "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        second = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert first["pending"] == second["pending"] == 7
    assert process.returncode == 0


@pytest.mark.usefixtures("waiting")
def test_a_terminal_gets_a_live_view() -> None:
    primary, secondary = pty.openpty()
    environment = os.environ | {"COLUMNS": "150", "LINES": "30", "TERM": "xterm"}
    command = [*COMMAND, "--watch", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=secondary, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(secondary)
        seen, interrupted = b"", False
        with open(primary, "rb", buffering=0) as screen, suppress(OSError):  # Linux's word for the end of a terminal
            while more := screen.read(65_536):  # to the end: who draws waits until somebody has read
                seen += more
                if not interrupted and seen.count(b"7 events pending") > 1 and b"orphaned" in seen:
                    interrupted = True
                    process.send_signal(signal.SIGINT)
    assert interrupted
    assert process.returncode == 0


@pytest.mark.usefixtures("waiting")
def test_looking_takes_nothing_over() -> None:
    before = as_json()
    assert [one["pending"] for one in as_json()[0]["processes"]] == [one["pending"] for one in before[0]["processes"]]
    shutdown_audit(0)
    (document,) = as_json()
    assert (document["live"], document["orphaned"], document["pending"]) == (0, 2, 7)
