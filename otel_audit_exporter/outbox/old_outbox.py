"""Outboxes of versions before 0.2, which were SQLite files: recognised, and brought into the log when asked for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.outbox.file_lock import FileLock

OLD_SUFFIX: Final = ".outbox"
_BESIDE: Final = ("-ballast", "", "-wal", "-shm", ".lock")


def old_outboxes(folder: Path) -> list[Path]:
    """Return the old outbox files in a destination's folder."""
    return sorted(folder.glob(f"*{OLD_SUFFIX}"))


def take_over(path: Path, accept: Callable[[bytes], object]) -> int:
    """Hand every event of an old outbox to ``accept``, and remove the file; return how many there were.

    Nothing is done where a process of the old version still holds it. A kill in the middle means that some come
    again, under the ids that they have. Raises :class:`OutboxError` where the file cannot be read: it stays.
    """
    lock = FileLock(f"{path}.lock")
    if not lock.acquire():
        return 0
    try:
        with closing(sqlite3.connect(path, timeout=0)) as connection:
            taken = 0
            for (body,) in connection.execute("SELECT body FROM event ORDER BY seq"):
                accept(bytes(body))
                taken += 1
        for suffix in _BESIDE:
            with suppress(OSError):
                Path(f"{path}{suffix}").unlink()
        return taken
    except sqlite3.Error as error:
        raise OutboxError(f"the outbox {path} of an earlier version cannot be read: {error}") from error
    finally:
        lock.release()
