"""What waits in the outboxes of this machine, told without taking anything over.

Files are opened read-only. Whether somebody holds one is asked with a shared lock, taken for an instant under
the folder's own lock where that is free, so that no process that adopts files meets it.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from otel_audit_exporter.outbox.directory import DEAD_LETTERS, Destination
from otel_audit_exporter.outbox.store import FORMAT_VERSION

_BUSY_SECONDS: Final = 5.0
_PID: Final = re.compile(r"(\d+)-[0-9a-f]+\.outbox")


@dataclass(frozen=True, slots=True)
class OutboxFileStatus:
    """One outbox file. ``events`` is None where they cannot be counted; ``problem`` says why then."""

    path: Path
    pid: int | None
    held: bool
    events: int | None
    oldest: datetime | None
    size_bytes: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """The outbox files of one destination; ``destination`` is None where its description cannot be read.

    ``dead_letters`` is how many events are parked, None where that cannot be read.
    """

    path: Path
    destination: Destination | None
    files: tuple[OutboxFileStatus, ...]
    dead_letters: int | None


def read_outbox_status(root: str | os.PathLike[str]) -> list[DestinationStatus]:
    """Return every destination under the outbox directory ``root``, by name; none where there is no directory."""
    try:
        folders = sorted(path for path in Path(root).iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    found = (_destination_status(folder) for folder in folders)
    return [status for status in found if status.destination or status.files]


def _destination_status(folder: Path) -> DestinationStatus:
    with _locked_if_free(folder / "folder.lock"):
        paths = sorted(folder.glob("*.outbox"))
        held = {path: _is_held(path.with_name(path.name + ".lock")) for path in paths}
    files = (_file_status(path, held[path]) for path in paths)
    return DestinationStatus(
        folder,
        _described(folder),
        tuple(file for file in files if file is not None),
        _count_dead_letters(folder / DEAD_LETTERS),
    )


def _described(folder: Path) -> Destination | None:
    with suppress(OSError, ValueError, TypeError):
        return Destination(**json.loads((folder / "destination.json").read_text(encoding="utf-8")))
    return None


def _file_status(path: Path, held: bool) -> OutboxFileStatus | None:
    events, oldest, problem = None, None, ""
    try:
        size_bytes = sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.exists())
        with _read_only(path) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT_VERSION:
                problem = f"format {version} of a newer version of this library"
            else:
                events, at = connection.execute("SELECT count(*), min(accepted_at) FROM event").fetchone()
                oldest = None if at is None else datetime.fromtimestamp(at, UTC)
    except FileNotFoundError:
        return None
    except (sqlite3.Error, OSError) as error:
        if not path.exists():  # delivered and removed meanwhile
            return None
        size_bytes = path.stat().st_size
        problem = f"cannot be read: {error}"
    name = _PID.fullmatch(path.name)
    return OutboxFileStatus(path, int(name[1]) if name else None, held, events, oldest, size_bytes, problem)


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
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
    try:
        yield connection
    finally:
        connection.close()


def _is_held(lock: Path) -> bool:
    with _locked_if_free(lock) as free:
        return not free


@contextmanager
def _locked_if_free(path: Path) -> Iterator[bool]:
    """Hold a shared lock on an existing file, if nobody holds it; say whether nobody did."""
    import portalocker

    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        yield isinstance(error, FileNotFoundError)
        return
    try:
        portalocker.lock(descriptor, portalocker.LockFlags.SHARED | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.exceptions.LockException:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
