"""The outbox directory: a folder for each destination, and in it a folder for each process's log.

A log belongs to the process that holds the lock in it. One whose lock is free was left by a process that has ended: a
live process of the same destination adopts it. A log's folder gets its name when the log is whole, and loses it before
anything in it is removed, so nobody ever opens half a log.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from otel_audit_exporter.errors import AuditConfigurationError, OutboxError, OutboxFullError
from otel_audit_exporter.outbox.adoption import DAMAGED_SUFFIX, Findings, look_through, open_orphan
from otel_audit_exporter.outbox.destination import DESTINATION_NAME, Destination
from otel_audit_exporter.outbox.ended import EndedFile
from otel_audit_exporter.outbox.file_lock import FileLock
from otel_audit_exporter.outbox.file_system import mapping_problem
from otel_audit_exporter.outbox.held_elsewhere import HeldElsewhere
from otel_audit_exporter.outbox.log import ENDED_NAME, LogOptions, OutboxLog
from otel_audit_exporter.outbox.ownership import make_base, make_folder, permission_hint, prove_log
from otel_audit_exporter.outbox.segment import SPARE_SUFFIX, SUFFIX, MappedSegment, WrittenSegment, sync_folder
from otel_audit_exporter.outbox.space import Quota, SegmentSpace
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.runtime.owner import give_to_owner

FORMAT_VERSION: Final = 2
DEAD_LETTERS: Final = "dead-letters.db"
LOG_SUFFIX: Final = ".log"
LOCK_NAME: Final = "lock"
DESCRIPTION_NAME: Final = "log.json"
_BEING_MADE: Final = ".new-"
_BEING_REMOVED: Final = ".gone-"
_MAKING_TRIES: Final = 100
_MAKING_SECONDS: Final = 60.0  # a folder without a lock for longer is nobody's any more


@dataclass
class LockedLog:
    """A log whose lock this process holds."""

    log: OutboxLog
    lock: FileLock
    path: Path
    found: Findings


class NewerFormatError(OutboxError):
    """Say that a log was written by a newer version of this library."""


class OutboxDirectory:
    """The logs of one destination."""

    def __init__(self, root: str | os.PathLike[str], destination: Destination) -> None:
        self.destination = destination
        self.root = Path(root)
        self.path = self.root / destination.folder_name
        self.left_alone: set[Path] = set()  # logs that cannot be read, each reported once
        self.held_elsewhere = HeldElsewhere()

    # --- this process's own log -------------------------------------------------------------------------------

    def create(self, quota: Quota, options: LogOptions) -> LockedLog:
        """Make this process's log, lock it, and prove by writing to it that the disk takes events.

        Raises :class:`AuditConfigurationError` that names both remedies where the directory cannot be used.
        """
        try:
            self._make_folder()
            try:
                return self._new_log(quota, options)
            except OutboxFullError:
                self.cut_orphans()
                return self._new_log(quota, options)
        except (OSError, OutboxError) as error:
            hint = permission_hint(error, self.root)
            raise AuditConfigurationError(
                f"the outbox directory {self.root} cannot be used ({error}{hint}): set OTEL_AUDIT_OUTBOX_DIR to a "
                "writable directory on a local disk, or OTEL_AUDIT_OUTBOX=memory to do without one "
                "(events that are not delivered yet are then lost when the process dies)"
            ) from error

    def _make_folder(self) -> None:
        make_base(self.root)
        make_folder(self.root, self.path.name)
        description = self.path / DESTINATION_NAME
        if not description.exists():
            with tempfile.NamedTemporaryFile("w", dir=self.path, delete=False, encoding="utf-8") as file:
                json.dump(self.destination.description, file)
                file.flush()
                os.fsync(file.fileno())
            give_to_owner(file.name)
            os.replace(file.name, description)

    def _new_log(self, quota: Quota, options: LogOptions) -> LockedLog:
        name, log_id = f"{os.getpid()}-{uuid.uuid4().hex[:12]}", os.urandom(16)
        making, path = self.path / f"{_BEING_MADE}{name}", self.path / f"{name}{LOG_SUFFIX}"
        lock = _new_locked_folder(making)
        try:
            kind = MappedSegment if self._is_mapped(options) else WrittenSegment
            described = {"format": FORMAT_VERSION, "id": log_id.hex(), "pid": os.getpid(), "write": kind.writes}
            _write_description(making / DESCRIPTION_NAME, described, durable=options.durable)
            ended = EndedFile(making / ENDED_NAME, log_id, durable=options.durable)
            if options.durable:
                sync_folder(making)
            os.rename(making, path)
            if options.durable:  # every name on the way to the log
                for folder in (self.path, self.root, self.root.parent):
                    sync_folder(folder)
        except BaseException:
            lock.release()
            shutil.rmtree(making, ignore_errors=True)
            raise
        lock.path, ended.path = os.fspath(path / LOCK_NAME), path / ENDED_NAME
        space = SegmentSpace(quota, path, kind, durable=options.durable)
        held = LockedLog(OutboxLog(log_id, space, ended, path=path), lock, path, Findings())
        try:
            held.log.start()
        except OSError as error:
            self._remove(held)
            raise space.as_outbox_error(error) from error
        except BaseException:
            self._remove(held)
            raise
        return held

    def _is_mapped(self, options: LogOptions) -> bool:
        if options.durable or options.write == "written":
            return False
        problem = mapping_problem(self.path)
        if problem is None:
            return True
        if options.write == "mapped":
            raise OutboxError(f"OTEL_AUDIT_OUTBOX_WRITE=mapped is not safe on {self.path}: {problem}")
        logger.warning(
            "audit: the outbox in %s is written by system calls, as %s: in a busy process a call takes milliseconds "
            "then. Set OTEL_AUDIT_OUTBOX_DIR to a directory on ext4, xfs or tmpfs (a volume)",
            self.path,
            problem,
        )
        return False

    def release(self, held: LockedLog) -> None:
        """Remove a log of which every event has ended; leave another to the next process."""
        closed = held.log.close()
        if not self.path.is_dir():
            self._tell_of_what_is_gone(held)
        elif closed and held.log.pending == 0:
            self._remove(held)
            return
        held.log.close_files()
        held.lock.release()

    def _remove(self, held: LockedLog) -> None:
        held.log.close()
        held.log.close_files()
        with suppress(OSError):
            if next(held.path.glob(f"*{DAMAGED_SUFFIX}"), None) is None:
                gone = held.path.with_name(f"{_BEING_REMOVED}{held.path.name}")
                os.rename(held.path, gone)
                shutil.rmtree(gone, ignore_errors=True)
            else:
                self._keep_damaged(held.path)
        held.log.space.give_back(held.log.size_bytes)
        held.lock.release()

    @staticmethod
    def _keep_damaged(path: Path) -> None:
        """Keep the files that were set aside, for who can read more in them, under a name that nobody adopts."""
        for file in (*path.glob(f"*{SUFFIX}"), *path.glob(f"*{SPARE_SUFFIX}")):
            file.unlink()
        os.rename(path, path.with_name(f"{path.name}{DAMAGED_SUFFIX}"))

    def _tell_of_what_is_gone(self, held: LockedLog) -> None:
        if lost := held.log.pending:
            logger.critical(
                "the outbox directory %s was removed while it was in use: %d event(s) in it are lost", self.path, lost
            )

    def free_bytes(self) -> int:
        """Return how many bytes the disk has free."""
        return shutil.disk_usage(self.path).free

    def affordable_bytes(self) -> int:
        """Return how much more this disk can spare: half of what is free."""
        return max(shutil.disk_usage(self.path).free // 2, 2**20)

    # --- logs of processes that have ended --------------------------------------------------------------------

    def logs(self) -> list[Path]:
        """Return every log's folder, the oldest first."""
        try:
            found = [Path(entry.path) for entry in os.scandir(self.path) if _is_log(entry.name)]
        except FileNotFoundError:
            return []
        return sorted(found, key=_modified_at)

    def adopt(
        self, quota: Quota, options: LogOptions, *, limit: int, mine: Collection[Path] = (), again: bool = False
    ) -> Iterator[LockedLog]:
        """Take over up to ``limit`` logs that nobody holds, one after the other; those without events are removed.

        One that cannot be read is left alone and reported, once: it keeps nobody from the others. ``mine`` are not
        examined. ``again``: examine only the logs that another process held before and that are due now.
        """
        taken = 0
        paths = self.held_elsewhere.due() if again else self.logs()
        for path in paths:
            if taken >= limit:
                return
            if path in mine:
                self.held_elsewhere.forget(path)
                continue
            held = self._adopt_one(path, quota, options)
            if held is None:
                continue
            if held.log.pending == 0 and not held.found.is_damaged:
                self._remove(held)
                continue
            taken += 1
            yield held
        if not again:
            self.held_elsewhere.keep(paths)
            self._remove_leftovers()

    def _adopt_one(
        self, path: Path, quota: Quota, options: LogOptions, *, only_whole: bool = False
    ) -> LockedLog | None:
        try:
            lock = _locked(path)
        except OSError as error:
            self._leave_alone(path, error)
            return None
        if lock is None and path.exists():
            self.held_elsewhere.note(path)
        else:
            self.held_elsewhere.forget(path)
        if lock is None:
            return None
        try:
            prove_log(path)
            log_id = bytes.fromhex(read_description(path)["id"])
            if only_whole and look_through(path, log_id).is_damaged:
                lock.release()
                return None
            space = SegmentSpace(quota, path, WrittenSegment, durable=options.durable)
            log, found = open_orphan(path, log_id, space, durable=options.durable)
        except (OutboxError, OSError, ValueError, KeyError, TypeError) as error:
            lock.release()
            self._leave_alone(path, error)
            return None
        quota.add(log.size_bytes)
        return LockedLog(log, lock, path, found)

    def _leave_alone(self, path: Path, error: Exception) -> None:
        if path not in self.left_alone:
            self.left_alone.add(path)
            logger.error("audit: an earlier process's log %s is left alone: %s", path, error)

    def cut_orphans(self) -> None:
        """Give what dead processes' logs do not use back to the disk: for when it is full of our own files.

        A damaged one is left to the process that adopts and reports it.
        """
        quota = Quota(0)
        for path in self.logs():
            held = self._adopt_one(path, quota, LogOptions(), only_whole=True)
            if held is not None:
                self.release(held)

    def _remove_leftovers(self) -> None:
        """Remove what a process left that died while it made or removed a log."""
        for path in list(self.path.iterdir()) if self.path.is_dir() else ():
            if not path.name.startswith((_BEING_MADE, _BEING_REMOVED)):
                continue
            # One that is gone just now is not old: its maker may be making it once more. Nobody makes what is removed.
            is_old = 0 < _modified_at(path) < Clock.wall() - _MAKING_SECONDS or path.name.startswith(_BEING_REMOVED)
            lock = None
            with suppress(OSError):
                lock = _locked(path)
            if lock is not None or (is_old and not (path / LOCK_NAME).exists()):
                shutil.rmtree(path, ignore_errors=True)
            if lock is not None:
                lock.release()


def _new_locked_folder(making: Path) -> FileLock:
    """Make a folder and lock it. Who clears up may come in between, and take it for one that was left."""
    lock = FileLock(making / LOCK_NAME)
    for _ in range(_MAKING_TRIES):
        with suppress(FileNotFoundError, FileExistsError):  # the latter where it is removed in the middle of that
            making.mkdir(mode=0o700, exist_ok=True)
            give_to_owner(making)
            if lock.acquire() and lock.is_in_place():
                return lock
        lock.release()
        time.sleep(0.001)
    raise OutboxError(f"{making} cannot be locked: this file system has no working flock")


def _write_description(path: Path, described: dict[str, Any], *, durable: bool) -> None:
    with open(path, "w", encoding="utf-8", opener=partial(os.open, mode=0o600)) as file:
        give_to_owner(path)
        json.dump(described, file)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def read_description(path: Path) -> dict[str, Any]:
    """Return the description of a log. Raises :class:`NewerFormatError` where a newer version has written it."""
    described = json.loads((path / DESCRIPTION_NAME).read_text(encoding="utf-8"))
    if described["format"] > FORMAT_VERSION:
        raise NewerFormatError(
            f"its format {described['format']} is newer than this library's ({FORMAT_VERSION}): "
            "run a newer version of otel_audit_exporter to deliver it"
        )
    return dict(described)


def _locked(path: Path) -> FileLock | None:
    """Lock a log that nobody holds; None where somebody does, or where it has gone meanwhile."""
    lock = FileLock(path / LOCK_NAME)
    with suppress(FileNotFoundError):
        if not lock.acquire(create=False):
            return None
        if lock.is_in_place():
            return lock
        lock.release()
    return None


def _is_log(name: str) -> bool:
    return name.endswith(LOG_SUFFIX) and not name.startswith(_BEING_REMOVED)


def _modified_at(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
