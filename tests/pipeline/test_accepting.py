"""What a call accepts: repeats, events after the end, and an outbox that refuses."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from otel_audit_exporter import (
    AuditConfigurationError,
    AuditDeliveryError,
    AuditEvent,
    AuditEventError,
    AuditPipeline,
    AuditShutdownError,
    OutboxError,
    OutboxFullError,
    audit_event,
    configure_audit,
    flush_audit,
    get_audit_stats,
    shutdown_audit,
)
from tests.stack import AuditTable, Stack
from tests.stack.waiting import wait_until
from tests.support.events import USER, arguments
from tests.support.rows import sqlite_rows
from tests.support.running import run_python

ROWS = "pms_audit_log.db"


def said_lines(caplog: pytest.LogCaptureFixture, words: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if words in record.getMessage()]


@pytest.mark.parametrize(
    "record",
    [
        lambda pipeline: audit_event(**arguments(outcome=None)),
        lambda pipeline: pipeline.emit(AuditEvent(**arguments(outcome=None))),
    ],
    ids=["audit_event", "AuditEvent"],
)
def test_an_outcome_that_is_none_is_no_success(record: Callable[[AuditPipeline], object]) -> None:
    pipeline = configure_audit("sqlite")
    with pytest.raises(AuditEventError) as caught:
        record(pipeline)
    assert dict(caught.value.problems) == {"outcome": "must be one of success, failure, unknown, not NoneType"}
    assert pipeline.stats().submitted == 0


@pytest.mark.parametrize("event", [None, "an event", arguments()])
def test_what_is_no_event_is_refused_by_name_and_counted(event: Any) -> None:
    pipeline = configure_audit("sqlite")
    with pytest.raises(AuditEventError) as caught:
        pipeline.emit(event)
    assert dict(caught.value.problems) == {"event": f"must be an AuditEvent, not {type(event).__name__}"}
    assert (pipeline.stats().submitted, pipeline.stats().rejected) == (0, 1)


class TestIdempotency:
    def test_a_handler_that_runs_twice_writes_only_its_first_row(
        self, stack: Stack, audit_table: AuditTable, caplog: pytest.LogCaptureFixture
    ) -> None:
        configure_audit("supabase", url=stack.url, key=stack.service_key, table=audit_table.name)
        said = arguments(idempotency_key="order-1")
        first, second = audit_event(**said), audit_event(**said)
        assert first.record_id == second.record_id
        assert flush_audit()
        assert (first.state, second.state) == ("stored", "stored")
        stats = get_audit_stats()
        assert (stats.submitted, stats.succeeded, stats.failed) == (2, 2, 0)
        assert audit_table.ids() == [first.record_id]
        assert said_lines(caplog, "said before") == []

    def test_a_repeat_with_other_content_gives_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        configure_audit("sqlite")
        said = arguments(idempotency_key="order-1", new_values={"qty": 1})
        audit_event(**said)
        receipt = audit_event(**said | {"new_values": {"qty": "S3CRET"}})
        assert flush_audit()
        assert sqlite_rows(ROWS)[0]["new_values"] == {"qty": 1}
        ((record),) = said_lines(caplog, "said before")
        assert record.levelno == logging.WARNING
        assert receipt.record_id in record.getMessage()
        assert "S3CRET" not in record.getMessage()

    def test_another_time_is_not_something_else(self, caplog: pytest.LogCaptureFixture) -> None:
        configure_audit("sqlite")
        said = arguments(idempotency_key="k")
        for _ in range(3):
            audit_event(**said)
        assert flush_audit()
        assert len(sqlite_rows(ROWS)) == 1
        assert said_lines(caplog, "said before") == []

    def test_the_same_key_in_another_yacht_is_another_row(self) -> None:
        configure_audit("sqlite")
        audit_event(**arguments(idempotency_key="k"))
        audit_event(**arguments(idempotency_key="k", yacht_id=USER))
        assert flush_audit()
        assert len(sqlite_rows(ROWS)) == 2

    def test_a_repeated_record_id_is_one_row_too(self) -> None:
        configure_audit("sqlite")
        said = arguments(record_id="0191a000-0000-7000-8000-00000000abcd")
        assert audit_event(**said).record_id == audit_event(**said).record_id == said["record_id"]
        assert flush_audit()
        assert len(sqlite_rows(ROWS)) == 1

    def test_a_repeat_in_another_process_is_one_row_too(self, tmp_path: Path) -> None:
        said = arguments(idempotency_key="k")
        program = (
            "import otel_audit_exporter as a\n"
            f"p = a.configure_audit('sqlite', path={os.fspath(tmp_path / 'rows.db')!r})\n"
            f"print(a.audit_event(**{said!r}).record_id, p.shutdown())"
        )
        assert run_python(program) == run_python(program)
        assert len(sqlite_rows(tmp_path / "rows.db")) == 1


class TestAfterShutdown:
    def test_the_next_pipeline_delivers_events_accepted_after_shutdown(self, caplog: pytest.LogCaptureFixture) -> None:
        """One warning says that they wait."""
        pipeline = configure_audit("sqlite")
        assert shutdown_audit()
        receipts = [audit_event(**arguments()) for _ in range(3)]
        assert {receipt.state for receipt in receipts} == {"pending"}
        assert len([one for one in said_lines(caplog, "after shutdown") if one.levelno == logging.WARNING]) == 1
        assert pipeline.stats().pending == 3
        assert not flush_audit(100)
        with pytest.raises(AuditDeliveryError):
            receipts[0].result()
        again = configure_audit("sqlite")
        assert again.force_flush()
        assert again.stats().recovered == 3
        assert {row["id"] for row in sqlite_rows(ROWS)} == {receipt.record_id for receipt in receipts}

    def test_an_event_is_delivered_by_the_next_process(self, tmp_path: Path) -> None:
        path = os.fspath(tmp_path / "rows.db")
        program = (
            "import otel_audit_exporter as a\n"
            f"a.configure_audit('sqlite', path={path!r}).shutdown()\n"
            f"a.audit_event(**{arguments()!r})\n"
        )
        run_python(program)
        assert sqlite_rows(path) == []
        run_python(f"import otel_audit_exporter as a\nassert a.configure_audit('sqlite', path={path!r}).force_flush()")
        assert len(sqlite_rows(path)) == 1

    def test_with_the_outbox_in_memory_it_is_an_error(self) -> None:
        configure_audit("sqlite", outbox="memory")
        assert shutdown_audit()
        with pytest.raises(AuditShutdownError, match="memory"):
            audit_event(**arguments())
        assert get_audit_stats().submitted == 0
        assert get_audit_stats().rejected == 1

    def test_threads_that_emit_while_another_shuts_down_lose_nothing(self) -> None:
        pipeline = configure_audit("sqlite")
        ids: list[str] = []
        errors: list[BaseException] = []
        stop = threading.Event()

        def emit() -> None:
            try:
                while not stop.is_set():
                    ids.append(audit_event(**arguments()).record_id)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=emit) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(ids) > 200, "events come")
        pipeline.shutdown()
        count = len(ids)
        wait_until(lambda: len(ids) > count + 200, "events go on coming")
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []
        assert configure_audit("sqlite").force_flush(60_000)
        assert sorted(row["id"] for row in sqlite_rows(ROWS)) == sorted(ids)


class TestOutbox:
    def test_a_disk_that_fails_raises_and_records_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pipeline = configure_audit("sqlite")
        monkeypatch.setattr(pipeline.primary.channel.logs, "append", failing)
        with pytest.raises(OutboxError, match="the disk is gone"):
            audit_event(**arguments())
        assert (get_audit_stats().rejected, get_audit_stats().submitted) == (1, 0)

    def test_a_disk_that_fails_is_logged_where_that_is_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        pipeline = configure_audit("sqlite", on_outbox_error="log")
        monkeypatch.setattr(pipeline.primary.channel.logs, "append", failing)
        receipt = audit_event(**arguments(new_values={"text": "S3CRET"}))
        assert (get_audit_stats().rejected, get_audit_stats().submitted) == (1, 0)
        assert [record.levelno for record in said_lines(caplog, "the outbox refuses it")] == [logging.CRITICAL]
        assert "S3CRET" not in caplog.text
        assert receipt.state not in ("stored", "parked")
        with pytest.raises(AuditDeliveryError):
            receipt.result(1)

    def test_a_memory_outbox_that_is_full_raises(self) -> None:
        configure_audit("sqlite", path="missing/rows.db", outbox="memory", outbox_max_bytes=10_000)
        with pytest.raises(OutboxFullError):
            fill_up(arguments())
        assert get_audit_stats().submitted == get_audit_stats().pending > 10

    @pytest.mark.parametrize("outbox", ["disk", "fsync", "memory"])
    def test_every_kind_of_outbox_delivers(self, outbox: str) -> None:
        configure_audit("sqlite", outbox=outbox)
        ids = {audit_event(**arguments()).record_id for _ in range(100)}
        assert shutdown_audit()
        assert {row["id"] for row in sqlite_rows(ROWS)} == ids

    def test_more_than_the_sdk_s_queue_takes_is_delivered(self) -> None:
        configure_audit("sqlite", max_queue_size=10, max_export_batch_size=5, schedule_delay_millis=60_000)
        ids = {audit_event(**arguments()).record_id for _ in range(500)}
        assert flush_audit()
        assert {row["id"] for row in sqlite_rows(ROWS)} == ids


def fill_up(said: dict[str, Any]) -> None:
    for _ in range(1000):
        audit_event(**said)


def failing(*_: Any) -> int:
    raise OutboxError("the disk is gone")


class TestSpans:
    def test_the_span_of_the_call_is_the_event_s(self, tmp_path: Path) -> None:
        columns = {"id": "record_id", "trace": "trace_id", "span": "span_id", "new_values": "new_values"}
        configure_audit("sqlite", columns=columns)
        tracer = TracerProvider().get_tracer("test")
        with tracer.start_as_current_span("request") as span:
            audit_event("a", entity_type="t", entity_id=USER).result(30)
        import sqlite3

        connection = sqlite3.connect(ROWS)
        row = connection.execute("SELECT trace, span FROM pms_audit_log").fetchone()
        connection.close()
        context = span.get_span_context()
        assert row == (f"{context.trace_id:032x}", f"{context.span_id:016x}")

    def test_a_span_that_is_not_sampled_keeps_nothing_from_the_table(self) -> None:
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

        configure_audit("sqlite")
        with TracerProvider(sampler=ALWAYS_OFF).get_tracer("test").start_as_current_span("request"):
            audit_event(**arguments()).result(30)
        assert len(sqlite_rows(ROWS)) == 1

    def test_a_span_event_is_added_where_that_is_asked_for(self) -> None:
        configure_audit("sqlite")
        with TracerProvider().get_tracer("test").start_as_current_span("request") as span:
            receipt = audit_event(**arguments(new_values={"text": "S3CRET"}), as_span_event=True)
            audit_event(**arguments())
        (event,) = span.events  # type: ignore[attr-defined]
        assert dict(event.attributes) == {"audit.record.id": receipt.record_id, "audit.action": "create_receiving"}
        assert flush_audit()
        assert len(sqlite_rows(ROWS)) == 2

    def test_fields_only_from_the_surroundings_are_left_out_and_reported_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "otel_audit_exporter")
        configure_audit("sqlite")
        with TracerProvider().get_tracer("test").start_as_current_span("request"):
            for _ in range(5):
                audit_event(**arguments(new_values={"a": 1})).result(30)
        assert {str(row["new_values"]) for row in sqlite_rows(ROWS)} == {"{'a': 1}"}
        assert len(said_lines(caplog, "trace_id")) == 1
        assert len(said_lines(caplog, "span_id")) == 1

    def test_columns_that_can_keep_nothing_more_are_refused(self) -> None:
        columns = {"id": "record_id", "action": "action", "entity_id": "entity_id", "at": "timestamp"}
        with pytest.raises(AuditConfigurationError, match=r"no column takes yacht_id, .*outcome.*unmapped='drop'"):
            configure_audit("sqlite", columns=columns)

    def test_what_is_dropped_is_warned_of_once_at_configuration(self, caplog: pytest.LogCaptureFixture) -> None:
        columns = {"id": "record_id", "action": "action", "entity_id": "entity_id", "at": "timestamp"}
        configure_audit("sqlite", columns=columns, unmapped="drop")
        (record,) = said_lines(caplog, "are left out of every row")
        for field in ("outcome", "new_values", "yacht_id", "user_id", "entity_type", "metadata"):
            assert field in record.getMessage()
        assert record.levelno == logging.WARNING
        for _ in range(3):
            audit_event(**arguments(outcome="failure")).result(30)
        assert len(said_lines(caplog, "left out")) == 1
