"""Frozen after the answer, and killed: nothing is lost with the profile, and something is without it."""

from __future__ import annotations

import pytest

from tests.frozen.instances import SERVERS, SINKS, missing_after_freeze
from tests.stack import AuditTable, Stack
from tests.support.otlp_receiver import Receiver

INVOCATIONS = 5


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("server", SERVERS)
def test_no_event_of_a_frozen_instance_is_lost_with_the_profile(
    server: str, sink: str, stack: Stack, audit_table: AuditTable
) -> None:
    with Receiver() as receiver:
        lost = missing_after_freeze(
            server,
            sink,
            INVOCATIONS,
            stack,
            audit_table,
            receiver,
            OTEL_AUDIT_PROFILE="ephemeral",
            OTEL_AUDIT_RESPONSE_DEADLINE="60000",
        )
    assert lost == 0


def test_events_of_frozen_instances_are_lost_without_the_profile(stack: Stack, audit_table: AuditTable) -> None:
    with Receiver() as receiver:
        lost = missing_after_freeze(
            "lambda", "supabase", INVOCATIONS, stack, audit_table, receiver, OTEL_AUDIT_OUTBOX="memory"
        )
    assert lost > 0
