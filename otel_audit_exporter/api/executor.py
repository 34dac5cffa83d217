"""The audit context in threads of an application's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from otel_audit_exporter.errors import AuditConfigurationError

P = ParamSpec("P")
R = TypeVar("R")


class audit_executor(Executor):  # noqa: N801  # called as a function: `audit_executor(pool)`
    """Run work in ``pool`` in the audit context in which it is submitted.

    Without it a thread of a pool knows neither who acts nor the current span. Each submitted call gets a copy of all
    context variables, so that what one changes no other sees; ``update_audit_context`` in it changes the context that
    it came from. Safe to use from any thread. ::

        pool = audit_executor(ThreadPoolExecutor())
        pool.submit(work, part_id)                             # also map(), and loop.run_in_executor(pool, work)

    :param pool: an executor that runs its work in threads of this process; ``shutdown`` is its own.
    :raises AuditConfigurationError: ``pool`` is no executor, or one of processes, which a context cannot reach.
    """

    def __init__(self, pool: Executor) -> None:
        given: object = pool
        if not isinstance(given, Executor) or _runs_in_processes(given):
            raise AuditConfigurationError(
                f"audit_executor takes an executor of threads, such as ThreadPoolExecutor, not {type(pool).__name__}"
            )
        self._pool = pool

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit a call to the pool, and return its future."""
        return self._pool.submit(partial(copy_context().run, fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the pool down."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def __repr__(self) -> str:
        return f"<audit_executor of {self._pool!r}>"


def _runs_in_processes(pool: Executor) -> bool:
    """Return whether it is a pool of processes, whose module is there only where somebody has imported it."""
    processes = sys.modules.get("concurrent.futures.process")
    return processes is not None and isinstance(pool, processes.ProcessPoolExecutor)
