"""Kills processes that say events to many destinations, and compares their tables with what was accepted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.support.rows import sqlite_rows

AT_ONCE = 2
_TRAILS = {"default": "pms_audit_log", "ledger": "ledger_events"}
_ROOT = str(Path(__file__).parents[2])

Destination = tuple[str, str | None]


def destinations(databases: int) -> list[Destination]:
    """Both trails in the first database, and in so many that have names."""
    return [(trail, name) for trail in _TRAILS for name in (None, *(f"tenant{number}" for number in range(databases)))]


@dataclass(frozen=True)
class Found:
    """What is wrong, and how many events were accepted and are there."""

    accepted: int
    stored: int
    lost: int
    doubled: int
    crossed: int

    @property
    def is_whole(self) -> bool:
        return self.accepted > 0 and self.lost == self.doubled == self.crossed == 0

    def __str__(self) -> str:
        return (
            f"{self.accepted} accepted, {self.stored} stored: "
            f"{self.lost} lost, {self.crossed} crossed, {self.doubled} doubled"
        )


def found_after_kills(directory: Path, dice: Random, *, kills: int, databases: int, longest: float) -> Found:
    """Kill so many processes after up to ``longest`` seconds of work, have the rest delivered, and compare."""
    files, ledger = directory / "files", directory / "ledger"
    files.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.trails.killed_worker", str(files), str(ledger), str(databases)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": _ROOT, "OTEL_AUDIT_OUTBOX_DIR": str(directory / "outbox")},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(0, kills, AT_ONCE):
            moments = [dice.uniform(0.0, longest) for _ in range(min(AT_ONCE, kills - number))]
            _order(process, "kill " + " ".join(map(str, moments)))
        _order(process, "drain")
        process.stdin.close()
    return _compared(files, ledger, databases)


def _order(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    assert answer == "done\n", f"{line}: {answer}"


def _compared(files: Path, ledger: Path, databases: int) -> Found:
    said: dict[Destination, set[str]] = {name: set() for name in destinations(databases)}
    for line in ledger.read_text().splitlines():
        record_id, trail, name = line.split(" ")
        said[trail, None if name == "None" else name].add(record_id)
    figures: Counter[str] = Counter()
    for (trail, database), accepted in said.items():
        rows = sqlite_rows(files / f"{database or 'main'}.db", _TRAILS[trail])
        ids = {row["id"] for row in rows}
        figures["accepted"] += len(accepted)
        figures["stored"] += len(rows)
        figures["lost"] += len(accepted - ids)
        figures["doubled"] += len(rows) - len(ids)
        figures["crossed"] += sum(row["action"] != f"{trail}@{database}" for row in rows)
    return Found(**{name: figures[name] for name in ("accepted", "stored", "lost", "doubled", "crossed")})
