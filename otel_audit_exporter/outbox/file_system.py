"""Which file systems carry a memory-mapped log: those on which a store into written blocks cannot fail."""

from __future__ import annotations

import mmap
import os
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

# On these a store into a block that was written before needs no new one. On btrfs every store may need one, and a
# full disk then ends the process (SIGBUS); network file systems may take the file away.
MAPPABLE: Final = frozenset({"ext4", "xfs", "tmpfs"})
_LAYERED: Final = frozenset({"overlay", "fuse-overlayfs"})


def mapping_problem(folder: Path) -> str | None:
    """Say why a log in this folder is better written than mapped; None where it may be mapped."""
    if not sys.platform.startswith("linux"):
        return f"memory-mapped logs are for Linux, and this is {sys.platform}"
    try:
        kind = file_system_of(folder)
    except (OSError, ValueError) as error:
        return f"its file system cannot be told ({error})"
    return None if kind in MAPPABLE else f"its file system is {kind}"


def file_system_of(folder: Path) -> str:
    """Return the type of the file system that a new file in this folder is on."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    device = os.stat(folder).st_dev
    kind = _type_on(mounts, f"{os.major(device)}:{os.minor(device)}")
    if kind in _LAYERED:  # a file of an overlay is on the file system below, which its map shows
        kind = _type_on(mounts, _device_of_a_map(folder))
    if kind is None:
        raise ValueError("no mount has its device")
    return kind


def _type_on(mounts: list[str], device: str) -> str | None:
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == device:
            return rest.split()[0]
    return None


def _device_of_a_map(folder: Path) -> str:
    """Return the device that the kernel shows for a map of a new file."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix="probe-") as file:
        file.write(bytes(mmap.PAGESIZE))
        file.flush()
        inode = os.fstat(file.fileno()).st_ino
        probe = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        with suppress(OSError):
            for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
                found = re.match(r"\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) (\d+) ", line)
                if found and file.name in line and int(found[3]) == inode:
                    probe.close()
                    return f"{int(found[1], 16)}:{int(found[2], 16)}"
        probe.close()
    raise ValueError("its map is not shown")
