"""The scripts of `tests.faults.ends`, run in processes of their own."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.faults.scenario import Scenario

_PATIENCE_SECONDS = 240.0


@contextmanager
def started(name: str, ending: Scenario, visits: int = 1) -> Iterator[subprocess.Popen[str]]:
    with ending.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.ends", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with process:
        try:
            assert process.stdin is not None
            process.stdin.write(replace(ending.job, visits=visits).to_json() + "\n")
            process.stdin.flush()
            yield process
        finally:
            process.kill()


def run(name: str, ending: Scenario, visits: int = 1) -> tuple[int, str]:
    """Run a script to its end; return its exit status and what it said."""
    with started(name, ending, visits) as process:
        said, _ = process.communicate(timeout=_PATIENCE_SECONDS)
        return process.returncode, said.strip()


def signalled(name: str, ending: Scenario, number: signal.Signals) -> int:
    """Send a signal once the script is ready; return its exit status."""
    with started(name, ending) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        return process.wait(_PATIENCE_SECONDS)
