"""OTel metrics on the application's own meter provider."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_audit_exporter import configure_audit, flush_audit, shutdown_audit
from otel_audit_exporter.event.seen_requests import SeenRequest, count_unrecorded
from otel_audit_exporter.pipeline import current
from tests.operations.conftest import Configure
from tests.operations.figures import Metrics
from tests.operations.stubs import AWAY, BAD_ROW, StubExporter, emit
from tests.stack.waiting import wait_until

SINK = ("sink", "stub")


def test_the_metrics_say_what_the_stats_say(configured: Configure, stub: StubExporter, metrics: Metrics) -> None:
    pipeline = configured(meter_provider=metrics.provider)
    emit(5)
    assert flush_audit()
    stub.sink.fail(BAD_ROW, containing=b"refuse me")
    emit(1, action="refuse me")
    assert flush_audit()
    stub.sink.fail(AWAY)
    emit(3)
    told, stats, health = metrics.read(), pipeline.stats(), pipeline.health()
    assert told["audit.records.emitted"] == {
        (("outcome", "accepted"), SINK): stats.submitted,
        (("outcome", "rejected"), SINK): 0,
    }
    assert told["audit.records.exported"] == {(("outcome", "stored"), SINK): stats.succeeded}
    assert told["audit.records.dropped"] == {(("outcome", "parked"), SINK): stats.failed}
    assert told["audit.queue.depth"] == {(SINK,): stats.pending}
    assert told["audit.dead_letters"] == {(SINK,): 1}
    assert told["audit.outbox.limit"] == {(SINK,): health.outbox_bytes_max}
    assert 0 < told["audit.queue.oldest_age"][(SINK,)] < 60
    assert (stats.submitted, stats.succeeded, stats.failed, stats.pending) == (9, 5, 1, 3)


def test_every_metric_of_the_table_is_exported(configured: Configure, metrics: Metrics) -> None:
    configured(meter_provider=metrics.provider)
    emit(1)
    count_unrecorded(SeenRequest("POST", "/parts", 200, "/parts"))
    assert flush_audit()
    assert set(metrics.read()) == {
        "audit.records.emitted",
        "audit.records.exported",
        "audit.records.dropped",
        "audit.records.recovered",
        "audit.records.late",
        "audit.queue.depth",
        "audit.queue.held",
        "audit.queue.overdue",
        "audit.queue.oldest_age",
        "audit.dead_letters",
        "audit.outbox.available",
        "audit.outbox.limit",
        "audit.health",
        "audit.requests.unrecorded",
        "audit.export.duration",
    }


def test_writes_are_timed_by_outcome(configured: Configure, stub: StubExporter, metrics: Metrics) -> None:
    configured(meter_provider=metrics.provider)
    emit(1)
    assert flush_audit()
    stub.sink.fail(AWAY)
    emit(1)
    failure = (("outcome", "failure"), SINK)
    wait_until(lambda: metrics.read()["audit.export.duration"].get(failure, 0) >= 1, "the failure is timed")
    assert metrics.read()["audit.export.duration"][(("outcome", "success"), SINK)] == 1


def test_counters_go_on_over_a_shutdown_and_are_not_doubled(metrics: Metrics) -> None:
    for _ in range(3):
        configure_audit("memory", ids="text", outbox="memory", meter_provider=metrics.provider)
        emit(2)
        assert flush_audit()
        shutdown_audit()
    assert metrics.read()["audit.records.emitted"][(("outcome", "accepted"), ("sink", "memory"))] == 6
    assert metrics.sums()["audit.records.exported"] == 6


def test_gauges_end_with_their_pipeline(metrics: Metrics) -> None:
    configure_audit("memory", ids="text", outbox="memory", meter_provider=metrics.provider)
    assert metrics.read()["audit.health"] == {(): 0}
    shutdown_audit()
    assert not metrics.read().get("audit.health")
    assert not metrics.read().get("audit.queue.depth")


def test_a_retry_leaves_the_counter_of_parked_events_unchanged(
    configured: Configure, stub: StubExporter, metrics: Metrics
) -> None:
    pipeline = configured(meter_provider=metrics.provider)
    emit(1)
    assert flush_audit()
    stub.sink.fail(BAD_ROW)
    emit(1)
    assert flush_audit()
    stub.sink.heal()
    assert pipeline.dead_letters().retry() == 1
    sums = metrics.sums()
    assert (sums["audit.records.dropped"], sums["audit.dead_letters"], sums["audit.records.exported"]) == (1, 0, 2)
    assert pipeline.stats().failed == 0


def test_metrics_keep_no_pipeline_alive(metrics: Metrics) -> None:
    pipeline = weakref.ref(configure_audit("memory", ids="text", outbox="memory", meter_provider=metrics.provider))
    shutdown_audit()
    current.Running.pipeline = None
    gc.collect()
    assert pipeline() is None
    assert metrics.sums()["audit.records.emitted"] == 0


def test_each_provider_gets_metrics_of_its_own_pipeline_only(metrics: Metrics) -> None:
    other = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[other])
    configure_audit("memory", ids="text", outbox="memory", meter_provider=provider)
    emit(1)
    shutdown_audit()
    configure_audit("memory", ids="text", outbox="memory", meter_provider=metrics.provider)
    emit(4)
    assert metrics.sums()["audit.records.emitted"] == 4
    assert Metrics(other, provider).sums()["audit.records.emitted"] == 1
    provider.shutdown()


GLOBAL_PROVIDER = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from otel_audit_exporter import configure_audit, flush_audit, shutdown_audit
from tests.operations.figures import Metrics
from tests.operations.stubs import emit

reader = InMemoryMetricReader()
provider = MeterProvider(metric_readers=[reader])
told = Metrics(reader, provider)

def begin():
    configure_audit("memory", ids="text", outbox="memory")
    emit(2)
    assert flush_audit()

if {late}:
    begin()
    assert not told.read()
    metrics.set_meter_provider(provider)
else:
    metrics.set_meter_provider(provider)
    begin()
assert told.sums()["audit.records.emitted"] == 2
shutdown_audit()
begin()
assert told.sums()["audit.records.emitted"] == 4
assert told.sums()["audit.queue.depth"] == 0
"""


def test_by_default_the_global_provider_is_used_even_if_set_later() -> None:
    for late in (False, True):
        subprocess.run([sys.executable, "-c", GLOBAL_PROVIDER.format(late=late)], check=True)
