"""Real servers of small applications: started by their real commands, ended, and their output kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.stack import AuditTable, Stack
from tests.stack.ports import free_port
from tests.stack.waiting import wait_until

BIN = Path(sys.executable).parent
_TREE = Path(__file__).parents[2]


@dataclass
class Server:
    """A running process, and the address it serves at, if any."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def answers(self) -> bool:
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.output()}"
        try:
            httpx.get(f"{self.url}/", timeout=5, trust_env=False)
        except httpx.TransportError:
            return False
        return True

    def end(self, seconds: float = 40) -> int:
        """Ask the process to end, and wait until it has."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not end within {seconds} s: {self.output()}") from None


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment with nothing of ours but ``more``, where ``folder`` and this tree can be imported from."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "SUPABASE_", "PYTEST_", "DATABASE_URL"))
    }
    path = f"{BIN}{os.pathsep}{clean.get('PATH', '')}"
    modules = f"{folder}{os.pathsep}{_TREE}"
    state = {"STATE_DIRECTORY": str(folder / "state"), "PYTHONPATH": modules, "PYTHONUNBUFFERED": "1"}
    return {**clean, "PATH": path, **state, **more}


def to_table(stack: Stack, table: AuditTable) -> dict[str, str]:
    """Return the variables that send rows to a test's own table."""
    return {
        "OTEL_AUDIT_EXPORTER": "supabase",
        "SUPABASE_URL": stack.url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.service_key,
        "OTEL_AUDIT_TABLE": table.name,
    }


def write(folder: Path, name: str, text: str) -> None:
    """Write a module of an application."""
    (folder / name).write_text(textwrap.dedent(text))


@contextmanager
def running(
    folder: Path, command: Sequence[str], environ: Mapping[str, str], *, serves: bool = True
) -> Iterator[Server]:
    """Run a command in ``folder``; ``{port}`` in it and in ``environ`` is a free port, at which it answers then."""
    port = free_port()
    log = folder / f"{Path(command[0]).name}-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(BIN / command[0]), *(part.format(port=port) for part in command[1:])],
            cwd=folder,
            env={name: value.replace("{port}", str(port)) for name, value in environ.items()},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, log, port)
    try:
        if serves:
            wait_until(server.answers, f"{command[0]} answers", 60)
        yield server
    finally:
        try:
            server.end()
        finally:
            with suppress(ProcessLookupError):  # workers that nobody ended: those of uWSGI without a master
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def asking(
    folder: Path, command: Sequence[str], environ: Mapping[str, str]
) -> Iterator[tuple[Server, Callable[[str], Any]]]:
    """Run a server, and give what asks it for a path, on a connection of its own, and returns the JSON it answers."""
    with (
        running(folder, command, environ) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client,
    ):

        def ask(path: str) -> Any:
            answer = client.get(path, headers={"connection": "close"})
            assert answer.status_code == 200, server.output()
            return answer.json()

        yield server, ask
