"""Where the records of losses are: a file in the destination's folder, or the memory of this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.outbox.loss_records import FILE_BYTES, LossRecords
from otel_audit_exporter.runtime.owner import give_to_owner

if TYPE_CHECKING:
    from collections.abc import Iterator

LOSS_FILE: Final = "losses"
Change = Callable[[LossRecords], LossRecords]


class LossStore(Protocol):
    """Where the records of losses are kept."""

    def read(self) -> LossRecords:
        """Return the records. Raises :class:`OutboxError` where they cannot be read."""
        ...

    def change(self, change: Change) -> LossRecords:
        """Put what ``change`` makes of the records in their place, and return it.

        Raises :class:`OutboxError` where they cannot be written now: another process is at it, for example.
        """
        ...


class MemoryLosses:
    """Records in the memory of this process, beside an outbox in memory."""

    def __init__(self) -> None:
        self._records = LossRecords()

    def read(self) -> LossRecords:
        return self._records

    def change(self, change: Change) -> LossRecords:
        self._records = change(self._records)
        return self._records


class _HeldError(OutboxError):
    """Another process is at it."""


class LossFile:
    """Records in a file of one page that is made beforehand, so that they can be written when the disk is full."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / LOSS_FILE

    def make(self) -> None:
        """Make the file where it is missing. Raises :class:`OutboxError` where that cannot be."""
        if not self.path.exists():
            with suppress(_HeldError), self._opened(os.O_RDWR | os.O_CREAT) as descriptor:  # else another one makes it
                if os.fstat(descriptor).st_size < FILE_BYTES:
                    os.pwrite(descriptor, bytes(FILE_BYTES), 0)

    def read(self) -> LossRecords:
        try:
            written = self.path.read_bytes()
        except FileNotFoundError:
            return LossRecords()
        except OSError as error:
            raise OutboxError(f"the records of losses {self.path} cannot be read: {error}") from error
        with suppress(ValueError, KeyError, TypeError):
            return LossRecords.from_bytes(written)
        return LossRecords()  # damaged: each loss was logged

    def change(self, change: Change) -> LossRecords:
        with self._opened(os.O_RDWR | os.O_CREAT) as descriptor:
            records = change(self.read())
            os.pwrite(descriptor, records.to_bytes(), 0)
        return records

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        """Open the file with its lock held, which is not waited for."""
        import portalocker

        try:
            descriptor = os.open(self.path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0), 0o600)
            try:
                give_to_owner(self.path)
                portalocker.lock(descriptor, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
                yield descriptor
            finally:
                os.close(descriptor)  # which frees the lock
        except portalocker.exceptions.AlreadyLocked as error:
            raise _HeldError(f"the records of losses {self.path} are being written by another process") from error
        except (OSError, portalocker.exceptions.LockException) as error:
            raise OutboxError(f"the records of losses {self.path} cannot be written: {error}") from error
