"""`@audit_lambda`: what an invocation says of its caller, and how long it may wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from otel_audit_exporter import AuditDeliveryError, audit_event, configure_audit
from otel_audit_exporter.integrations.aws_lambda import audit_lambda
from tests.frozen.held_sink import HeldSink
from tests.support.events import arguments

COLUMNS = {"+source_ip": "source_ip", "+request_id": "request_id", "+user_agent": "user_agent"}
GATEWAY_REST = {"requestContext": {"requestId": "rest", "identity": {"sourceIp": "10.0.0.1", "userAgent": "one"}}}
GATEWAY_HTTP = {"requestContext": {"requestId": "http", "http": {"sourceIp": "10.0.0.2", "userAgent": "two"}}}
QUEUE = {"Records": [{"body": "an order"}]}


class Context:
    aws_request_id = "an-invocation"

    def __init__(self, remaining: int = 30_000) -> None:
        self.remaining = remaining

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining


@audit_lambda
def touch(event: Any, context: Any) -> str:
    return audit_event(**arguments()).record_id


@pytest.mark.parametrize(
    ("event", "found"),
    [
        (GATEWAY_REST, ("10.0.0.1", "rest", "one")),
        (GATEWAY_HTTP, ("10.0.0.2", "http", "two")),
        (QUEUE, (None, "an-invocation", None)),
        ("text", (None, "an-invocation", None)),
    ],
)
def test_the_caller_is_known_from_any_event(event: Any, found: tuple[str | None, ...]) -> None:
    sink = HeldSink()
    configure_audit(sink, profile="ephemeral", response_deadline_millis=60_000, past_deadline="raise", columns=COLUMNS)
    touch(event, Context())
    (row,) = sink.rows
    assert (row["source_ip"], row["request_id"], row["user_agent"]) == found


def test_an_asynchronous_handler_can_be_called_by_lambda_and_be_awaited() -> None:
    sink, loops = HeldSink(), []

    @audit_lambda
    async def touch_later(event: Any, context: Any) -> str:
        loops.append(asyncio.get_running_loop())
        return audit_event(**arguments()).record_id

    async def elsewhere() -> str:
        answer: str = await touch_later({}, Context())
        return answer

    configure_audit(sink, profile="ephemeral", response_deadline_millis=60_000, past_deadline="raise")
    said = [touch_later({}, Context()), touch_later({}, Context()), asyncio.run(elsewhere())]
    assert sink.ids == said
    assert loops[0] is loops[1] is not loops[2]


def test_the_wait_leaves_half_a_second_of_the_remaining_time() -> None:
    sink = HeldSink(is_open=False)
    configure_audit(sink, profile="ephemeral", past_deadline="raise", response_deadline_millis=600_000)
    with pytest.raises(AuditDeliveryError):
        touch({}, Context(remaining=550))
    sink.open.set()


def test_what_a_handler_raises_goes_on_after_its_events_are_stored() -> None:
    sink = HeldSink()
    configure_audit(sink, profile="ephemeral", response_deadline_millis=60_000, schedule_delay_millis=60_000)

    @audit_lambda
    def fail(event: Any, context: Any) -> None:
        audit_event(**arguments(outcome="failure"))
        raise LookupError("gone")

    with pytest.raises(LookupError):
        fail({}, Context())
    assert len(sink.rows) == 1


def test_identify_adds_who_asks() -> None:
    user, sink = "11111111-1111-4111-8111-11111111aaaa", HeldSink()
    configure_audit(sink, profile="ephemeral", response_deadline_millis=60_000)

    @audit_lambda(identify=lambda event: {"user_id": event["who"]})
    def touch_as(event: Any, context: Any) -> None:
        audit_event(**{name: value for name, value in arguments().items() if name != "user_id"})

    touch_as({"who": user}, Context())
    assert [row["created_by"] for row in sink.rows] == [user]
