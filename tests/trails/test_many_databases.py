"""Five hundred databases, some of which hang and some of which nobody knows: the others do not notice."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter import audit_event, configure_audit, get_audit_stats, shutdown_audit
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.rows import sqlite_rows

HANGING = [f"hanging{number}" for number in range(20)]
UNKNOWN = [f"unknown{number}" for number in range(5)]
GOOD = [f"good{number}" for number in range(475)]
MOST_THREADS = 8
MOST_DISK = 100 * 2**20
MOST_MEMORY = 40 * 2**20


@pytest.fixture
def locked(files: Path) -> Iterator[ExitStack]:
    """Hold the files of some databases, so that whoever writes there waits."""
    with ExitStack() as held:
        for name in HANGING:
            connection = sqlite3.connect(files / f"{name}.db", isolation_level=None)
            connection.execute("CREATE TABLE other (x)")
            connection.execute("BEGIN EXCLUSIVE")
            held.callback(connection.close)
        yield held


def used_memory() -> int:
    """Return the anonymous memory of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def used_disk(path: str) -> int:
    files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sum(file.stat().st_blocks * 512 for file in files)


@pytest.mark.timeout(300)
def test_the_others_land_and_threads_disk_and_memory_are_bounded(files: Path, locked: ExitStack) -> None:
    def resolve(name: str) -> Mapping[str, Any] | None:
        return None if name in UNKNOWN else {"path": str(files / f"{name}.db")}

    configure_audit("sqlite", path=str(files / "main.db"), databases=resolve)
    audit_event(**arguments()).result(30)
    threads, memory = threading.active_count(), used_memory()
    for name in [*HANGING, *UNKNOWN, *GOOD]:
        audit_event(**arguments(action=name), database=name)
    said_at = time.monotonic()
    disk = used_disk(os.environ["OTEL_AUDIT_OUTBOX_DIR"])
    most = 0

    def landed() -> bool:
        nonlocal most
        most = max(most, threading.active_count() - threads)
        return get_audit_stats().succeeded == len(GOOD) + 1

    wait_until(landed, "the good databases have their events", 150)
    took = time.monotonic() - said_at
    grown = used_memory() - memory
    print(f"{took:.2f} s, {most} threads, {disk / 2**20:.1f} MiB of disk, {grown / 2**20:.1f} MiB of memory")
    assert most <= MOST_THREADS
    assert disk <= MOST_DISK
    assert grown <= MOST_MEMORY
    for name in GOOD:
        assert [row["action"] for row in sqlite_rows(files / f"{name}.db")] == [name]
    assert get_audit_stats().pending == len(HANGING) + len(UNKNOWN)
    locked.close()
    wait_until(lambda: get_audit_stats().pending == len(UNKNOWN), "what hung is delivered", 90)
    for name in HANGING:
        assert [row["action"] for row in sqlite_rows(files / f"{name}.db")] == [name]
    assert not shutdown_audit(0)
