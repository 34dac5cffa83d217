"""Several sinks at once: each at its own pace, the first one is the application's."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult

from otel_audit_exporter import AuditPipeline, attach_audit, audit_event, configure_audit
from tests.stack import AuditTable, Stack
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.otlp_receiver import Receiver
from tests.support.rows import sqlite_rows

NOBODY = "http://127.0.0.1:9/v1/logs"


class Hanging(LogRecordExporter):
    """Stands in export until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        self.entered.set()
        self.let_go.wait()
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        return True

    def shutdown(self) -> None:
        pass


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    exporter = Hanging()
    yield exporter
    exporter.let_go.set()


@pytest.fixture
def away() -> Iterator[Receiver]:
    """A receiver that is not started yet."""
    receiver = Receiver()
    yield receiver
    receiver.stop()


def both(stack: Stack, table: AuditTable, receiver: Receiver, **more: Any) -> AuditPipeline:
    return configure_audit(
        "supabase,otlp",
        url=stack.url,
        key=stack.service_key,
        table=table.name,
        endpoint=receiver.endpoint,
        **more,
    )


def test_every_event_goes_to_both_and_each_has_its_figures(
    stack: Stack, audit_table: AuditTable, receiver: Receiver
) -> None:
    pipeline = both(stack, audit_table, receiver)
    ids = {audit_event(**arguments()).record_id for _ in range(50)}
    assert pipeline.force_flush(60_000)
    receiver.wait_for(ids)
    assert set(audit_table.ids()) == receiver.ids == ids
    wait_until(lambda: pipeline.stats().sinks["otlp"].pending == 0, "the counters of both are even")
    stats = pipeline.stats()
    assert list(stats.sinks) == ["supabase", "otlp"]
    for sink in (stats, *stats.sinks.values()):
        assert (sink.submitted, sink.succeeded, sink.pending, sink.rejected) == (50, 50, 0, 0)


def test_a_receiver_that_is_down_delays_nothing_and_catches_up(
    stack: Stack, audit_table: AuditTable, away: Receiver
) -> None:
    pipeline = both(stack, audit_table, away)
    receipts = [audit_event(**arguments()) for _ in range(50)]
    assert all(receipt.result(60).record_id == receipt.record_id for receipt in receipts)
    assert pipeline.force_flush(60_000)
    ids = {receipt.record_id for receipt in receipts}
    assert set(audit_table.ids()) == ids
    stats = pipeline.stats()
    assert (stats.succeeded, stats.pending, stats.last_error) == (50, 0, None)
    assert (stats.sinks["otlp"].succeeded, stats.sinks["otlp"].pending) == (0, 50)
    wait_until(lambda: pipeline.stats().sinks["otlp"].last_error is not None, "its failure is told")
    away.start()
    away.wait_for(ids)
    assert away.ids == ids
    wait_until(lambda: pipeline.stats().sinks["otlp"].pending == 0, "its counters are even")
    assert pipeline.stats().sinks["otlp"].succeeded == 50


def test_the_next_process_brings_a_receiver_what_it_missed(
    stack: Stack, audit_table: AuditTable, away: Receiver
) -> None:
    pipeline = both(stack, audit_table, away)
    ids = {audit_event(**arguments()).record_id for _ in range(20)}
    assert pipeline.force_flush(60_000)
    assert pipeline.shutdown(100) is False
    away.start()
    later = both(stack, audit_table, away)
    away.wait_for(ids)
    wait_until(lambda: later.stats().sinks["otlp"].pending == 0, "its counters are even")
    assert later.stats().sinks["otlp"].recovered == 20
    assert later.stats().recovered == 0
    assert set(audit_table.ids()) == ids


def test_a_primary_that_is_down_does_not_hold_back_the_receiver(
    stack: Stack, audit_table: AuditTable, receiver: Receiver
) -> None:
    with stack.gateway.refusing():
        pipeline = both(stack, audit_table, receiver)
        receipts = [audit_event(**arguments()) for _ in range(20)]
        receiver.wait_for(receipt.record_id for receipt in receipts)
        assert not any(receipt.state == "stored" for receipt in receipts)
        assert pipeline.force_flush(100) is False
    assert pipeline.force_flush(60_000)
    assert set(audit_table.ids()) == receiver.ids
    assert {receipt.state for receipt in receipts} == {"stored"}


def test_past_the_quota_only_the_secondary_misses_events(
    stack: Stack, audit_table: AuditTable, away: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """They are counted."""
    pipeline = both(stack, audit_table, away, outbox_max_bytes=2**18)
    ids = set()
    for _ in range(20):
        for _ in range(10):
            ids.add(audit_event(**arguments(new_values={"text": "x" * 4000})).record_id)
        assert pipeline.force_flush(60_000)
    stats = pipeline.stats()
    otlp = stats.sinks["otlp"]
    assert (stats.submitted, stats.succeeded, stats.rejected) == (200, 200, 0)
    assert set(audit_table.ids()) == ids
    assert otlp.rejected > 0
    assert otlp.submitted == otlp.pending == 200 - otlp.rejected
    told = [record.getMessage() for record in caplog.records if "passed by this sink" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("audit otlp: ")
    away.start()
    wait_until(lambda: pipeline.stats().sinks["otlp"].pending == 0, "what was taken is delivered", 90)
    assert len(away.ids) == pipeline.stats().sinks["otlp"].succeeded == 200 - otlp.rejected
    assert away.ids < ids


def test_a_hanging_secondary_delays_no_call_receipt_or_flush(tmp_path: Path, hanging: Hanging) -> None:
    pipeline = configure_audit(["sqlite", hanging], path=str(tmp_path / "rows.db"))
    first = audit_event(**arguments())
    assert hanging.entered.wait(60)
    receipts = [first, *(audit_event(**arguments()) for _ in range(100))]
    assert all(receipt.result(60) for receipt in receipts)
    assert pipeline.force_flush(60_000)
    assert len(sqlite_rows(tmp_path / "rows.db")) == 101
    assert pipeline.stats().sinks["Hanging"].pending == 101
    assert not hanging.let_go.is_set()
    hanging.let_go.set()
    wait_until(lambda: pipeline.stats().sinks["Hanging"].succeeded == 101, "the secondary has them too", 90)


def test_a_hanging_secondary_on_an_attached_provider_delays_no_flush(tmp_path: Path, hanging: Hanging) -> None:
    provider = LoggerProvider(shutdown_on_exit=False)
    pipeline = attach_audit(provider, ["sqlite", hanging], path=str(tmp_path / "rows.db"))
    audit_event(**arguments())
    assert hanging.entered.wait(60)
    audit_event(**arguments())
    flushed: list[bool] = []
    flush = threading.Thread(target=lambda: flushed.append(pipeline.force_flush(600_000)))
    flush.start()
    flush.join(60)
    assert flushed == [True]
    assert len(sqlite_rows(tmp_path / "rows.db")) == 2
    assert pipeline.shutdown(100) is False
    hanging.let_go.set()


def test_each_sink_is_given_once() -> None:
    with pytest.raises(ValueError, match="each sink once, not otlp, otlp"):
        configure_audit("otlp,otlp", endpoint=NOBODY)
