"""The real Prometheus exporter in a running application, and the rules and the dashboard that use its metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from otel_audit_exporter import audit_event, flush_audit
from otel_audit_exporter.integrations.fastapi import AuditMiddleware
from tests.operations.conftest import Configure
from tests.operations.serving import Serve
from tests.operations.stubs import AWAY, StubExporter, emit

MONITORING: Final = Path(__file__).parents[2] / "examples" / "monitoring"
_NAME: Final = re.compile(r"\baudit_[a-z_]+")


@pytest.fixture
def scraped(configured: Configure, stub: StubExporter, serve: Serve) -> Iterator[dict[str, Metric]]:
    """What Prometheus reads from an application in which three events are delivered and two wait."""
    registry = CollectorRegistry()
    provider = MeterProvider(metric_readers=[PrometheusMetricReader(registry=registry)])
    configured(meter_provider=provider)
    app = FastAPI()

    @app.post("/parts")
    def create_part() -> str:
        return audit_event("create_part", entity_type="part", entity_id=1, yacht_id=1, user_id=1).record_id

    app.post("/login")(lambda: "in")
    app.add_middleware(AuditMiddleware)
    app.mount("/metrics", make_asgi_app(registry))
    with httpx.Client(base_url=serve(app), trust_env=False, timeout=60) as client:
        for _ in range(3):
            assert client.post("/parts").status_code == 200
        assert client.post("/login").status_code == 200
        assert flush_audit()
        stub.sink.fail(AWAY)
        emit(2)
        text = client.get("/metrics/").text
    yield {family.name: family for family in text_string_to_metric_families(text)}
    provider.shutdown()


def value(family: Metric, **labels: str) -> float:
    (found,) = (one.value for one in family.samples if labels.items() <= one.labels.items())
    return float(found)


def test_a_scrape_of_a_running_application_parses_and_holds_every_metric(scraped: dict[str, Metric]) -> None:
    kinds = {name: family.type for name, family in scraped.items() if name.startswith("audit_")}
    assert kinds == {
        "audit_records_emitted": "counter",
        "audit_records_exported": "counter",
        "audit_records_dropped": "counter",
        "audit_records_recovered": "counter",
        "audit_records_late": "counter",
        "audit_queue_depth": "gauge",
        "audit_queue_held": "gauge",
        "audit_queue_overdue": "gauge",
        "audit_queue_oldest_age_seconds": "gauge",
        "audit_dead_letters": "gauge",
        "audit_outbox_available_bytes": "gauge",
        "audit_outbox_limit_bytes": "gauge",
        "audit_health": "gauge",
        "audit_requests_unrecorded": "counter",
        "audit_export_duration_seconds": "histogram",
    }
    assert value(scraped["audit_records_emitted"], sink="stub", outcome="accepted") == 5
    assert value(scraped["audit_records_exported"], sink="stub", outcome="stored") == 3
    assert value(scraped["audit_queue_depth"], sink="stub") == 2
    assert value(scraped["audit_requests_unrecorded"], http_request_method="POST", http_route="/login") >= 1


def names_in(expressions: list[str]) -> set[str]:
    return {name for expression in expressions for name in _NAME.findall(expression)}


def rules() -> list[str]:
    text = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
    return re.findall(r"^ +expr: (.+)$", text, re.MULTILINE)


def panels() -> list[dict[str, Any]]:
    document = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = document["panels"]
    return found


@pytest.mark.parametrize("used_by", ["rules", "dashboard"])
def test_rules_and_dashboard_use_only_metrics_that_a_scrape_holds(scraped: dict[str, Metric], used_by: str) -> None:
    expressions = rules() if used_by == "rules" else [t["expr"] for panel in panels() for t in panel["targets"]]
    samples = {sample.name for family in scraped.values() for sample in family.samples}
    assert len(expressions) > 10
    assert names_in(expressions) <= samples


def test_rules_and_dashboard_have_the_thresholds_of_the_library_s_health() -> None:
    limits = {re.sub(r".* ([<>=]+ [\d.]+)$", r"\1", rule) for rule in rules()}
    assert {">= 10", "> 50", "<= 99.5", "< 98", "> 0", "> 1", "< 20", "< 5", "== 2"} == limits
    steps = {
        panel["title"]: [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        for panel in panels()
    }
    assert steps["Success rate, 1 h"] == [None, 98, 99.5]
    assert steps["Overdue"] == steps["Overdue events"] == [None, 10, 51]
    assert steps["Time of one write"] == [None, 1]
    assert steps["Outbox left"] == [None, 5, 20]


def test_the_panels_of_the_dashboard_do_not_lie_upon_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())
