"""Room kept in reserve on the disk: a full disk refuses even what would make room on it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import Final

_BYTES: Final = 4 * 2**20
_FREE_ENOUGH: Final = 16  # times the ballast: there has to be so much room before it is laid in again


class Ballast:
    """A file of nothing beside an outbox file, thrown overboard when the disk is full."""

    def __init__(self, path: str, *, max_bytes: int) -> None:
        self._path = path
        self._bytes = min(_BYTES, max_bytes // 4)

    def take_in(self) -> None:
        """Reserve the room, where there is plenty and it is not reserved yet."""
        with suppress(OSError):
            free = shutil.disk_usage(os.path.dirname(self._path)).free
            if os.path.exists(self._path) or free < self._bytes * _FREE_ENOUGH // 4:
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, bytes(self._bytes))
            finally:
                os.close(descriptor)

    def drop(self) -> None:
        """Give the room back to the disk."""
        with suppress(OSError):
            os.unlink(self._path)
