"""Waiting for a server to start; whatever goes wrong is told with what the server said."""

from collections.abc import Callable

from tests.stack.leash import LeashedServer
from tests.stack.waiting import wait_until


def wait_until_started(server: LeashedServer, name: str, answers: Callable[[], bool], timeout: float) -> None:
    """Return once `answers()` is true; raise RuntimeError with its output where the server ends or takes too long."""

    def started() -> bool:
        if (status := server.status()) is not None:
            raise RuntimeError(f"{name} ended with status {status}")
        return answers()

    try:
        wait_until(started, f"{name} is ready", timeout)
    except (RuntimeError, TimeoutError) as error:
        raise RuntimeError(f"{error}, and said:\n{server.output()}") from error
