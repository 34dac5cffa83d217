"""The audit context in threads of an application's own."""

from __future__ import annotations

import asyncio
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span

from otel_audit_exporter import (
    AuditConfigurationError,
    audit_context,
    audit_event,
    audit_executor,
    update_audit_context,
)
from otel_audit_exporter.testing import AuditLog

IDS: dict[str, Any] = {"entity_type": "part", "entity_id": uuid4(), "yacht_id": uuid4()}


def act(action: str) -> int:
    audit_event(action, **IDS)
    return get_current_span().get_span_context().span_id


def test_work_in_a_pool_knows_who_acts_and_the_span(audit_log: AuditLog) -> None:
    users = [str(uuid4()) for _ in range(5)]
    with audit_executor(ThreadPoolExecutor(2)) as pool:
        for user in users:
            with audit_context(user_id=user), TracerProvider().get_tracer("t").start_as_current_span("s") as span:
                assert pool.submit(act, "submitted").result(30) == span.get_span_context().span_id
                assert list(pool.map(act, ["mapped"])) == [span.get_span_context().span_id]
    assert [event.user_id for event in audit_log.events] == [user for user in users for _ in range(2)]


def test_an_event_loop_can_use_it(audit_log: AuditLog) -> None:
    async def main(user: str) -> None:
        with audit_context(user_id=user), ThreadPoolExecutor(1) as threads:
            await asyncio.get_running_loop().run_in_executor(audit_executor(threads), act, "looped")

    asyncio.run(main(user := str(uuid4())))
    audit_log.assert_recorded("looped", user_id=user)


def test_context_changes_in_submitted_work_are_known_to_its_caller(audit_log: AuditLog) -> None:
    user = str(uuid4())
    with audit_executor(ThreadPoolExecutor(1)) as pool, audit_context():
        pool.submit(update_audit_context, user_id=user).result(30)
        act("after")
    audit_log.assert_recorded("after", user_id=user)


def test_its_end_is_the_pools() -> None:
    threads = ThreadPoolExecutor(1)
    audit_executor(threads).shutdown(wait=True, cancel_futures=True)
    with pytest.raises(RuntimeError, match="shutdown"):
        threads.submit(int)


def test_processes_and_strangers_are_refused() -> None:
    with ProcessPoolExecutor(1) as processes, pytest.raises(AuditConfigurationError, match="ProcessPoolExecutor"):
        audit_executor(processes)
    with pytest.raises(AuditConfigurationError, match="not NoneType"):
        audit_executor(None)  # type: ignore[arg-type]
