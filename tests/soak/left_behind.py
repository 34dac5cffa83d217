"""What crowds of dead processes leave behind: their logs by the thousand, and a small volume that they filled."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from otel_audit_exporter import (
    AuditPipeline,
    OutboxFullError,
    audit_event,
    configure_audit,
    get_audit_stats,
    shutdown_audit,
)
from tests.faults.scenario import sqlite_rows
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.logs import logs_below

_DESCRIPTORS = 1024
_EVENTS = 3
_VOLUME = "200m"
_PATIENCE_SECONDS = 600.0


@dataclass
class Place:
    """A table that is away until its directory is made, and the outbox before it."""

    directory: Path
    outbox: Path

    @property
    def table(self) -> Path:
        return self.directory / "away" / "table.db"

    def heal(self) -> None:
        self.table.parent.mkdir()

    def run(self, what: str, number: int) -> dict[str, float]:
        """Run one of this module's programs in a process of its own, and return its figures."""
        command = [sys.executable, "-m", "tests.soak.left_behind", what, str(self.directory), str(self.outbox)]
        done = subprocess.run(
            [*command, str(number)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))


def deliver_orphans(orphans: int) -> tuple[str, bool]:
    """Leave so many logs of killed processes; start with few descriptors. Return the figures, and whether all is well.

    A start must take no longer than without them, but for 0.3 s.
    """
    with _temporary() as directory:
        place = Place(directory, directory / "outbox")
        alone = min(place.run("start", 0)["seconds"] for _ in range(3))
        left = place.run("leave", orphans)
        logs = len(logs_below(place.outbox))
        place.heal()
        started = place.run("start", int(left["accepted"]))
        rows = _ids_in(place.table)
    longer = started["seconds"] - alone
    words = (
        f"{logs} logs of killed processes: a start took {longer:+.3f} s more than without, {len(rows)} of "
        f"{left['accepted']:.0f} events delivered once in {started['drained']:.1f} s, at most "
        f"{started['descriptors']:.0f} of {_DESCRIPTORS} descriptors open"
    )
    return words, logs >= orphans and longer <= 0.3 and len(rows) == len(set(rows)) == left["accepted"]


def drain_full_volume(workers: int) -> tuple[str, bool]:
    """Have killed workers fill a small volume while the table is away; new processes have to drain it by themselves."""
    with _temporary() as directory, _volume(directory / "volume") as volume:
        if volume is None:
            return "a volume filled by killed workers: not shown, as this user may mount nothing", True
        place = Place(directory, volume / "outbox")
        left = place.run("fill", workers)
        used = shutil.disk_usage(volume)
        place.heal()
        started = place.run("start", int(left["accepted"]))
        rows, logs = _ids_in(place.table), logs_below(place.outbox)
    words = (
        f"a volume of {used.total >> 20} MiB with {used.free >> 10} KiB free after {workers} killed workers: "
        f"{len(rows)} of {left['accepted']:.0f} events delivered once in {started['drained']:.1f} s, "
        f"{len(logs)} logs left"
    )
    return words, len(rows) == len(set(rows)) == left["accepted"]


def _ids_in(table: Path) -> list[str]:
    return [row["id"] for row in sqlite_rows(table)]


@contextmanager
def _temporary() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="audit-soak-"))
    yield directory
    shutil.rmtree(directory)


@contextmanager
def _volume(directory: Path) -> Iterator[Path | None]:
    """Mount a small file system; None where this user may not."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_VOLUME}", "none", str(directory)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


# --- the programs --------------------------------------------------------------------------------------------------


def _configure(place: Place) -> AuditPipeline:
    return configure_audit("sqlite", path=str(place.table), outbox_dir=str(place.outbox))


def leave(place: Place, orphans: int) -> dict[str, float]:
    """Fork so many processes; each accepts a few events, and kills itself."""
    _configure(place)
    for _ in range(orphans):
        child = os.fork()
        if child == 0:
            for _ in range(_EVENTS):
                audit_event(**arguments())
            os.kill(os.getpid(), 9)
        os.waitpid(child, 0)
    return {"accepted": orphans * _EVENTS}


def fill(place: Place, workers: int) -> dict[str, float]:
    """Fork so many processes; each accepts until the outbox is full, and kills itself. They run at the same time."""
    _configure(place)
    reader, writer = os.pipe()
    children = []
    for _ in range(workers):
        child = os.fork()
        if child == 0:
            accepted = 0
            try:
                while True:
                    audit_event(**arguments(new_values={"text": "x" * 2000}))
                    accepted += 1
            except OutboxFullError:
                os.write(writer, f"{accepted}\n".encode())
            os.kill(os.getpid(), 9)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as accepted_by:
        return {"accepted": sum(map(int, accepted_by))}


def start(place: Place, expected: int) -> dict[str, float]:
    """Start with few descriptors, accept an event, and wait until everything that was left is delivered."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
    begun = time.perf_counter()
    _configure(place)
    ready = time.perf_counter()
    descriptors = 0

    def is_drained() -> bool:
        nonlocal descriptors
        descriptors = max(descriptors, len(os.listdir("/proc/self/fd")))
        stats = get_audit_stats()
        return stats.recovered >= expected and stats.pending == 0

    wait_until(is_drained, "everything that was left is delivered", _PATIENCE_SECONDS)
    drained = time.perf_counter() - ready
    shutdown_audit()
    return {"seconds": ready - begun, "drained": drained, "descriptors": descriptors}


if __name__ == "__main__":
    program = {"leave": leave, "fill": fill, "start": start}[sys.argv[1]]
    print(json.dumps(program(Place(Path(sys.argv[2]), Path(sys.argv[3])), int(sys.argv[4]))), flush=True)
    sys.stdout.flush()
    os._exit(0)
