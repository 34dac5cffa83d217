"""Two tenants: one whose database hangs, and one who must not notice; no row in the other's."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest
from supabase import ClientOptions, create_client

from otel_audit_exporter import audit_context, audit_event, configure_audit, flush_audit, get_audit_stats
from otel_audit_exporter.compat import shutdown_audit_logger, write_audit_log_async
from tests.stack import AuditTable, Stack
from tests.stack.faults import Hang, Place
from tests.stack.messages import Request
from tests.stack.waiting import wait_until
from tests.support.events import arguments

EVENTS = 10_000
PAYLOAD = {"yacht_id", "entity_type", "action", "user_id", "old_values", "new_values"}
THREADS = 50


@pytest.fixture
def tenants(stack: Stack) -> Iterator[dict[str, AuditTable]]:
    """Give a table of one name in two schemas, both served by one PostgREST."""
    here = stack.create_table()
    there = AuditTable(stack.postgres, here.name, "audit")
    there.create()
    stack.reload_schema_cache()
    yield {"alpha": here, "beta": there}
    stack.heal()
    here.drop()
    there.drop()


def databases(stack: Stack, tenants: dict[str, AuditTable]) -> dict[str, dict[str, str]]:
    return {
        name: {"url": stack.url, "key": stack.service_key, "schema": table.schema} for name, table in tenants.items()
    }


def emit(number: int) -> tuple[str, str]:
    name = ("alpha", "beta")[number % 2]
    with audit_context(database=name):
        return name, audit_event(**arguments(action=f"of_{name}", entity_id=uuid4())).record_id


def actions(table: AuditTable) -> Counter[str]:
    return Counter(row["action"] for row in table.rows())


def is_for_beta(request: Request) -> bool:
    return request.headers.get("content-profile") == "audit"


def configure(exporter: str, stack: Stack, tenants: dict[str, AuditTable], named: dict[str, Any]) -> None:
    configure_audit(exporter, table=tenants["alpha"].name, databases=named, export_timeout_millis=4000)


def test_a_hanging_database_delays_no_other_and_gets_only_its_rows(
    stack: Stack, tenants: dict[str, AuditTable]
) -> None:
    configure("supabase", stack, tenants, databases(stack, tenants))
    hanging = stack.gateway.inject(Hang(Place.REQUEST_HEAD), times=None, when=is_for_beta)
    with ThreadPoolExecutor(THREADS) as pool:
        said = list(pool.map(emit, range(2 * EVENTS)))
    settled_at = time.monotonic()
    wait_until(lambda: get_audit_stats().databases["alpha"].pending == 0, "alpha's events are there", 60)
    print(f"alpha settled {time.monotonic() - settled_at:.2f} s after the last call")
    assert get_audit_stats().databases["beta"].succeeded == 0
    assert actions(tenants["alpha"]) == {"of_alpha": EVENTS}
    hanging.remove()
    assert flush_audit(60_000)
    assert actions(tenants["alpha"]) == {"of_alpha": EVENTS}
    assert actions(tenants["beta"]) == {"of_beta": EVENTS}
    for name, table in tenants.items():
        assert {str(row["id"]) for row in table.rows()} == {one for tenant, one in said if tenant == name}


def test_alternating_compat_clients_share_neither_rows_nor_delays(
    stack: Stack, tenants: dict[str, AuditTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_AUDIT_TABLE", tenants["alpha"].name)
    monkeypatch.setenv("OTEL_AUDIT_EXPORT_TIMEOUT", "4000")
    with httpx.Client(trust_env=False) as http:
        clients = {
            name: create_client(stack.url, stack.service_key, ClientOptions(httpx_client=http, schema=table.schema))
            for name, table in tenants.items()
        }

    def write(number: int) -> tuple[str, str | None]:
        name = ("alpha", "beta")[number % 2]
        said = {key: value for key, value in arguments(action=f"of_{name}").items() if key in PAYLOAD}
        return name, write_audit_log_async(clients[name], said | {"entity_id": str(uuid4())})

    hanging = stack.gateway.inject(Hang(Place.REQUEST_HEAD), times=None, when=is_for_beta)
    with ThreadPoolExecutor(THREADS) as pool:
        said = list(pool.map(write, range(2 * EVENTS)))
    settled_at = time.monotonic()
    wait_until(lambda: tenants["alpha"].count() == EVENTS, "alpha's events are there", 60)
    print(f"alpha settled {time.monotonic() - settled_at:.2f} s after the last call")
    assert tenants["beta"].count() == 0
    hanging.remove()
    assert flush_audit(60_000)
    assert shutdown_audit_logger()
    for name, table in tenants.items():
        assert actions(table) == {f"of_{name}": EVENTS}
        assert {str(row["id"]) for row in table.rows()} == {one for tenant, one in said if tenant == name}


def test_two_schemas_over_direct_connections_are_two_databases(stack: Stack, tenants: dict[str, AuditTable]) -> None:
    named = {name: {"dsn": stack.dsn(), "schema": table.schema} for name, table in tenants.items()}
    configure("postgres", stack, tenants, named)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(emit, range(2000)))
    assert flush_audit(60_000)
    assert actions(tenants["alpha"]) == {"of_alpha": 1000}
    assert actions(tenants["beta"]) == {"of_beta": 1000}
