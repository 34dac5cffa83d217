"""Metrics, health and the quota tell the destinations apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_audit_exporter import (
    AuditEventError,
    OutboxFullError,
    audit_event,
    configure_audit,
    flush_audit,
    get_audit_pipeline,
    get_audit_stats,
)
from otel_audit_exporter.operations.handler import OperationsHandler, OperationsRequest
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.trails.tables import LEDGER


def configure(files: Path, **changes: Any) -> None:
    def resolve(name: str) -> Mapping[str, Any] | None:
        return None if name == "nobody" else {"path": str(files / f"{name}.db")}

    configure_audit("sqlite", path=str(files / "main.db"), trails=LEDGER, databases=resolve, **changes)


SAID: Final[tuple[dict[str, str], ...]] = (
    {},
    {"database": "acme"},
    {"database": "blue"},
    {"trail": "ledger", "database": "acme"},
)


def points_of(files: Path, **changes: Any) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """Say an event to several destinations, and give the attributes and figures of each metric."""
    reader = InMemoryMetricReader()
    configure(files, meter_provider=MeterProvider([reader]), **changes)
    for named in SAID:
        audit_event(**arguments(**named))
    assert flush_audit()
    data = reader.get_metrics_data()
    assert data is not None
    return {
        one.name: [(dict(point.attributes or {}), getattr(point, "value", None)) for point in one.data.data_points]
        for scope in data.resource_metrics[0].scope_metrics
        for one in scope.metrics
    }


def test_metrics_have_the_trail_and_add_up_its_databases(files: Path) -> None:
    points = points_of(files)
    assert {at["trail"]: value for at, value in points["audit.records.exported"]} == {"default": 3, "ledger": 1}
    for metric in ("audit.queue.depth", "audit.export.duration"):
        assert {at["trail"] for at, _ in points[metric]} == {"default", "ledger"}
        assert all("database" not in at for at, _ in points[metric])


def test_metrics_have_the_database_where_that_is_asked_for(files: Path) -> None:
    points = points_of(files, metrics_database=True)
    named = {(one.get("trail", "default"), one.get("database")) for one in SAID}
    exported = {(at["trail"], at.get("database")): value for at, value in points["audit.records.exported"]}
    assert exported == dict.fromkeys(named, 1)
    for metric in ("audit.queue.depth", "audit.export.duration"):
        assert {(at["trail"], at.get("database")) for at, _ in points[metric]} == named
    assert len(points["audit.health"]) == 1


def test_the_health_names_the_destination_that_is_in_trouble(files: Path) -> None:
    configure(files, slow_write_seconds=0)  # a busy machine may be slow
    audit_event(**arguments()).result(30)
    audit_event(**arguments(database="acme")).result(30)
    assert get_audit_pipeline().health().level == "good"
    audit_event(**arguments(database="nobody"))
    wait_until(lambda: get_audit_stats().databases["nobody"].held == 1, "the event is held")
    health = get_audit_pipeline().health()
    assert (health.level, health.held, health.pending) == ("warning", 1, 1)
    assert [reason for reason in health.reasons if reason.startswith("default@nobody: ")]
    assert (health.databases["nobody"].level, health.databases["acme"].level) == ("warning", "good")
    assert health.trails["default"].held == 1


def test_a_full_outbox_refuses_only_the_destination_that_fills_it(files: Path) -> None:
    configure(files, outbox_max_bytes=2**20)
    audit_event(**arguments(database="blue")).result(30)
    audit_event(**arguments(database="nobody"))
    large = {"text": "x" * 20_000}
    audit_event(**arguments(database="nobody", trail="ledger"))

    def fill() -> None:
        for _ in range(100):
            audit_event(**arguments(database="nobody", new_values=large))

    with pytest.raises(OutboxFullError, match="default-nobody"):
        fill()
    for named in ({}, {"database": "blue"}, {"database": "fresh"}):
        audit_event(**arguments(**named)).result(30)
    stats = get_audit_stats()
    assert stats.databases["nobody"].rejected == 1
    assert stats.rejected == 1
    assert 10 < stats.databases["nobody"].pending < 60


def test_losses_are_those_of_every_destination_each_with_its_name(files: Path) -> None:
    configure(files)
    for named in SAID:
        audit_event(**arguments(**named)).result(30)
    with pytest.raises(AuditEventError):
        audit_event(**arguments(**SAID[3]) | {"user_id": "wrong"})
    exporter = get_audit_pipeline().exporter_of(None, "blue")
    body = exporter.rules.compose(arguments(action="refused")).body
    exporter.channel.parking.park_unsent(body, SinkError(Verdict(Fault.RECORD), "is wrong"))
    handler = OperationsHandler(guarded=True)
    document = orjson.loads(handler.answer(OperationsRequest("GET", "/losses")).body)
    (loss,) = document["losses"]
    assert (loss["count"], loss["kind"], loss["trail"], loss["database"]) == (1, "rejected", "ledger", "acme")
    assert document["parked_in"] == [{"trail": "default", "database": "blue", "count": 1}]
    page = handler.answer(OperationsRequest("GET", "/")).body.decode()
    assert "<b>1 rejected</b> for ledger@acme" in page
    assert "<b>1 parked</b> for default@blue: see <a " in page
    assert "dead-letters?trail=default&amp;database=blue" in page
    assert get_audit_pipeline().acknowledge_losses("seen") == 2
    document = orjson.loads(handler.answer(OperationsRequest("GET", "/losses")).body)
    assert (document["losses"], document["parked"]) == ([], 0)


@pytest.mark.parametrize("named", SAID)
@pytest.mark.parametrize("away", [False, True])
def test_a_wrong_event_of_each_destination_is_parked_at_once(files: Path, named: dict[str, str], away: bool) -> None:
    """Nobody flushes, and it does not matter whether the destination can be reached."""
    configure(files, on_invalid="park")
    if away:
        files.rename(files.with_name("moved"))
    receipt = audit_event(**arguments(**named, action=5))
    wait_until(lambda: receipt.state == "parked", "it is parked")
    assert get_audit_stats().pending == 0
