"""Applications for real servers: each request emits one event. The job is in the environment, as JSON."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import otel_audit_exporter as audit
from tests.faults.ledger import Ledger
from tests.faults.worker import Job, emit_one, new_id

JOB = "AUDIT_TEST_JOB"

_job = Job.from_json(os.environ[JOB])
_ledger = Ledger(Path(_job.ledgers))
audit.configure_audit(**_job.options)


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Emit one event and say which process did."""
    emit_one(_ledger, new_id())
    start_response("200 OK", [("content-type", "text/plain")])
    return [str(os.getpid()).encode()]


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """The same; audit events are delivered at the end of the lifespan."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    emit_one(_ledger, new_id())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


async def _live(receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
