"""What the profile ``ephemeral`` adds to a response: the handler's time with its wait, beside the same without.

And how far beyond its deadline a response goes, where the sink is away (nobody listens) or hangs (nobody answers).
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from otel_audit_exporter import audit_event, configure_audit, shutdown_audit
from otel_audit_exporter.integrations.aws_lambda import audit_lambda
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.rows import Row, alone, limited
from tests.stack import Stack
from tests.support.events import arguments
from tests.support.otlp_receiver import Receiver

_INVOCATIONS: Final = 300
_LATE_INVOCATIONS: Final = 20
_DEADLINE_MILLIS: Final = 200
_BEYOND_MILLISECONDS: Final = 50.0
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
    return rows + _rows_beyond_deadline()


def _rows_beyond_deadline() -> list[Row]:
    rows: list[Row] = []
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as hangs, socket.socket() as away:
        away.bind(("127.0.0.1", 0))
        for sink in ("supabase", "postgres", "otlp"):
            for how, listener in (("hangs", hangs), ("is away", away)):
                beyond = _milliseconds_beyond(sink, _options_at(sink, listener.getsockname()[1]))
                what = f"longest beyond a deadline of {_DEADLINE_MILLIS} ms, {sink} {how}"
                rows.append(limited("response", what, [max(beyond)], "ms", _BEYOND_MILLISECONDS, noisy=False))
    return rows


def _options_at(sink: str, port: int) -> dict[str, Any]:
    return {
        "supabase": {"url": f"http://127.0.0.1:{port}", "key": "a-key"},
        "postgres": {"dsn": f"postgresql://somebody@127.0.0.1:{port}/shop"},
        "otlp": {"endpoint": f"http://127.0.0.1:{port}/v1/logs"},
    }[sink]


@audit_lambda
def _handler(event: Any, context: Any) -> None:
    audit_event(**arguments())


def _milliseconds(sink: str, options: dict[str, Any]) -> list[float]:
    configure_audit(sink, outbox="memory", past_deadline="raise", response_deadline_millis=60_000, **options)
    try:
        _handler({}, None)  # opens the connection
        return [_timed() for _ in range(_INVOCATIONS)]
    finally:
        shutdown_audit()


def _milliseconds_beyond(sink: str, options: dict[str, Any]) -> list[float]:
    logger = logging.getLogger("otel_audit_exporter")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # each late event is a line
    configure_audit(sink, profile="ephemeral", response_deadline_millis=_DEADLINE_MILLIS, **options)
    try:
        return [_timed() - _DEADLINE_MILLIS for _ in range(_LATE_INVOCATIONS)]
    finally:
        shutdown_audit(0)
        logger.setLevel(level)


def _timed() -> float:
    begun = time.perf_counter()
    _handler({}, None)
    return 1000 * (time.perf_counter() - begun)


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


RESPONSES = Measurement("responses", "what the profile ephemeral adds to a response", _run)
