"""Forks processes that say events to many destinations, and kills them; what a call has accepted, they write down.

``python -m tests.trails.killed_worker FILES LEDGER DATABASES`` has everything imported and nothing configured, and
reads an order a line: ``kill SECONDS ...`` starts as many processes at once and kills each after so many seconds of
work, ``drain`` has a last one deliver what all have left.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

from otel_audit_exporter import (  # the package imports a name's module when the name is first used: before the forks
    audit_event,
    configure_audit,
    flush_audit,
    get_audit_pipeline,
)
from otel_audit_exporter.outbox.inspection import read_log_status
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.logs import logs_below
from tests.support.running import end_with
from tests.trails.kills import Destination, destinations

_THREADS = 3


def configure(files: Path) -> None:
    def resolve(name: str) -> Mapping[str, Any]:
        return {"path": str(files / f"{name}.db")}

    configure_audit(
        "sqlite", path=str(files / "main.db"), trails={"ledger": {"table": "ledger_events"}}, databases=resolve
    )


def say_until_killed(ledger: Path, names: list[Destination], thread: int) -> None:
    descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = int.from_bytes(os.urandom(4)) + thread
    while True:
        trail, database = names[number % len(names)]
        said = arguments(action=f"{trail}@{database}", entity_id=uuid4(), trail=trail, database=database)
        record_id = audit_event(**said).record_id
        os.write(descriptor, f"{record_id} {trail} {database}\n".encode())
        number += 1


def drain(files: Path) -> None:
    """Deliver what all processes have left; nobody says which destinations that is for."""
    configure(files)
    destinations = get_audit_pipeline().destinations

    def is_alone() -> bool:
        logs = [route.primary.channel.logs.own for route in destinations.opened]
        own = {log.path for log in logs if log is not None}
        others = set(logs_below(os.environ["OTEL_AUDIT_OUTBOX_DIR"])) - own
        return not any(status and status.events for status in map(read_log_status, others))

    wait_until(is_alone, "every log of the others is delivered", 600)
    assert flush_audit(60_000)


def fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        end_with(work)
    return pid


def kill(files: Path, ledger: Path, names: list[Destination], seconds: list[float]) -> bool:
    """Tell whether each process was ended by nothing but the kill."""
    reading, writing = os.pipe()

    def work() -> NoReturn:
        configure(files)
        for thread in range(_THREADS):
            threading.Thread(target=say_until_killed, args=(ledger, names, thread), daemon=True).start()
        os.write(writing, b".")
        while True:
            signal.pause()

    pids = [fork(work) for _ in seconds]
    for _ in pids:
        os.read(reading, 1)
    begun = time.monotonic()
    statuses = []
    for moment, pid in sorted(zip(seconds, pids, strict=True)):
        time.sleep(max(begun + moment - time.monotonic(), 0))
        os.kill(pid, signal.SIGKILL)
        statuses.append(os.waitpid(pid, 0)[1])
    os.close(reading)
    os.close(writing)
    return {os.waitstatus_to_exitcode(status) for status in statuses} == {-signal.SIGKILL}


def main() -> None:
    files, ledger, names = Path(sys.argv[1]), Path(sys.argv[2]), destinations(int(sys.argv[3]))
    for line in sys.stdin:
        order, *seconds = line.split()
        if order == "kill":
            done = kill(files, ledger, names, [float(one) for one in seconds])
        else:
            done = os.waitpid(fork(lambda: drain(files)), 0)[1] == 0
        print("done" if done else "failed", flush=True)


if __name__ == "__main__":
    main()
