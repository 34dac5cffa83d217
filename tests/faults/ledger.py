"""What a process says that it attempted and what it saw accepted: a file that a kill cannot take back.

A line is written by one `write` to a file opened for appending, so it is there whole once the call returned,
whatever becomes of the process.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

_ATTEMPTED, _BAD, _ACCEPTED = "a", "b", "k"


class Ledger:
    """The writing end, one per process; safe to use from any thread."""

    def __init__(self, directory: Path) -> None:
        self._path = directory
        self._files: dict[int, int] = {}

    def attempted(self, record_id: str, *, bad: bool = False) -> None:
        """Say, before the call, that this id is about to be emitted."""
        self._write(f"{_BAD if bad else _ATTEMPTED} {record_id}\n")

    def accepted(self, record_id: str) -> None:
        """Say, after the call, that it has returned."""
        self._write(f"{_ACCEPTED} {record_id}\n")

    def _write(self, line: str) -> None:
        os.write(self._files.get(os.getpid()) or self._open(), line.encode())

    def _open(self) -> int:
        path = self._path / f"{os.getpid()}-{os.urandom(4).hex()}.ledger"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return self._files.setdefault(os.getpid(), descriptor)


@dataclass
class Said:
    """What all processes said together."""

    attempted: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)


def read_ledgers(directory: Path) -> Said:
    """Read every ledger; a line that a kill cut short was never said."""
    said = Said()
    for path in directory.glob("*.ledger"):
        for line in path.read_text().split("\n")[:-1]:
            mark, _, record_id = line.partition(" ")
            if mark == _ACCEPTED:
                said.accepted.add(record_id)
            else:
                said.attempted.add(record_id)
            if mark == _BAD:
                said.bad.add(record_id)
    return said
