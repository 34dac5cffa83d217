"""Whose the outbox is: this process's user's; and what root makes is the folder's owner's."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.runtime.log import RateLimitedLogger
from otel_audit_exporter.runtime.owner import HAS_USERS, ROOT, give_as, give_to_owner

_WARN_EVERY_SECONDS: Final = 1e9  # once in a process
_warnings: Final = RateLimitedLogger(_WARN_EVERY_SECONDS)
_FOLDER: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


class ForeignOwnerError(OutboxError):
    """Say that a folder or a file of the outbox is somebody else's."""


def make_base(path: Path) -> None:
    """Make the outbox directory where it is missing; one that is there has to be root's or this user's.

    What root makes of the way to it belongs to the owner of the directory that it is in.

    Raises :class:`ForeignOwnerError` where it is somebody else's, who could plant or take events there.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for one in reversed(missing):
        give_to_owner(one)
    if not HAS_USERS:
        return
    found = path.stat()
    if os.geteuid() != ROOT and found.st_uid not in (ROOT, os.geteuid()):
        raise ForeignOwnerError(_foreign(path, found.st_uid))
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        _warnings.say(
            30,  # logging.WARNING
            path,
            "audit: everybody may rename and remove what is in the outbox directory %s (mode %s): set the sticky bit "
            "(chmod +t), or give it to the user of this process alone",
            path,
            oct(stat.S_IMODE(found.st_mode)),
        )


def make_folder(base: Path, name: str) -> None:
    """Make a destination's folder for this user alone, or prove that the one that is there is no one else's."""
    if not HAS_USERS:
        (base / name).mkdir(mode=0o700, exist_ok=True)
        return
    above = os.open(base, _FOLDER)
    try:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)
            give_as(base / name, os.fstat(above))
        _prove_folder(base / name, above)
    finally:
        os.close(above)


def _prove_folder(path: Path, above: int) -> None:
    try:
        descriptor = os.open(path.name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
    except PermissionError:
        raise ForeignOwnerError(_foreign(path, os.stat(path.name, dir_fd=above).st_uid)) from None
    except OSError as error:
        raise ForeignOwnerError(f"{path} is a link or no folder ({error.strerror}): remove it") from error
    try:
        found = os.fstat(descriptor)
        if not _is_ours(found, os.fstat(above)):
            raise ForeignOwnerError(_foreign(path, found.st_uid))
        if found.st_mode & 0o077:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def prove_log(path: Path) -> None:
    """Raise :class:`ForeignOwnerError` where a log's folder, or a file in it, is somebody else's."""
    if not HAS_USERS:
        return
    above = path.parent.stat()
    for one in (path, *path.iterdir()):
        found = one.lstat()
        kind_is_right = stat.S_ISDIR(found.st_mode) if one is path else stat.S_ISREG(found.st_mode)
        if not kind_is_right or not _is_ours(found, above):
            raise ForeignOwnerError(_foreign(one, found.st_uid) if kind_is_right else f"{one} is a link or the like")


def _is_ours(found: os.stat_result, above: os.stat_result) -> bool:
    mine = os.geteuid()
    return found.st_uid == mine or (mine == ROOT and found.st_uid == above.st_uid)


def _foreign(path: Path, owner: int) -> str:
    mine = os.geteuid()
    return (
        f"{path} belongs to user {owner}, and this process runs as user {mine}: give the outbox directory to that user "
        f"before root starts the application (`chown -R {mine} {path.parent}`)"
    )


def permission_hint(error: BaseException, path: Path) -> str:
    """Return what helps where a directory cannot be used because of whose it is; nothing for another error."""
    if not isinstance(error, PermissionError) or not HAS_USERS:
        return ""
    return (
        f"; this process runs as user {os.geteuid()}: `chown -R {os.geteuid()} {path}` as root gives it that directory"
    )
