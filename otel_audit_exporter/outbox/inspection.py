"""What waits in the outboxes of this machine, found without taking anything over.

Files are opened read-only. Whether somebody holds a log is asked with a shared lock, taken for an instant.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.outbox.adoption import look_through
from otel_audit_exporter.outbox.destination import DESTINATION_NAME, Destination
from otel_audit_exporter.outbox.directory import (
    DEAD_LETTERS,
    LOCK_NAME,
    LOG_SUFFIX,
    OutboxDirectory,
    read_description,
)
from otel_audit_exporter.outbox.old_outbox import old_outboxes
from otel_audit_exporter.runtime.clock import Clock

_LOOKING_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class OutboxFileStatus:
    """One log. ``events`` is None where they cannot be counted; then ``problem`` says why.

    ``lost`` is how many events a damage has taken, at least. ``write`` is how it is written: mapped or written.
    """

    path: Path
    pid: int | None
    held: bool
    events: int | None
    oldest: datetime | None
    size_bytes: int
    problem: str = ""
    lost: int = 0
    write: str = ""


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """The logs of one destination; ``destination`` is None where its description cannot be read.

    ``dead_letters`` is how many events are parked, None where that cannot be read.
    """

    path: Path
    destination: Destination | None
    files: tuple[OutboxFileStatus, ...]
    dead_letters: int | None


@dataclass(frozen=True, slots=True)
class LogsLeft:
    """The logs of one destination that have events and that no process holds, and the paths of those that one holds."""

    folder: Path
    orphans: tuple[OutboxFileStatus, ...]
    held: tuple[Path, ...]


def read_outbox_status(root: str | os.PathLike[str]) -> list[DestinationStatus]:
    """Return every destination under the outbox directory ``root``, by name; none where there is no directory."""
    try:
        folders = sorted(path for path in Path(root).iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    found = (_destination_status(folder) for folder in folders)
    return [status for status in found if status.destination or status.files]


def _destination_status(folder: Path) -> DestinationStatus:
    logs = (read_log_status(path) for path in sorted(folder.glob(f"*{LOG_SUFFIX}")))
    old = (_old_file_status(path) for path in old_outboxes(folder))
    return DestinationStatus(
        folder,
        described(folder),
        tuple(log for log in (*logs, *old) if log is not None),
        _count_dead_letters(folder / DEAD_LETTERS),
    )


def orphans_elsewhere(directory: OutboxDirectory, seconds: float = _LOOKING_SECONDS) -> dict[Destination, int]:
    """Return the other destinations under the same directory with how many events of dead processes wait there.

    It looks no longer than about so many seconds: a start is not to wait for many logs.
    """
    until = Clock.monotonic() + seconds
    found: dict[Destination, int] = {}
    for description in sorted(directory.root.glob(f"*/{DESTINATION_NAME}")):
        destination = described(description.parent)
        if destination is None or description.parent == directory.path:
            continue
        for log in description.parent.glob(f"*{LOG_SUFFIX}"):
            if Clock.monotonic() > until:
                return found
            status = None if is_held(log) else read_log_status(log)
            if status is not None and status.events:
                found[destination] = found.get(destination, 0) + status.events
    return found


def orphans_under(
    root: str | os.PathLike[str], folders: Iterable[Path] | None = None
) -> Iterator[tuple[Destination, LogsLeft]]:
    """Yield every destination under the outbox directory with what is left there; ``folders``: only of these."""
    for folder in (
        sorted(path.parent for path in Path(root).glob(f"*/{DESTINATION_NAME}")) if folders is None else folders
    ):
        destination = described(folder)
        if destination is None:
            continue
        held: list[Path] = []
        free: list[Path] = []
        for log in folder.glob(f"*{LOG_SUFFIX}"):
            (held if is_held(log) else free).append(log)
        left = [log for log in map(read_log_status, free) if log is not None and log.events]
        yield destination, LogsLeft(folder, tuple(left), tuple(held))


def is_held(log: Path) -> bool:
    """Return whether a process holds this log."""
    return _is_held(log / LOCK_NAME)


def described(folder: Path) -> Destination | None:
    """Return whose logs a folder has, where that can be read."""
    with suppress(OSError, ValueError, TypeError):
        return Destination(**json.loads((folder / DESTINATION_NAME).read_text(encoding="utf-8")))
    return None


def read_log_status(path: Path) -> OutboxFileStatus | None:
    """Return what waits in one log; None where it has gone meanwhile."""
    held = _is_held(path / LOCK_NAME)
    pid, _, _ = path.name.partition("-")
    size, number = 0, int(pid) if pid.isdigit() else None
    try:
        size = sum(file.stat().st_size for file in path.iterdir())
        described = read_description(path)
        log_id = bytes.fromhex(described["id"])
        found = look_through(path, log_id)
    except (OutboxError, OSError, ValueError, KeyError, TypeError) as error:
        if not path.exists():  # delivered and removed meanwhile
            return None
        return OutboxFileStatus(path, number, held, None, None, size, f"cannot be read: {error}")
    at = found.oldest_accepted_at
    return OutboxFileStatus(
        path,
        number,
        held,
        found.pending,
        None if at is None else datetime.fromtimestamp(at, UTC),
        size,
        "; ".join(problem for _, problem in found.foreign),
        found.lost,
        str(described.get("write", "")),
    )


def _old_file_status(path: Path) -> OutboxFileStatus | None:
    """Return what waits in an outbox from before version 0.2, which was an SQLite file."""
    with suppress(FileNotFoundError):
        with suppress(sqlite3.Error), _read_only(path) as connection:
            events, at = connection.execute("SELECT count(*), min(accepted_at) FROM event").fetchone()
            oldest = None if at is None else datetime.fromtimestamp(at, UTC)
            problem = "of an earlier version: run `otel-audit outbox drain`"
            return OutboxFileStatus(path, None, False, events, oldest, path.stat().st_size, problem)
        return OutboxFileStatus(path, None, False, None, None, path.stat().st_size, "cannot be read")
    return None


def _count_dead_letters(path: Path) -> int | None:
    with suppress(FileNotFoundError):
        with suppress(sqlite3.Error, PermissionError):
            if path.stat().st_size == 0:  # somebody makes it just now
                return 0
            with _read_only(path) as connection:
                return int(connection.execute("SELECT count(*) FROM dead_letter").fetchone()[0])
        return None
    return 0


@contextmanager
def _read_only(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)
    try:
        yield connection
    finally:
        connection.close()


def _is_held(lock: Path) -> bool:
    """Return whether a process holds this lock."""
    import portalocker

    try:
        descriptor = os.open(lock, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    try:
        portalocker.lock(descriptor, portalocker.LockFlags.SHARED | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.exceptions.LockException:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
