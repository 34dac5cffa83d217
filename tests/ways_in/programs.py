"""Applications, and how they are run: as processes of their own, with an environment that a test decides."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.servers import BIN, environment, write

USER = "11111111-1111-4111-8111-111111111111"
YACHT = "22222222-2222-4222-8222-222222222222"
PART = "33333333-3333-4333-8333-333333333333"

# Says twenty events, each within a span, and tells what it said. Where rows go it does not know.
SHOP = f"""
    import json
    from decimal import Decimal

    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from otel_audit_exporter import audit_context, audit_event, configure_audit, flush_audit, get_audit_stats

    trace.set_tracer_provider(TracerProvider())
    tracer = trace.get_tracer("shop")
    configure_audit(resource=Resource.create({{"service.name": "shop"}}))
    said = []
    for number in range(20):
        with tracer.start_as_current_span("request") as span, audit_context(user_id="{USER}", yacht_id="{YACHT}"):
            receipt = audit_event(
                "order_part",
                entity_type="part",
                entity_id="{PART}",
                old_values={{"number": number}},
                new_values={{"number": number, "price": Decimal("1.10"), "port": "Mahón"}},
                event_name="shop.ordered" if number % 2 else None,
            )
        context = span.get_span_context()
        said.append([number, receipt.record_id, f"{{context.trace_id:032x}}", f"{{context.span_id:016x}}"])
    flushed = flush_audit(60_000)
    stats = get_audit_stats()
    figures = [stats.submitted, stats.succeeded, stats.failed, stats.pending, stats.rejected]
    print(json.dumps({{"said": said, "flushed": flushed, "figures": figures, "sinks": list(stats.sinks)}}))
"""

# Has no set-up at all: what opentelemetry-instrument sets up is all there is.
NO_SET_UP = f"""
    import logging

    from opentelemetry._logs import LogRecord, get_logger
    from otel_audit_exporter import audit_context, audit_event

    with audit_context(user_id="{USER}", yacht_id="{YACHT}"):
        print(audit_event("order_part", entity_type="part", entity_id="{PART}", new_values={{"by": "event"}}).record_id)
    logger = get_logger("shop")
    logger.emit(LogRecord(body="an ordinary record"))
    logging.getLogger("shop").warning("an ordinary line")
    said = {{
        "audit.action": "order_part",
        "audit.target.type": "part",
        "audit.target.id": "{PART}",
        "audit.tenant.id": "{YACHT}",
        "audit.actor.id": "{USER}",
        "audit.change.new_values": '{{"by": "logger"}}',
    }}
    logger.emit(LogRecord(event_name="shop.ordered", attributes=said))
    print("the application goes on")
"""

SAYS_NOTHING = """
    print("started")
"""


# No other signals, and no word of a slow write: a busy machine may have one.
_QUIET = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_AUDIT_SLOW_WRITE": "0"}


class Ran(NamedTuple):
    """What a process printed."""

    out: str
    log: str


def run(folder: Path, program: str, *, command: Sequence[str] = ("python",), **environ: str) -> Ran:
    """Run a program in ``folder`` by ``command``, which has to end well."""
    write(folder, "app.py", program)
    ended = subprocess.run(
        [str(BIN / command[0]), *command[1:], "app.py"],
        cwd=folder,
        env=environment(folder, **_QUIET | environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return Ran(ended.stdout, ended.stderr)


def instrumented(folder: Path, program: str, **environ: str) -> Ran:
    """Run a program by the real command that sets OpenTelemetry up for it."""
    return run(folder, program, command=("opentelemetry-instrument", "python"), **environ)


def check(ran: Ran, rows: Iterable[Mapping[str, Any]]) -> None:
    """Both roads have landed one row each, and nothing else has."""
    record_id, *rest = ran.out.splitlines()
    assert rest == ["the application goes on"]
    by_road = {row["new_values"]["by"]: row for row in rows}
    assert set(by_road) == {"event", "logger"}
    assert str(by_road["event"]["id"]) == record_id
    for row in by_road.values():
        assert (row["action"], row["entity_type"], str(row["entity_id"])) == ("order_part", "part", PART)
        assert (str(row["created_by"]), str(row["yacht_id"])) == (USER, YACHT)
