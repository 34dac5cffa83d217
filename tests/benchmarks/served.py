"""The application that the servers run: a handler that computes, every second one with its audit, and their figures."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.busy_jobs import compute_for
from tests.benchmarks.events import call, pipeline_in

if TYPE_CHECKING:
    from fastapi import FastAPI

SETTINGS: Final = "AUDIT_BENCH_SERVED"
_STEPS: Final = 31  # of 0.1 ms: a handler computes 0 to 3 ms
_next: Final = count().__next__
_handled: list[tuple[bool, float, float]] = []  # audited; seconds in all; seconds beyond what it computes


def handle() -> None:
    """Compute, and in every second request say one event. Both kinds have the same work to do."""
    number = _next()
    audited, work = number % 2 == 1, number // 2 * 7 % _STEPS * 1e-4
    begun = time.perf_counter()
    compute_for(work)
    if audited:
        call()
    taken = time.perf_counter() - begun
    _handled.append((audited, taken, taken - work))


def figures() -> bytes:
    """Return what was handled, as JSON, and forget it."""
    handled = list(_handled)
    _handled.clear()
    return json.dumps(handled).encode()


def _configure() -> None:
    said: dict[str, Any] = json.loads(os.environ[SETTINGS])
    pipeline_in(Path(said["directory"]), **said["options"])
    call()


def wsgi() -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """Return the application for gunicorn."""
    _configure()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = b"{}"
        if environ["PATH_INFO"] == "/figures":
            body = figures()
        else:
            handle()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return application


def asgi() -> FastAPI:
    """Return the application for uvicorn, with endpoints that FastAPI runs in threads."""
    from fastapi import FastAPI, Response

    _configure()
    application = FastAPI()
    application.add_api_route("/", handle)
    application.add_api_route("/figures", lambda: Response(figures(), media_type="application/json"))
    return application
