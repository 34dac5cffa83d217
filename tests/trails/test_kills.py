"""Processes that are killed at random: no event is lost, none is there twice, and none is in another's table."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.rows import sqlite_rows
from tests.trails.killed_worker import DESTINATIONS

KILLS = int(os.environ.get("TRAILS_KILLS", "12"))
AT_ONCE = 2


def start(files: Path, ledger: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.trails.killed_worker", str(files), str(ledger), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": _ROOT})


_ROOT = str(Path(__file__).parents[2])


@pytest.mark.timeout(300)
def test_killed_processes_lose_double_and_mix_nothing(files: Path, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)  # no secret
    ledger = tmp_path / "ledger"
    for _ in range(KILLS // AT_ONCE):
        workers = [start(files, ledger) for _ in range(AT_ONCE)]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "says\n"
        time.sleep(dice.uniform(0.0, 0.3))
        for worker in workers:
            worker.kill()
            worker.communicate()
    last = start(files, ledger, "drain")
    assert last.communicate(timeout=240)[0] == "drained\n"
    said: dict[tuple[str, str], set[str]] = {}
    for line in ledger.read_text().splitlines():
        record_id, *names = line.split(" ")
        said.setdefault((names[0], names[1]), set()).add(record_id)
    print({name: len(ids) for name, ids in said.items()})
    for trail, database in DESTINATIONS:
        table = "ledger_events" if trail == "ledger" else "pms_audit_log"
        rows = sqlite_rows(files / f"{database or 'main'}.db", table)
        assert Counter(row["action"] for row in rows).keys() <= {f"{trail}@{database}"}
        ids = [row["id"] for row in rows]
        assert len(ids) == len(set(ids))
        assert said.get((trail, str(database)), set()) <= set(ids)
