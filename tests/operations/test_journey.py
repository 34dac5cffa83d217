"""A real sink is stopped, slowed, refuses and comes back: level, log, callback, metrics and HTTP agree at each step."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from contextlib import closing

import httpx
import pytest
from fastapi import FastAPI

from otel_audit_exporter import AuditHealth, AuditPipeline, audit_event, configure_audit, flush_audit
from otel_audit_exporter.integrations.fastapi import audit_router
from tests.operations.figures import Metrics
from tests.operations.serving import Serve
from tests.stack import AuditTable, Stack
from tests.stack.faults import Delay, invalid_api_key
from tests.stack.waiting import wait_until


class Observer:
    """Everybody who looks at a pipeline."""

    def __init__(self, pipeline: AuditPipeline, metrics: Metrics, url: str, levels: list[str]) -> None:
        self.pipeline = pipeline
        self.levels = levels
        self._metrics = metrics
        self._client = httpx.Client(base_url=url, headers={"authorization": "Bearer t"}, trust_env=False, timeout=30)

    def told(self, levels: list[str]) -> None:
        wait_until(lambda: self.levels == levels, f"{levels} is told")
        wait_until(self._agree, "metrics, HTTP and stats agree")

    def _agree(self) -> bool:
        stats, health, sums = self.pipeline.stats(), self.pipeline.health(), self._metrics.sums()
        answer, document = self._client.get("/health"), self._client.get("/stats").json()
        page = self._client.get("/").text
        figures = (stats.submitted, stats.succeeded, stats.failed, stats.pending, stats.held)
        names = ("records.emitted", "records.exported", "records.dropped", "queue.depth", "queue.held")
        keys = ("submitted", "succeeded", "failed", "pending", "held")
        return (
            figures == tuple(sums[f"audit.{name}"] for name in names)
            and figures == tuple(document[key] for key in keys)
            and health.level == answer.json()["level"] == ("good", "warning", "critical")[int(sums["audit.health"])]
            and answer.status_code == (200 if health.accepting else 503)
            and f'<div class="level {health.level}">' in page
        )

    def close(self) -> None:
        self._client.close()


def emit(count: int) -> None:
    for _ in range(count):
        audit_event(
            "update_part", entity_type="part", entity_id=uuid.uuid4(), yacht_id=uuid.uuid4(), user_id=uuid.uuid4()
        )


@pytest.fixture
def configure(stack: Stack, audit_table: AuditTable, metrics: Metrics) -> Callable[[list[str]], AuditPipeline]:
    def make(levels: list[str]) -> AuditPipeline:
        def told(health: AuditHealth) -> None:
            levels.append(health.level)

        return configure_audit(
            "supabase",
            url=stack.url,
            key=stack.service_key,
            table=audit_table.name,
            schedule_delay_millis=20,
            export_timeout_millis=10_000,
            slow_write_seconds=4.0,
            meter_provider=metrics.provider,
            on_health_change=told,
        )

    return make


def test_every_step_is_reported_once_each_way_and_everybody_agrees(
    stack: Stack,
    audit_table: AuditTable,
    configure: Callable[[list[str]], AuditPipeline],
    metrics: Metrics,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    levels: list[str] = []
    pipeline = configure(levels)
    app = FastAPI()
    app.include_router(audit_router(token="t"))
    with closing(Observer(pipeline, metrics, serve(app), levels)) as observer:
        make_the_journey(stack, observer)

    assert len([line for line in caplog.messages if line.startswith("audit: health ")]) == 6
    assert audit_table.count() == pipeline.stats().succeeded == 43


def make_the_journey(stack: Stack, observer: Observer) -> None:
    emit(20)
    assert flush_audit()
    observer.told([])

    stack.gateway.refuse()
    emit(20)
    observer.told(["warning"])
    stack.gateway.accept()
    assert flush_audit()
    observer.told(["warning", "good"])

    slow = stack.gateway.inject(Delay(6.0), times=None)
    emit(1)
    observer.told(["warning", "good", "warning"])
    slow.remove()
    emit(1)
    assert flush_audit()
    observer.told(["warning", "good"] * 2)

    refusing = stack.gateway.inject(invalid_api_key(), times=None)
    emit(1)
    observer.told(["warning", "good"] * 2 + ["warning"])
    refusing.remove()
    assert flush_audit()
    observer.told(["warning", "good"] * 3)
