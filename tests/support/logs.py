"""Outbox logs as a process leaves them, made by the library itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from otel_audit_exporter.outbox.destination import Destination
from otel_audit_exporter.outbox.directory import OutboxDirectory
from otel_audit_exporter.outbox.log import LogOptions
from otel_audit_exporter.outbox.space import Quota


def logs_below(outbox_dir: str | os.PathLike[str]) -> list[Path]:
    """Every log below an outbox directory; one that a process was removing when it was killed is none any more."""
    return sorted(Path(outbox_dir).glob("*/[!.]*.log"))


def leave_log(folder: Path, bodies: Iterable[bytes]) -> Path:
    """Leave one more log of a process that is gone, with these events, in a destination's folder."""
    destination = Destination(**json.loads((folder / "destination.json").read_text(encoding="utf-8")))
    directory = OutboxDirectory(folder.parent, destination)
    held = directory.create(Quota(2**30), LogOptions())
    for body in bodies:
        held.log.append(body)
    directory.release(held)
    return held.path


@contextmanager
def held_by_a_process(lock: Path) -> Iterator[None]:
    """Have another process hold a log's lock, and do nothing."""
    program = (
        "import sys\n"
        "from otel_audit_exporter.outbox.file_lock import FileLock\n"
        f"lock = FileLock({os.fspath(lock)!r})\n"
        "print(lock.acquire(), flush=True)\n"
        "sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield
        process.kill()


def segments_of(path: Path) -> list[Path]:
    """The segments of a log."""
    return sorted(path.glob("*.seg"))


def overwrite(path: Path) -> None:
    """Write over all of a file but its header."""
    with path.open("r+b") as file:
        file.seek(64)
        file.write(b"\xff" * (path.stat().st_size - 64))
