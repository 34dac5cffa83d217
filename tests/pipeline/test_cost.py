"""What an audit costs the handler beside a blocking insert; generous, as this is no benchmark."""

from __future__ import annotations

import time

import httpx
from supabase import ClientOptions, create_client

from otel_audit_exporter import audit_event, configure_audit, flush_audit
from tests.stack import AuditTable, Stack
from tests.stack.faults import Delay, Hang, Place
from tests.support.events import USER, YACHT, arguments


def test_ten_events_cost_a_small_part_of_ten_blocking_inserts(stack: Stack, audit_table: AuditTable) -> None:
    stack.gateway.inject(Delay(0.3), times=None)
    with httpx.Client(trust_env=False) as http:
        client = create_client(stack.url, stack.service_key, ClientOptions(httpx_client=http))
        rows = [
            {
                "id": f"0191a000-0000-7000-8000-{number:012x}",
                "yacht_id": YACHT,
                "entity_type": "receiving",
                "action": "create_receiving",
                "entity_id": USER,
                "created_by": USER,
                "new_values": {"lines": [1, "ü"]},
            }
            for number in range(10)
        ]
        began = time.perf_counter()
        for row in rows:
            client.table(audit_table.name).insert(row).execute()
        blocking = time.perf_counter() - began
    configure_audit("supabase", url=stack.url, key=stack.service_key, table=audit_table.name)
    audit_event(**arguments())  # what is loaded once is loaded now
    assert blocking > 3.0
    assert blocking > 100 * min(seconds_of_ten_calls() for _ in range(10))  # others may run in between, not in all
    assert flush_audit(60_000)
    assert audit_table.count() == 111


def seconds_of_ten_calls() -> float:
    said = [arguments() for _ in range(10)]
    began = time.perf_counter()
    for one in said:
        audit_event(**one)
    return time.perf_counter() - began


def test_calls_do_not_wait_for_a_sink_that_is_slow(stack: Stack, audit_table: AuditTable) -> None:
    held = stack.gateway.inject(Hang(Place.REQUEST_BODY), times=None)
    configure_audit("supabase", url=stack.url, key=stack.service_key, table=audit_table.name, schedule_delay_millis=1)
    audit_event(**arguments())
    held.wait()
    for _ in range(299):
        audit_event(**arguments())
    assert audit_table.count() == 0
    held.remove()
    assert flush_audit(60_000)
    assert audit_table.count() == 300
