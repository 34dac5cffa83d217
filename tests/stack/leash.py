"""Servers that end when the process that started them ends, however that ends.

Each server is started by a small process of its own (this file, run as a script) that holds the reading end
of a pipe. The starter holds the writing end: a byte means "stop it", end-of-file that the starter is gone.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread

_STOP = b"s"
_PATIENCE_SECONDS = 20.0


class LeashedServer:
    """A running server process."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str],
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        removed_if_orphaned: Path | None = None,
    ) -> None:
        script = [sys.executable, "-I", "-S", __file__]
        options = [str(int(stop_signal)), user or "", str(removed_if_orphaned or "")]
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*script, *options, *map(str, command)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=log.parent,
                env=dict(env),
                start_new_session=True,  # Ctrl-C in the terminal is for the tests, which then stop the server
            )
        assert self._process.stdout is not None
        pid = self._process.stdout.readline()
        if not pid:
            raise RuntimeError(f"{command[0]} could not be started:\n{self.output()}")
        self.pid = int(pid)

    def alive(self) -> bool:
        return self.status() is None

    def status(self) -> int | None:
        """Give its exit status, or the number of the signal that ended it; None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """Give what it has said so far."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """Stop the server as its kind is stopped, and wait for it."""
        try:
            self._process.communicate(_STOP, timeout=2 * _PATIENCE_SECONDS)
        except BrokenPipeError:
            self._process.wait()

    def send(self, signal_number: signal.Signals) -> None:
        os.kill(self.pid, signal_number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.stop()


def _hold(stop_signal: int, user: str, removed_if_orphaned: str, command: Sequence[str]) -> int:
    as_user = {"user": user, "extra_groups": []} if user else {}
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, **as_user)  # type: ignore[call-overload]
    print(server.pid, flush=True)
    orphaned: list[bool] = []
    Thread(target=_wait_for_word, args=(server, stop_signal, orphaned), daemon=True).start()
    code: int = server.wait()
    if orphaned and removed_if_orphaned:
        shutil.rmtree(removed_if_orphaned, ignore_errors=True)
    return code


def _wait_for_word(server: "subprocess.Popen[bytes]", stop_signal: int, orphaned: list[bool]) -> None:
    # Not by way of the buffer of sys.stdin: an interpreter that ends while a thread waits in there aborts.
    if os.read(sys.stdin.fileno(), 1) != _STOP:
        orphaned.append(True)
    server.send_signal(signal.SIGCONT)
    server.send_signal(stop_signal)
    try:
        server.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()


if __name__ == "__main__":
    sys.exit(abs(_hold(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])))
