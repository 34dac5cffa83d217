"""Outbox logs as a process leaves them, made by the library itself."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from otel_audit_exporter.outbox.directory import Destination, LogOptions, OutboxDirectory
from otel_audit_exporter.outbox.inspection import read_log_status
from otel_audit_exporter.outbox.space import Quota


def logs_below(outbox_dir: str | os.PathLike[str]) -> list[Path]:
    """Every log below an outbox directory."""
    return sorted(Path(outbox_dir).glob("*/*.log"))


def leave_log(folder: Path, bodies: Iterable[bytes]) -> Path:
    """Leave one more log of a process that is gone, with these events, in a destination's folder."""
    destination = Destination(**json.loads((folder / "destination.json").read_text(encoding="utf-8")))
    directory = OutboxDirectory(folder.parent, destination)
    held = directory.create(Quota(2**30), LogOptions())
    for body in bodies:
        held.log.append(body)
    directory.release(held)
    return held.path


def waiting_in(path: Path) -> int:
    """How many events wait in a log."""
    status = read_log_status(path)
    return 0 if status is None else status.events or 0


def segments_of(path: Path) -> list[Path]:
    """The segments of a log."""
    return sorted(path.glob("*.seg"))


def overwrite(path: Path) -> None:
    """Write over all of a file but its header."""
    with path.open("r+b") as file:
        file.seek(64)
        file.write(b"\xff" * (path.stat().st_size - 64))
