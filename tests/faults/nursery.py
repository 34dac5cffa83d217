"""Forks workers off a process that has imported everything and configured nothing, and kills them.

`python -m tests.faults.nursery` reads one line of JSON from its standard input for each worker and answers
with one line when that worker is gone. So a kill costs milliseconds instead of an interpreter's start.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults.failpoints import fired_file
from tests.faults.worker import Job, drain, run
from tests.support.running import end_with


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        job = Job(**order["job"])
        if job.options["exporter"] == "supabase":
            import supabase  # noqa: F401  # once, before the forks
        work = _drained if order["kind"] == "drain" else _killed
        answer = work(job, order["seconds"])
        print(json.dumps(answer), flush=True)


def _killed(job: Job, seconds: float) -> dict[str, Any]:
    """Fork a worker, kill it after so many seconds where its failpoint has not; tell its status and which it was."""
    child = os.fork()
    if child == 0:
        end_with(lambda: run(job))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return {"status": os.waitstatus_to_exitcode(status), "fired": _has_fired(job, child)}
        time.sleep(min(0.005, max(deadline - time.monotonic(), 0.0)))
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"status": status, "fired": _has_fired(job, child)}


def _has_fired(job: Job, pid: int) -> bool:
    report = fired_file(Path(job.ledgers), pid)
    fired = report.exists()
    report.unlink(missing_ok=True)  # the next process may have the same number
    return fired


def _drained(job: Job, seconds: float) -> Any:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        end_with(lambda: os.write(writing, json.dumps(drain(job, seconds)).encode()))
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {**(json.loads(text) if text else {}), "status": status}


if __name__ == "__main__":
    main()
