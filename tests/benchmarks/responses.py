"""What the profile ``ephemeral`` adds to a response: the handler's time with its wait, beside the same without."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from otel_audit_exporter import audit_event, configure_audit, shutdown_audit
from otel_audit_exporter.integrations.aws_lambda import audit_lambda
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Row, alone
from tests.stack import Stack
from tests.support.events import arguments
from tests.support.otlp_receiver import Receiver

_INVOCATIONS: Final = 300
_SCHEDULE: Final = "answers wait for their rows; one event each"


def _run(bench: Bench) -> Sequence[Row]:
    rows: list[Row] = []
    with Stack() as stack, Receiver() as receiver:
        table = stack.create_table()
        sinks: Mapping[str, dict[str, Any]] = {
            "supabase": {"url": stack.url, "key": stack.service_key, "table": table.name},
            "postgres": {"dsn": stack.dsn(), "table": table.name},
            "otlp": {"endpoint": receiver.endpoint},
        }
        for sink, options in sinks.items():
            waits, bare = (_milliseconds(sink, {**options, "profile": profile}) for profile in ("ephemeral", "server"))
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                added = _percentile(waits, share) - _percentile(bare, share)
                rows.append(alone("response", f"`ephemeral` adds, {sink}, {name}", [added], "ms", note=_SCHEDULE))
    return rows


def _milliseconds(sink: str, options: dict[str, Any]) -> list[float]:
    @audit_lambda
    def handler(event: Any, context: Any) -> None:
        audit_event(**arguments())

    configure_audit(sink, outbox="memory", past_deadline="raise", response_deadline_millis=60_000, **options)
    try:
        handler({}, None)  # opens the connection
        return [_timed(handler) for _ in range(_INVOCATIONS)]
    finally:
        shutdown_audit()


def _timed(handler: Any) -> float:
    begun = time.perf_counter()
    handler({}, None)
    return 1000 * (time.perf_counter() - begun)


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


RESPONSES = Measurement("responses", "what the profile ephemeral adds to a response", _run)
