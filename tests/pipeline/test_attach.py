"""On a provider that the application owns, whatever the application does to it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import Logger, LogRecord, NoOpLoggerProvider
from opentelemetry._logs._internal import ProxyLoggerProvider
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from otel_audit_exporter import (
    AuditConfigurationError,
    SQLiteAuditExporter,
    attach_audit,
    audit_event,
    configure_audit,
    flush_audit,
)
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.rows import sqlite_rows
from tests.support.running import run_python

ROWS = "pms_audit_log.db"


class Raising(LogRecordProcessor):
    """A processor of the application's that is broken."""

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        raise ZeroDivisionError("broken")

    def shutdown(self) -> None:
        """Nothing is open."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class Changing(Raising):
    """A processor that rewrites what passes."""

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        attributes: Any = log_record.log_record.attributes
        attributes["audit.action"] = "rewritten"
        attributes.pop("audit.change.new_values", None)


@pytest.fixture
def provider() -> Iterator[LoggerProvider]:
    made = LoggerProvider(shutdown_on_exit=False)
    yield made
    made.shutdown()


def warnings_about(caplog: pytest.LogCaptureFixture, words: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if words in record.message and record.levelno == logging.WARNING]


def test_events_land_and_a_warning_says_that_others_see_them(
    provider: LoggerProvider, caplog: pytest.LogCaptureFixture
) -> None:
    attach_audit(provider, "sqlite")
    receipt = audit_event(**arguments())
    assert receipt.result(30).record_id == receipt.record_id
    assert len(sqlite_rows(ROWS)) == 1
    assert len(warnings_about(caplog, "other log record processors receive the content")) == 1


def test_another_processor_receives_the_whole_event(provider: LoggerProvider) -> None:
    seen = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # the SDK's
    provider.add_log_record_processor(SimpleLogRecordProcessor(seen))
    attach_audit(provider, "sqlite")
    receipt = audit_event(**arguments(new_values={"text": "x" * 100_000}))
    (record,) = [one.log_record for one in seen.get_finished_logs()]
    assert record.event_name == "receiving.create_receiving"
    assert (record.attributes or {})["audit.record.id"] == receipt.record_id
    assert len(str((record.attributes or {})["audit.change.new_values"])) > 100_000


def test_attribute_limits_of_the_application_cut_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("OTEL_ATTRIBUTE", "OTEL_LOGRECORD_ATTRIBUTE"):
        monkeypatch.setenv(f"{name}_COUNT_LIMIT", "1")
        monkeypatch.setenv(f"{name}_VALUE_LENGTH_LIMIT", "3")
    provider = LoggerProvider(shutdown_on_exit=False)
    attach_audit(provider, "sqlite")
    said = arguments(new_values={"text": "x" * 5000}, old_values={"a": [1, 2, 3]})
    audit_event(**said)
    assert flush_audit()
    (row,) = sqlite_rows(ROWS)
    assert row["new_values"] == {"text": "x" * 5000}
    assert row["old_values"] == {"a": [1, 2, 3]}
    assert row["action"] == said["action"]
    provider.shutdown()


def test_limits_cut_nothing_on_a_provider_of_our_own_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "1")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    configure_audit("sqlite")
    audit_event(**arguments(new_values={"text": "x" * 5000}))
    assert flush_audit()
    assert sqlite_rows(ROWS)[0]["new_values"] == {"text": "x" * 5000}


def test_a_processor_that_raises_keeps_nothing_from_the_table(
    provider: LoggerProvider, caplog: pytest.LogCaptureFixture
) -> None:
    provider.add_log_record_processor(Raising())
    attach_audit(provider, "sqlite")
    for _ in range(20):
        audit_event(**arguments())
    assert flush_audit()
    assert len(sqlite_rows(ROWS)) == 20
    assert len(warnings_about(caplog, "delivered from the outbox")) == 1


def test_a_processor_that_rewrites_records_does_not_change_the_row(provider: LoggerProvider) -> None:
    provider.add_log_record_processor(Changing())
    attach_audit(provider, "sqlite")
    said = arguments()
    audit_event(**said).result(30)
    (row,) = sqlite_rows(ROWS)
    assert (row["action"], row["new_values"]) == (said["action"], said["new_values"])


@pytest.mark.parametrize("attached", [True, False])
def test_a_disabled_sdk_keeps_nothing_from_the_table(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, attached: bool
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    if attached:
        attach_audit(LoggerProvider(shutdown_on_exit=False), "sqlite")
    else:
        configure_audit("sqlite")
    for _ in range(20):
        audit_event(**arguments())
    wait_until(lambda: len(sqlite_rows(ROWS)) == 20, "every row is stored without a flush")
    assert len(warnings_about(caplog, "OTEL_SDK_DISABLED")) == 1


def test_a_disabled_sdk_does_not_keep_events_from_the_table(tmp_path: Path) -> None:
    """They are delivered at the end of the process."""
    program = f"import otel_audit_exporter as a\na.configure_audit('sqlite')\na.audit_event(**{arguments()!r})\n"
    run_python(program, OTEL_SDK_DISABLED="true")
    assert len(sqlite_rows(ROWS)) == 1


@pytest.mark.parametrize("before", [0, 3])
def test_events_land_even_if_the_application_shuts_down_its_provider(
    provider: LoggerProvider, caplog: pytest.LogCaptureFixture, before: int
) -> None:
    attach_audit(provider, "sqlite", schedule_delay_millis=20)
    for _ in range(before):
        audit_event(**arguments())
    wait_until(lambda: len(sqlite_rows(ROWS)) == before, "what came before is stored")
    provider.shutdown()
    for _ in range(20):
        audit_event(**arguments())
    wait_until(lambda: len(sqlite_rows(ROWS)) == before + 20, "every row is stored without a flush")
    wait_until(lambda: len(warnings_about(caplog, "do not arrive through the SDK")) == 1, "it is said")
    audit_event(**arguments())
    wait_until(lambda: len(sqlite_rows(ROWS)) == before + 21, "the next one is stored too")
    assert len(warnings_about(caplog, "do not arrive through the SDK")) == 1


def test_shutting_the_pipeline_down_leaves_the_provider_alone(provider: LoggerProvider) -> None:
    seen = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # the SDK's
    provider.add_log_record_processor(SimpleLogRecordProcessor(seen))
    pipeline = attach_audit(provider, "sqlite")
    audit_event(**arguments())
    assert pipeline.shutdown()
    logger: Logger = provider.get_logger("application")
    logger.emit(LogRecord(body="goes on"))
    assert [one.log_record.body for one in seen.get_finished_logs()] == [None, "goes on"]


def test_a_flush_after_the_shutdown_waits_for_nothing(provider: LoggerProvider) -> None:
    pipeline = attach_audit(provider, "sqlite")
    audit_event(**arguments())
    assert pipeline.shutdown()
    assert pipeline.force_flush(timeout_millis=600_000)  # longer than a test may take


def test_ordinary_records_of_the_provider_are_no_events(provider: LoggerProvider) -> None:
    pipeline = attach_audit(provider, "sqlite")
    provider.get_logger("application").emit(LogRecord(body="text"))
    provider.force_flush()
    assert pipeline.stats().submitted == 0


def test_audit_records_of_other_code_on_the_provider_land_too(provider: LoggerProvider) -> None:
    pipeline = attach_audit(provider, "sqlite")
    said = arguments()
    attributes = {
        "audit.action": said["action"],
        "audit.target.type": said["entity_type"],
        "audit.target.id": said["entity_id"],
        "audit.tenant.id": said["yacht_id"],
        "audit.actor.id": said["user_id"],
    }
    provider.get_logger("application").emit(LogRecord(attributes=attributes))
    assert pipeline.force_flush()
    assert [row["entity_id"] for row in sqlite_rows(ROWS)] == [said["entity_id"]]


def test_another_exporter_of_ours_on_the_provider_gets_the_events_too(provider: LoggerProvider, tmp_path: Path) -> None:
    beside = SQLiteAuditExporter(os.fspath(tmp_path / "beside.db"))
    provider.add_log_record_processor(SimpleLogRecordProcessor(beside))
    attach_audit(provider, "memory")
    receipt = audit_event(**arguments(new_values={"a": [1]}, metadata={"m": 1}))
    assert beside.force_flush()
    (row,) = sqlite_rows(tmp_path / "beside.db")
    assert row["id"] == receipt.record_id
    assert row["new_values"] == {"a": [1], "_audit": {"metadata": {"m": 1}}}
    beside.shutdown()


@pytest.mark.parametrize("given", [None, NoOpLoggerProvider(), ProxyLoggerProvider(), "sqlite"])
def test_an_object_that_is_no_sdk_provider_is_reported(given: Any) -> None:
    with pytest.raises(AuditConfigurationError, match=f"{type(given).__name__} is no LoggerProvider"):
        attach_audit(given)
