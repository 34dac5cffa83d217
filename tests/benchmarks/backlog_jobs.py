"""Jobs beside a large backlog: receipts that are waited for, and a process that finds it at its start."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import uuid_utils

from otel_audit_exporter.outbox.reader import StripeReader
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from tests.benchmarks.apart import Result
from tests.benchmarks.delivery_jobs import AwaySink, anonymous_mib, wait_until_found
from tests.benchmarks.events import pipeline_in, say

_ANSWER_SECONDS: Final = 30.0


def answered(directory: Path, *, options: dict[str, Any], pending: int, answers: int) -> Result:
    """Wait for so many receipts, one after another, with so many events pending at the first of them."""
    pipeline = pipeline_in(directory, **options)
    channel = pipeline.exporters[0].channel
    _wait_for_one()
    sink, channel.sink = channel.sink, AwaySink()
    fill(pipeline, pending)
    channel.sink = sink
    pipeline.exporters[0].relay.deliver_now()
    taken = []
    for _ in range(answers):
        begun = time.perf_counter()
        _wait_for_one()
        taken.append(time.perf_counter() - begun)
    return {"milliseconds": 1000 * median(taken), "left": channel.logs.pending}


def left_full(directory: Path, *, options: dict[str, Any], pending: int) -> Result:
    """Leave a log with so many events pending, and end."""
    pipeline = pipeline_in(directory, **options)
    pipeline.exporters[0].channel.sink = AwaySink()
    fill(pipeline, pending)
    return {}


def opened(directory: Path, *, options: dict[str, Any], pending: int) -> Result:
    """Time from the set-up of a process that finds such a log until every event of it is known."""
    import supabase  # noqa: F401  # a process that serves has imported its clients before

    before, begun = anonymous_mib(), time.perf_counter()
    pipeline_in(directory, **options)
    wait_until_found(pending)
    return {"seconds": time.perf_counter() - begun, "mib": anonymous_mib() - before}


def fill(pipeline: AuditPipeline, count: int) -> None:
    """Have ``count`` different events pending, sooner than calls would: copies of one event under other ids."""
    if not count:
        return
    channel = pipeline.exporters[0].channel
    known = say(new_values={"quantity": 3}).record_id.encode()
    stripes = channel.logs.stripes
    read = (body for one in stripes for part in StripeReader(one).read(10**9, 10**12).parts for body in part[3])
    body = next(body for body in read if known in body)
    for _ in range(count - 1):
        channel.accept(body.replace(known, str(uuid_utils.uuid7()).encode()))


def _wait_for_one() -> None:
    say(new_values={"quantity": 3}).result(_ANSWER_SECONDS)
