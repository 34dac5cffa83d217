"""The outbox directory: one folder per destination, one locked file per process in it.

A file whose lock is free belongs to a process that is gone: an orphan, which a live process of the same
destination adopts. All taking and removing of files happens under the folder's own lock, so that nobody can
lock a file that is just being removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from otel_audit_exporter.errors import AuditConfigurationError, OutboxError
from otel_audit_exporter.outbox.file_lock import FileLock
from otel_audit_exporter.outbox.store import Accepted, DamagedOutboxError, OutboxFile, count_events, salvage
from otel_audit_exporter.runtime.fork_safety import quiet

logger: Final = logging.getLogger("otel_audit_exporter")
_SUFFIX: Final = ".outbox"
_DESCRIPTION: Final = "destination.json"
_PATIENCE_SECONDS: Final = 1.0
_ADOPTION_PATIENCE_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.005
DEAD_LETTERS: Final = "dead-letters.db"


@dataclass(frozen=True)
class Destination:
    """Where rows go, as far as it decides who may deliver them: never a key."""

    exporter: str
    place: str  # host or path; "" where it is not known yet
    schema: str
    table: str

    @property
    def folder_name(self) -> str:
        """A name that people recognise and that no two destinations share."""
        words = "-".join(part for part in (self.exporter, self.place, self.schema, self.table) if part)
        readable = re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-")[:80]
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]
        return f"{readable}-{digest}"

    def __str__(self) -> str:
        return f"{self.exporter} {self.place or '(not configured)'} {self.schema}.{self.table}"


@dataclass
class LockedOutbox:
    """An outbox file whose lock this process holds."""

    store: OutboxFile
    lock: FileLock
    path: Path


class OutboxDirectory:
    """The outbox files of one destination."""

    def __init__(self, root: str | os.PathLike[str], destination: Destination) -> None:
        self.destination = destination
        self.root = Path(root)
        self.path = self.root / destination.folder_name
        self._told: set[Path] = set()

    def create(self, *, durable: bool, max_bytes: int) -> LockedOutbox:
        """Make this process's file, lock it, and prove with a real commit that it takes events.

        Raises :class:`AuditConfigurationError` that names both remedies where the directory cannot be used.
        """
        try:
            self._make_folder()
            with self._guarded(), quiet:
                held = self._new_file(durable, min(max_bytes, self.affordable_bytes()))
            held.store.prove()
        except (OSError, OutboxError) as error:
            raise AuditConfigurationError(
                f"the outbox directory {self.root} cannot be used ({error}): set OTEL_AUDIT_OUTBOX_DIR to a "
                "writable directory on a local disk, or OTEL_AUDIT_OUTBOX=memory to do without one "
                "(events that are not delivered yet are then lost when the process dies)"
            ) from error
        return held

    def affordable_bytes(self) -> int:
        """Return how much more this disk can spare: half of what is free."""
        return max(shutil.disk_usage(self.path).free // 2, 2**20)

    @contextmanager
    def _guarded(self, patience_seconds: float = _PATIENCE_SECONDS) -> Iterator[bool]:
        """Hold the folder's lock; False where somebody does not let go of it, a process that is stopped, say."""
        guard, held = FileLock(self.path / "folder.lock"), False
        try:
            held = _acquire_soon(guard, patience_seconds)
        except OSError as error:
            self._tell_once(Path(guard.path), "the outbox folder's lock %s cannot be used: %s", error)
        try:
            yield held
        finally:
            guard.release()

    def adopt(self, *, durable: bool, max_bytes: int) -> list[LockedOutbox]:
        """Take over the files that nobody holds; empty ones are removed, damaged ones set aside and salvaged."""
        adopted: list[LockedOutbox] = []
        if not self.path.is_dir():
            return adopted
        with self._guarded(_ADOPTION_PATIENCE_SECONDS) as guarded, quiet:
            for path in sorted(self.path.glob(f"*{_SUFFIX}")) if guarded else ():
                held = self._adopt_one(path, durable, max_bytes)
                if held is not None:
                    adopted.append(held)
            if guarded:
                self._remove_stale_locks()
        return adopted

    def _adopt_one(self, path: Path, durable: bool, max_bytes: int) -> LockedOutbox | None:
        """Open one file if it is an orphan; where that fails, say so and leave it: it keeps nobody from the others."""
        lock = FileLock(_lock_path(path))
        try:
            return self._open_orphan(path, lock, durable, max_bytes) if lock.acquire() else None
        except (OutboxError, OSError) as error:
            self._tell_once(path, "an earlier process's outbox file %s is left alone: %s", error)
            lock.release()
            return None

    def _tell_once(self, path: Path, message: str, error: Exception) -> None:
        if path not in self._told:
            self._told.add(path)
            logger.error(message, path, error)

    def _remove_stale_locks(self) -> None:
        """Remove what is left beside an outbox file that is gone: its process died while it removed them."""
        for lock_path in self.path.glob(f"*{_SUFFIX}.lock"):
            lock = FileLock(lock_path)
            with suppress(OSError):
                if not lock_path.with_suffix("").exists() and lock.acquire():
                    _unlink(lock_path.with_suffix(""))
                    lock.release()
                    os.unlink(lock_path)

    def count_orphaned(self) -> int:
        """Return how many events wait in files that no live process holds; nothing is taken over."""
        waiting = 0
        with self._guarded() as guarded, quiet:
            for path in self.path.glob(f"*{_SUFFIX}") if guarded else ():
                with suppress(OutboxError, OSError):
                    lock = FileLock(_lock_path(path))
                    if lock.acquire():
                        try:
                            waiting += count_events(path)
                        finally:
                            lock.release()
        return waiting

    def release(self, held: LockedOutbox) -> None:
        """Close an empty file and remove it; one that still holds events is left for the next process."""
        if not self.path.is_dir():
            self._tell_of_what_is_gone(held)
            held.store.close()
            held.lock.release()
            return
        with self._guarded() as guarded, quiet:
            with held.store.lock:  # nobody can append between the look and the end
                try:
                    keep = not guarded or held.store.count() > 0
                except OutboxError:
                    keep = True
                held.store.close()
            if keep:
                held.lock.release()
            else:
                _unlink(held.path)
                _let_go_of(held.lock)

    def _tell_of_what_is_gone(self, held: LockedOutbox) -> None:
        with suppress(OutboxError):
            if lost := held.store.count():
                logger.critical(
                    "the outbox directory %s was removed while it was in use: %d event(s) in it are lost",
                    self.path,
                    lost,
                )

    def _make_folder(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        description = self.path / _DESCRIPTION
        if not description.exists():
            with tempfile.NamedTemporaryFile("w", dir=self.path, delete=False, encoding="utf-8") as file:
                json.dump(asdict(self.destination), file)
            os.replace(file.name, description)

    def _new_file(self, durable: bool, max_bytes: int) -> LockedOutbox:
        path = self.path / f"{os.getpid()}-{uuid.uuid4().hex[:12]}{_SUFFIX}"
        lock = FileLock(_lock_path(path))
        if not lock.acquire() or not lock.is_in_place():
            raise OutboxError(f"the new file {path} is locked by somebody else")
        try:
            return LockedOutbox(OutboxFile(path, durable=durable, max_bytes=max_bytes), lock, path)
        except BaseException:
            lock.release()
            raise

    def _open_orphan(self, path: Path, lock: FileLock, durable: bool, max_bytes: int) -> LockedOutbox | None:
        store: OutboxFile | None = None
        try:
            store = OutboxFile(path, durable=durable, max_bytes=max_bytes)
            store.prove_whole()
        except OutboxError as error:
            if store is not None:
                store.close()
            if not isinstance(error, DamagedOutboxError):
                raise
            return self._mend(path, lock, durable, max_bytes)
        held = LockedOutbox(store, lock, path)
        if store.count() == 0:
            store.close()
            _unlink(path)
            _let_go_of(lock)
            return None
        return held

    def _mend(self, path: Path, lock: FileLock, durable: bool, max_bytes: int) -> LockedOutbox:
        new, aside = self._rescue(path, salvage(path), durable, max_bytes)
        _let_go_of(lock)
        said = "outbox file damaged: %d events saved from it, the file is kept as %s"
        logger.error(said, new.store.count(), aside)
        return new

    def _rescue(
        self, path: Path, saved: Iterable[Accepted], durable: bool, max_bytes: int
    ) -> tuple[LockedOutbox, Path]:
        """Put what was saved from a damaged file into a new one, and then set it aside: nothing is ever in neither."""
        new = self._new_file(durable, max_bytes)
        try:
            new.store.put(saved)
            return new, _set_aside(path)
        except BaseException:
            new.store.close()
            _unlink(new.path)
            _let_go_of(new.lock)
            raise

    @contextmanager
    def still(self) -> Iterator[None]:
        """Have no file here taken or removed by others meanwhile."""
        with self._guarded(), quiet:
            yield

    def replace(self, held: LockedOutbox, also: Iterable[Accepted], *, durable: bool, max_bytes: int) -> Path:
        """Have a store that is in use go on in a new file, as its own is damaged; return where that is kept.

        In the new one is what can be read, and of ``also`` what cannot. To be called with the store's lock held, in
        :meth:`still`.
        """
        new, aside = self._rescue(held.path, chain(held.store.salvage(), also), durable, max_bytes)
        held.store.go_on_in(new.store)
        _let_go_of(held.lock)
        held.lock, held.path = new.lock, new.path
        return aside


def _acquire_soon(lock: FileLock, patience_seconds: float) -> bool:
    """Take a lock that others hold for moments. Between the tries a fork may happen, and never in one."""
    until = time.monotonic() + patience_seconds
    while True:
        with quiet:
            if lock.acquire():
                return True
        if time.monotonic() >= until:
            return False
        time.sleep(_PAUSE_SECONDS)


def orphans_elsewhere(folder: OutboxDirectory) -> list[tuple[Destination, int]]:
    """Return the other destinations under the same directory, with how many events of dead processes wait there."""
    found = []
    for description in folder.root.glob(f"*/{_DESCRIPTION}"):
        with suppress(OSError, ValueError, TypeError, OutboxError):
            destination = Destination(**json.loads(description.read_text(encoding="utf-8")))
            other = OutboxDirectory(folder.root, destination)
            if other.path != folder.path and (waiting := other.count_orphaned()):
                found.append((destination, waiting))
    return found


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _let_go_of(lock: FileLock) -> None:
    """Release the lock of a file that is not there any more, and remove it."""
    lock.release()
    with suppress(OSError):
        os.unlink(lock.path)


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


def _unlink(path: Path) -> None:
    # The log after the file: without it the file may have again what was settled, for whoever looks meanwhile.
    for suffix in ("-ballast", "", "-wal", "-shm"):
        with suppress(OSError):  # an empty file that stays is in nobody's way
            os.unlink(f"{path}{suffix}")
