"""A lock on a file that the operating system frees when its holder dies.

On POSIX this is ``flock``: freed by ``kill -9``, and kept open by a forked child that inherits the
descriptor, which therefore has to let go of it (:meth:`FileLock.forget`) without unlocking it for its parent.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from otel_audit_exporter.runtime.fork_safety import call_in_child
from otel_audit_exporter.runtime.owner import give_to_owner

_PRIVATE: Final = 0o600
# Not kept by programs that are started, and no link is followed to somebody else's file.
_CAREFULLY: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class FileLock:
    """An exclusive lock on ``path``, held from :meth:`acquire` to :meth:`release` or the end of the process."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._descriptor: int | None = None

    def acquire(self, *, create: bool = True) -> bool:
        """Take the lock; False where somebody else holds it.

        Without ``create`` the file has to be there: :class:`FileNotFoundError`.
        """
        import portalocker

        flags = portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
        descriptor = os.open(self.path, os.O_RDWR | (os.O_CREAT if create else 0) | _CAREFULLY, _PRIVATE)
        try:
            if create:
                give_to_owner(self.path)
            portalocker.lock(descriptor, flags)
        except portalocker.exceptions.AlreadyLocked:
            os.close(descriptor)
            return False
        except portalocker.exceptions.LockException as error:
            os.close(descriptor)
            raise OSError(
                errno.ENOLCK, f"{self.path} cannot be locked: this file system has no working flock"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self)
        return True

    def is_in_place(self) -> bool:
        """Return whether the locked file is the one that others find under its name now."""
        try:
            mine = os.fstat(-1 if self._descriptor is None else self._descriptor)
            return os.path.samestat(mine, os.stat(self.path))
        except OSError:
            return False

    def release(self) -> None:
        """Let go of the lock, for children that have inherited it too; the file stays."""
        if self._descriptor is not None:
            import portalocker

            portalocker.unlock(self._descriptor)
            self.forget()

    def forget(self) -> None:
        """In a forked child: close the inherited descriptor, which leaves the lock with the parent."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            _held.discard(self)
            os.close(descriptor)


# A forked child must not keep a lock of its parent: it would hold it for as long as it lives.
_held: Final[set[FileLock]] = set()


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()


call_in_child(_forget_all)
