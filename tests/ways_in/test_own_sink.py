"""A sink of the application's own, given to configure_audit."""

from __future__ import annotations

import logging

import pytest

from otel_audit_exporter import (
    AuditConfigurationError,
    InMemoryAuditExporter,
    audit_event,
    configure_audit,
    flush_audit,
    shutdown_audit,
)
from otel_audit_exporter.sinks.memory import MemorySink
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.testing import FaultySink
from tests.stack.waiting import wait_until
from tests.support.events import arguments


def test_it_gets_the_rows_by_the_columns_that_are_set() -> None:
    sink = MemorySink()
    configure_audit(sink, columns={"id": "record_id", "what": "action"}, ids="text", unmapped="drop")
    receipt = audit_event("create_part", entity_type="part", entity_id="p-1")
    assert receipt.result(30).record_id == receipt.record_id
    assert sink.rows == [{"id": receipt.record_id, "what": "create_part"}]


def test_untaken_events_wait_and_refused_ones_are_parked() -> None:
    table = MemorySink()
    sink = FaultySink(table)
    pipeline = configure_audit(sink, schedule_delay_millis=10)
    sink.fail_next(Verdict(Fault.TRANSIENT), times=1)
    sink.refuse_rows(lambda row: row["action"] == "bad")
    waits = [audit_event(**arguments()), audit_event(**arguments(action="bad")), audit_event(**arguments())]
    assert flush_audit(30_000)
    assert [receipt.state for receipt in waits] == ["stored", "parked", "stored"]
    assert sorted(row["id"] for row in table.rows) == [waits[0].record_id, waits[2].record_id]
    assert [letter.record_id for letter in pipeline.dead_letters()] == [waits[1].record_id]


def test_remaining_events_go_to_the_next_sink_with_that_target() -> None:
    away = FaultySink(MemorySink())
    away.fail_next(Verdict(Fault.TRANSIENT), times=None)
    configure_audit(away)
    left = audit_event(**arguments())
    assert not shutdown_audit(0)
    back = MemorySink()
    pipeline = configure_audit(back)
    wait_until(lambda: pipeline.stats().succeeded == 1, "the event that was left is delivered")
    assert [row["id"] for row in back.rows] == [left.record_id]


def test_it_may_be_one_of_several() -> None:
    sink, exporter = FaultySink(MemorySink()), InMemoryAuditExporter()
    with pytest.raises(AuditConfigurationError, match="each sink once, not memory, memory"):
        configure_audit([sink, exporter])
    pipeline = configure_audit([sink, "sqlite"])
    audit_event(**arguments()).result(30)
    assert set(pipeline.stats().sinks) == {"memory", "sqlite"}


def test_a_class_or_an_incomplete_sink_is_refused() -> None:
    class NullSink:
        name = target = "half"

        def insert(self, rows: object, deadline: float) -> None: ...

    for given in (MemorySink, NullSink()):
        with pytest.raises(AuditConfigurationError, match="or a sink"):
            configure_audit(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("memory", "memory"), ("none", "memory"), ("sqlite", "disk"), (MemorySink(), "disk"), (None, "disk")],
)
def test_the_log_says_where_the_outbox_really_is(
    given: str | MemorySink | None, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    configure_audit(given)
    assert f"mode batch, outbox {kept}" in caplog.text
