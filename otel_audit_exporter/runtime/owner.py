"""Whose a file is that root makes: its folder's owner's, as who runs the workers may be another user than root."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ROOT: Final = 0
HAS_USERS: Final = hasattr(os, "geteuid")


def give_to_owner(path: str | os.PathLike[str]) -> None:
    """Give what root has just made to whom the folder belongs that it is in; for any other user, do nothing."""
    if HAS_USERS and os.geteuid() == ROOT:
        give_as(Path(path), os.stat(os.path.dirname(path)))


def give_as(path: Path, above: os.stat_result) -> None:
    """Do the same where the folder's status is known."""
    if os.geteuid() == ROOT and above.st_uid != ROOT:
        os.chown(path, above.st_uid, above.st_gid, follow_symlinks=False)
