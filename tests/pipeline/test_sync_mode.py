"""The rollback switch: the first attempt has ended when the call returns, and never takes longer than it may."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import pytest

from otel_audit_exporter import (
    AuditDeliveryError,
    AuditPipeline,
    audit_event,
    configure_audit,
    flush_audit,
    get_audit_stats,
)
from otel_audit_exporter.sinks.memory import MemorySink
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.testing import FaultySink
from tests.stack import AuditTable, Stack, faults
from tests.stack.faults import Delay, Hang, Place
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.rows import sqlite_rows


def configure(stack: Stack, table: AuditTable, export_timeout_millis: int = 10_000) -> AuditPipeline:
    return configure_audit(
        "supabase",
        mode="sync",
        url=stack.url,
        key=stack.service_key,
        table=table.name,
        export_timeout_millis=export_timeout_millis,
    )


def test_the_row_is_there_when_the_call_returns(stack: Stack, audit_table: AuditTable) -> None:
    configure(stack, audit_table)
    for count in range(1, 6):
        receipt = audit_event(**arguments())
        assert receipt.state == "stored"
        assert audit_table.count() == count
    assert get_audit_stats().succeeded == 5


def test_it_works_with_the_embedded_default_and_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_AUDIT_MODE", "sync")
    configure_audit()
    assert audit_event(**arguments()).state == "stored"
    assert len(sqlite_rows("pms_audit_log.db")) == 1


def test_a_row_that_the_table_refuses_does_not_fail_the_request(stack: Stack, audit_table: AuditTable) -> None:
    audit_table.alter("add constraint no_bad check (action <> 'bad')")
    configure(stack, audit_table)
    assert audit_event(**arguments()).state == "stored"
    assert audit_event(**arguments(action="bad")).state in ("pending", "parked")
    assert audit_event(**arguments()).state == "stored"


def test_a_failed_write_is_pending_and_the_request_goes_on(
    stack: Stack, audit_table: AuditTable, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is logged."""
    configure(stack, audit_table)
    stack.gateway.refuse()
    assert audit_event(**arguments()).state == "pending"
    assert get_audit_stats().pending == 1
    assert [record.levelno for record in caplog.records if "event(s) wait" in record.message] == [logging.ERROR]


def test_after_a_transient_failure_calls_do_not_wait_for_their_row(stack: Stack, audit_table: AuditTable) -> None:
    """They wait again once a probe has succeeded."""
    configure(stack, audit_table, export_timeout_millis=6000)
    hang = stack.gateway.inject(Hang(Place.REQUEST_BODY), times=None)
    assert audit_event(**arguments()).state == "pending"
    began = time.monotonic()
    receipts = [audit_event(**arguments()) for _ in range(50)]
    assert time.monotonic() - began < 6.0
    assert {receipt.state for receipt in receipts} == {"pending"}
    hang.remove()
    wait_until(lambda: audit_table.count() == 51, "every row is stored")
    wait_until(lambda: audit_event(**arguments()).state == "stored", "calls wait for their row again")


def test_calls_do_not_wait_behind_one_that_timed_out() -> None:
    """The sink hangs."""
    (exporter,) = configure_audit("memory", mode="sync", export_timeout_millis=300).exporters
    exporter.channel.sink = sink = FaultySink(MemorySink())
    sink.hang()
    assert audit_event(**arguments()).state == "pending"
    sink.wait_until_hanging()
    began = time.monotonic()
    receipts = [audit_event(**arguments()) for _ in range(50)]
    assert time.monotonic() - began < 50 * 0.3
    assert {receipt.state for receipt in receipts} == {"pending"}
    sink.release()
    receipts[-1].result(30)
    wait_until(lambda: audit_event(**arguments()).state == "stored", "calls wait for their row again")


def test_a_failure_lets_every_call_go_that_waits(stack: Stack, audit_table: AuditTable) -> None:
    (exporter,) = configure(stack, audit_table, export_timeout_millis=60_000).exporters
    failing = stack.gateway.inject(Hang(Place.REQUEST_BODY))
    stack.gateway.inject(faults.unavailable_json())
    calls = [threading.Thread(target=lambda: audit_event(**arguments()), daemon=True) for _ in range(2)]
    calls[0].start()
    failing.wait()
    later = stack.gateway.inject(Hang(Place.REQUEST_BODY), times=None)
    calls[1].start()
    wait_until(lambda: exporter.channel.completions.watched == 2, "both calls wait")
    failing.release()
    for call in calls:
        call.join(60)
        assert not call.is_alive()
    later.remove()


def test_the_export_timeout_bounds_the_call(stack: Stack, audit_table: AuditTable) -> None:
    configure(stack, audit_table, export_timeout_millis=500)
    hang = stack.gateway.inject(Hang(Place.REQUEST_BODY), times=None)
    began = time.monotonic()
    receipt = audit_event(**arguments())
    took = time.monotonic() - began
    assert receipt.state == "pending"
    assert 0.4 < took < 20.0
    hang.remove()


def test_a_slow_sink_is_waited_for(stack: Stack, audit_table: AuditTable) -> None:
    configure(stack, audit_table)
    stack.gateway.inject(Delay(0.5))
    assert audit_event(**arguments()).state == "stored"


@pytest.mark.parametrize("fault", [faults.unavailable_json(), faults.invalid_api_key(), faults.too_many_requests("1")])
def test_every_kind_of_failure_keeps_the_event(stack: Stack, audit_table: AuditTable, fault: faults.Answer) -> None:
    configure(stack, audit_table)
    failing = stack.gateway.inject(fault, times=None)
    assert audit_event(**arguments()).state == "pending"
    failing.remove()
    wait_until(lambda: audit_table.count() == 1, "the row is stored")


def test_a_sink_that_is_not_there_yet_gets_the_events_later(tmp_path: Path) -> None:
    path = tmp_path / "later" / "rows.db"
    configure_audit("sqlite", mode="sync", path=os.fspath(path))
    receipt = audit_event(**arguments())
    assert receipt.state == "pending"
    path.parent.mkdir()
    receipt.result(30)
    assert [row["id"] for row in sqlite_rows(path)] == [receipt.record_id]


def test_a_logging_handler_that_audits_does_not_block_the_delivery() -> None:
    """The delivery would wait for itself."""
    an_hour = 3_600_000
    sink = FaultySink(MemorySink())
    sink.fail_next(Verdict(Fault.CONFIGURATION), times=None)
    pipeline = configure_audit(sink, mode="sync", export_timeout_millis=an_hour)
    states: list[str] = []

    class Auditing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            receipt = audit_event(**arguments(action="log_error"))
            with pytest.raises(AuditDeliveryError):
                receipt.result()
            assert not flush_audit(None)
            states.append(receipt.state)

    handler, logger = Auditing(logging.ERROR), logging.getLogger("otel_audit_exporter")
    logger.addHandler(handler)
    try:
        audit_event(**arguments())
        wait_until(lambda: bool(states), "the handler has audited")
    finally:
        logger.removeHandler(handler)
    assert states == ["pending"]
    sink.heal()
    assert flush_audit(60_000)
    assert pipeline.stats().succeeded == 2
