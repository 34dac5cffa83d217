"""One scenario: a table, an outbox directory, ledgers, workers that die, and the check at the end."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.checker import violations
from tests.faults.failpoints import AFTER_A_CALL, FAILPOINTS
from tests.faults.ledger import Said, read_ledgers
from tests.faults.worker import Job
from tests.stack import AuditTable, Stack

Rows = Callable[[], list[dict[str, Any]]]
_DRAIN_SECONDS = 300.0


@dataclass(frozen=True)
class Death:
    """How a worker ended: its exit code (-9: killed), and whether it was at its failpoint."""

    failpoint: str | None
    status: int
    fired: bool


class Nursery:
    """A nursery process: hands out workers to be killed."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.nursery"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

    def kill_one(self, job: Job, seconds: float) -> int:
        """Run a worker until its failpoint, or for so long where it has none; return its exit code (-9: killed)."""
        death = self.kill(job, seconds)
        assert death.fired or job.failpoint is None, f"never reached: {job.failpoint}"
        return death.status

    def kill(self, job: Job, seconds: float) -> "Death":
        """Run a worker for so long, or until its failpoint, which it need not reach."""
        return Death(job.failpoint, **self._ask({"kind": "kill", "job": asdict(job), "seconds": seconds}))

    def drain(self, job: Job, seconds: float = _DRAIN_SECONDS) -> dict[str, Any]:
        """Run the last process, which takes over and delivers what the others left."""
        return self._ask({"kind": "drain", "job": asdict(job), "seconds": seconds})

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert isinstance(answer, dict)
        return answer


class Scenario:
    """Everything that the processes of one scenario share."""

    def __init__(self, directory: Path, options: dict[str, Any], rows: Rows) -> None:
        self.directory = directory
        self.ledgers = directory / "ledgers"
        self.ledgers.mkdir()
        self.log = directory / "workers.log"
        self.log.touch()
        self.rows = rows
        self.job = Job(options={**options, "outbox_dir": str(directory / "outbox")}, ledgers=str(self.ledgers))
        self.last: dict[str, Any] = {}

    @property
    def said(self) -> Said:
        return read_ledgers(self.ledgers)

    def remove(self) -> None:
        """Forget all of it."""
        shutil.rmtree(self.directory)

    @contextmanager
    def nursery(self) -> Iterator[Nursery]:
        with closing(Nursery(self.log)) as nursery:
            yield nursery

    def violations(self, breaks: list[str] | None = None) -> list[str]:
        """Have a last process drain what is left, and give what it finds broken."""
        with self.nursery() as nursery:
            self.last = nursery.drain(replace(self.job, breaks=breaks or []))
        if self.last["status"] != 0:
            return [f"the last process failed:\n{self.log.read_text()[-4000:]}"]
        return violations(self.said, self.rows(), self.last)


def on_stack(directory: Path, stack: Stack, table: AuditTable, **options: Any) -> Scenario:
    """A scenario whose sink is the real stack."""
    supabase = {"exporter": "supabase", "url": stack.url, "key": stack.service_key, "table": table.name}
    return Scenario(directory, {**supabase, "schedule_delay_millis": 10, **options}, table.rows)


def on_sqlite(directory: Path, **options: Any) -> Scenario:
    """A scenario whose sink is an SQLite file."""
    path = directory / "table.db"
    sqlite = {"exporter": "sqlite", "path": str(path), "schedule_delay_millis": 10}
    return Scenario(directory, {**sqlite, **options}, lambda: sqlite_rows(path))


def sqlite_rows(path: Path, table: str = "pms_audit_log") -> list[dict[str, Any]]:
    """Every row of an SQLite table; none where it is not there yet."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        made = connection.execute("select 1 from sqlite_master where name = ?", [table]).fetchone()
        return [dict(row) for row in connection.execute(f'select * from "{table}"')] if made else []


@dataclass(frozen=True)
class Lives:
    """What workers do before they are killed."""

    events: int
    bad_every: int
    calls: int
    """At most, of those that are killed after a call."""
    seconds: float
    """At most, of those that are killed at any moment."""


SHORT_LIVES = Lives(events=300, bad_every=40, calls=250, seconds=0.6)
LONG_LIVES = Lives(events=6000, bad_every=400, calls=4000, seconds=3.0)


def random_deaths(seed: int, count: int, lives: Lives) -> Iterator[tuple[str | None, int, float]]:
    """Plan deaths: a third each at random moments, after so many calls, and at the failpoints in turn.

    Each is (failpoint, visits, seconds to wait for it).
    """
    chance = Random(seed)
    points = list(FAILPOINTS)
    chance.shuffle(points)  # a few deaths do not reach all of them
    for number in range(count):
        if number % 3 == 0:
            yield None, 1, chance.uniform(0.0, lives.seconds)
        elif number % 3 == 1:
            yield AFTER_A_CALL, chance.randrange(1, lives.calls), 10.0
        else:
            yield points[number // 3 % len(points)], chance.choice((1, 1, 2, 3)), chance.uniform(0.5, 1.0)


def kill_workers(
    scenario: Scenario, seed: int, count: int, lives: Lives = SHORT_LIVES, nurseries: int = 2
) -> list[Death]:
    """Kill `count` workers, some at once; return how each ended."""
    deaths = list(random_deaths(seed, count, lives))
    job = replace(scenario.job, events=lives.events, bad_every=lives.bad_every)
    with ExitStack() as open_nurseries:
        homes = [open_nurseries.enter_context(scenario.nursery()) for _ in range(nurseries)]

        def run_share(share: int) -> list[Death]:
            ended = []
            for number in range(share, count, nurseries):
                failpoint, visits, seconds = deaths[number]
                planned = replace(job, failpoint=failpoint, visits=visits, seed=seed + number)
                ended.append(homes[share].kill(planned, seconds))
            return ended

        with ThreadPoolExecutor(nurseries) as pool:
            return [death for share in pool.map(run_share, range(nurseries)) for death in share]
