"""A model of a power cut: of the outbox's files and folders, what was synced, as the disk would have it afterwards.

In the process that calls `install`, each sync of a file below the outbox directory keeps a copy of its content, and
each sync of a folder the names in it. What was written and not synced is lost in the cut, all of it: a disk may keep
some, but owes none. The outbox directory itself is there.
"""

import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def install(source: Path, kept: Path) -> None:
    """Have this process keep what it syncs below `source`; for a process that ends soon."""
    kept.mkdir(parents=True, exist_ok=True)
    device = kept.stat().st_dev

    def keeping(sync: Callable[[int], None]) -> Callable[[int], None]:
        def patched(descriptor: int) -> None:
            sync(descriptor)
            status = os.fstat(descriptor)
            if status.st_dev == device and _path_of(descriptor).is_relative_to(source):
                _keep(descriptor, status, kept)

        return patched

    os.fsync, os.fdatasync = keeping(os.fsync), keeping(os.fdatasync)  # type: ignore[assignment]  # descriptors only


def _path_of(descriptor: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


def _keep(descriptor: int, status: os.stat_result, kept: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        with os.scandir(descriptor) as entries:
            names = {entry.name: [entry.inode(), entry.is_dir()] for entry in entries}
        content = json.dumps(names).encode()
    else:
        content = Path(f"/proc/self/fd/{descriptor}").read_bytes()  # it may be open for writing only
    with suppress(FileExistsError, FileNotFoundError, PermissionError):
        # A disk gives no inode away whose removal is not synced: a link keeps this one from being used again.
        os.link(_path_of(descriptor), kept / f"{status.st_ino}.held")
    new = kept / f"{status.st_ino}.{os.getpid()}.new"
    new.write_bytes(content)
    new.rename(_kept_at(kept, status.st_ino, is_folder=stat.S_ISDIR(status.st_mode)))


def _kept_at(kept: Path, inode: int, *, is_folder: bool) -> Path:
    return kept / f"{inode}.{'folder' if is_folder else 'file'}"


def restore(source: Path, kept: Path, to: Path) -> None:
    """Make what is left of `source` after the cut."""
    _restore_folder(source.stat().st_ino, kept, to)


def _restore_folder(inode: int, kept: Path, to: Path) -> None:
    to.mkdir(parents=True)
    names = _kept_at(kept, inode, is_folder=True)
    for name, (child, is_folder) in json.loads(names.read_bytes() if names.exists() else b"{}").items():
        content = _kept_at(kept, child, is_folder=False)
        if is_folder:
            _restore_folder(child, kept, to / name)
        else:
            (to / name).write_bytes(content.read_bytes() if content.exists() else b"")
