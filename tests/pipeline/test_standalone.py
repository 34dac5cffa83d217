"""Exporters that the SDK, or the application, puts behind a processor of its own."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from opentelemetry import _logs
from opentelemetry._logs import Logger, LogRecord
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult, SimpleLogRecordProcessor

from otel_audit_exporter import (
    AuditConfigurationError,
    PostgresAuditExporter,
    SQLiteAuditExporter,
    SupabaseAuditExporter,
    audit_event,
    configure_audit,
    flush_audit,
    get_audit_pipeline,
    get_audit_stats,
    shutdown_audit,
)
from otel_audit_exporter.pipeline.exporter import AuditExporter
from tests.stack import AuditTable, Stack
from tests.stack.waiting import wait_until
from tests.support.events import USER, YACHT, arguments
from tests.support.rows import sqlite_rows
from tests.support.running import run_python

Behind = Callable[[AuditExporter], Logger]


@pytest.fixture
def providers() -> Iterator[list[LoggerProvider]]:
    made: list[LoggerProvider] = []
    yield made
    for provider in made:
        provider.shutdown()


@pytest.fixture
def behind(providers: list[LoggerProvider]) -> Behind:
    """Put an exporter behind a plain provider and processor, and give its logger."""

    def put(exporter: AuditExporter) -> Logger:
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter, schedule_delay_millis=50))
        providers.append(provider)
        return provider.get_logger("application")

    return put


def attributes(**changes: Any) -> dict[str, Any]:
    return {
        "audit.action": "create_receiving",
        "audit.target.type": "receiving",
        "audit.target.id": str(uuid4()),
        "audit.tenant.id": YACHT,
        "audit.actor.id": USER,
    } | changes


def letters(outbox_dir: str) -> list[tuple[str, str]]:
    (path,) = Path(outbox_dir).glob("*/dead-letters.db")
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT record_id, error FROM dead_letter").fetchall()
    finally:
        connection.close()


class TestRecords:
    def test_a_missing_id_and_time_are_filled_in(self, behind: Behind, tmp_path: Path) -> None:
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "rows.db"))
        behind(exporter).emit(LogRecord(attributes=attributes()))
        wait_until(lambda: exporter.channel.stats().succeeded == 1, "the row is stored")
        (row,) = sqlite_rows(tmp_path / "rows.db")
        assert UUID(row["id"]).version == 7
        assert row["created_at"].utcoffset() is not None

    def test_other_records_pass_uncounted(self, behind: Behind, tmp_path: Path) -> None:
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "rows.db"))
        logger = behind(exporter)
        for number in range(100):
            logger.emit(LogRecord(body=f"ordinary {number}", attributes={"number": number}))
        logger.emit(LogRecord(attributes=attributes()))
        wait_until(lambda: exporter.channel.stats().succeeded == 1, "the row is stored")
        stats = exporter.channel.stats()
        assert (stats.submitted, stats.failed, stats.rejected) == (1, 0, 0)
        assert len(sqlite_rows(tmp_path / "rows.db")) == 1

    def test_a_record_that_cannot_become_a_row_is_parked_alone(
        self, behind: Behind, tmp_path: Path, outbox_dir: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The dead letter has the reason, and the others land."""
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "rows.db"))
        logger = behind(exporter)
        logger.emit(LogRecord(attributes=attributes()))
        logger.emit(LogRecord(attributes=attributes(**{"audit.target.id": "no uuid", "audit.record.id": "0" * 32})))
        logger.emit(LogRecord(attributes=attributes()))
        wait_until(
            lambda: exporter.channel.stats().pending == 0 and exporter.channel.stats().submitted == 3, "all settled"
        )
        stats = exporter.channel.stats()
        assert (stats.succeeded, stats.failed) == (2, 1)
        ((record_id, error),) = letters(outbox_dir)
        assert record_id == str(uuid.UUID("0" * 32))
        assert "entity_id: must be a UUID" in error
        assert len(sqlite_rows(tmp_path / "rows.db")) == 2

    @pytest.mark.parametrize("time", [10**22, -(10**25), "yesterday", 2**63 * 1000])
    def test_a_record_with_an_impossible_time_is_parked_alone(
        self, behind: Behind, tmp_path: Path, outbox_dir: str, time: Any
    ) -> None:
        """The others of its batch land."""
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "rows.db"))
        logger = behind(exporter)
        for timestamp in (None, time, None):
            logger.emit(LogRecord(timestamp=timestamp, attributes=attributes()))
        wait_until(
            lambda: exporter.channel.stats().pending == 0 and exporter.channel.stats().submitted == 3, "all settled"
        )
        assert (exporter.channel.stats().succeeded, exporter.channel.stats().failed) == (2, 1)
        ((_, error),) = letters(outbox_dir)
        assert "timestamp" in error
        assert len(sqlite_rows(tmp_path / "rows.db")) == 2

    def test_a_record_with_an_impossible_span_is_parked_alone(self, behind: Behind, tmp_path: Path) -> None:
        """The others of its batch land."""
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "rows.db"))
        logger = behind(exporter)
        records = [LogRecord(attributes=attributes()) for _ in range(3)]
        records[1].trace_id, records[1].span_id = "none", 1.5  # type: ignore[assignment]
        for record in records:
            logger.emit(record)
        wait_until(
            lambda: exporter.channel.stats().pending == 0 and exporter.channel.stats().submitted == 3, "all settled"
        )
        assert (exporter.channel.stats().succeeded, exporter.channel.stats().failed) == (2, 1)
        assert len(sqlite_rows(tmp_path / "rows.db")) == 2

    def test_a_parked_record_s_secrets_are_redacted(self, tmp_path: Path, outbox_dir: str, behind: Behind) -> None:
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "rows.db"))
        secrets = {"audit.change.new_values": {"password": "S3CRET"}, "audit.metadata": '{"token": "S3CRET"}'}
        behind(exporter).emit(LogRecord(attributes=attributes(**secrets, **{"audit.outcome": "perhaps"})))
        wait_until(lambda: exporter.channel.stats().failed == 1, "the record is parked")
        (path,) = Path(outbox_dir).glob("*/dead-letters.db")
        assert b"[REDACTED]" in path.read_bytes()
        assert b"S3CRET" not in path.read_bytes()

    def test_a_record_that_cannot_become_a_row_never_reaches_the_table(self, behind: Behind, tmp_path: Path) -> None:
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "rows.db"))
        logger = behind(exporter)
        for _ in range(200):
            logger.emit(LogRecord(attributes=attributes(**{"audit.outcome": "perhaps"})))
            exporter.relay.deliver_now()
        wait_until(lambda: exporter.channel.stats().failed == 200, "all parked")
        assert sqlite_rows(tmp_path / "rows.db") == []

    def test_export_answers_success_once_the_record_is_on_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the outbox, or in the dead letters."""
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "missing" / "rows.db"))
        provider = LoggerProvider(shutdown_on_exit=False)
        answers: list[LogRecordExportResult] = []
        export = exporter.export

        def overheard(batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
            answers.append(export(batch))
            return answers[-1]

        monkeypatch.setattr(exporter, "export", overheard)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        provider.get_logger("application").emit(LogRecord(attributes=attributes()))
        assert answers == [LogRecordExportResult.SUCCESS]
        assert exporter.channel.stats().pending == 1
        provider.get_logger("application").emit(LogRecord(attributes=attributes(**{"audit.outcome": "perhaps"})))
        assert answers == [LogRecordExportResult.SUCCESS] * 2
        wait_until(lambda: exporter.channel.stats().failed == 1, "it is parked")
        exporter.shutdown(0)

    def test_structures_and_texts_of_json_are_the_same_documents(
        self, behind: Behind, stack: Stack, audit_table: AuditTable
    ) -> None:
        exporter = SupabaseAuditExporter(stack.url, stack.service_key, table=audit_table.name)
        logger = behind(exporter)
        document = {"lines": [{"qty": 1}, None], "text": "ü"}
        logger.emit(LogRecord(attributes=attributes(**{"audit.change.new_values": document})))
        logger.emit(LogRecord(attributes=attributes(**{"audit.change.new_values": json.dumps(document)})))
        wait_until(lambda: audit_table.count() == 2, "both rows are there")
        assert [row["new_values"] for row in audit_table.rows()] == [document, document]

    def test_a_shutdown_delivers_what_waits(self, providers: list[LoggerProvider], tmp_path: Path) -> None:
        provider = LoggerProvider(shutdown_on_exit=False)
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "rows.db"))
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter, schedule_delay_millis=60_000))
        for _ in range(10):
            provider.get_logger("application").emit(LogRecord(attributes=attributes()))
        provider.shutdown()
        assert len(sqlite_rows(tmp_path / "rows.db")) == 10


class TestMissingSettings:
    def test_an_exporter_without_settings_holds_events_and_names_what_is_missing(
        self, behind: Behind, caplog: pytest.LogCaptureFixture
    ) -> None:
        exporter = SupabaseAuditExporter()
        behind(exporter).emit(LogRecord(attributes=attributes()))
        wait_until(lambda: exporter.channel.stats().held == 1, "the event is held")
        assert "SUPABASE_URL" in caplog.text
        assert "SUPABASE_SERVICE_ROLE_KEY" in caplog.text
        assert exporter.channel.stats().pending == 1

    @pytest.mark.parametrize("given", [{}, {"url": "http://127.0.0.1:9"}, {"key": "k"}])
    def test_only_what_is_missing_is_named(self, given: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
        SupabaseAuditExporter(**given).shutdown(0)
        assert ("SUPABASE_URL" in caplog.text) == ("url" not in given)
        assert ("SUPABASE_SERVICE_ROLE_KEY" in caplog.text) == ("key" not in given)

    def test_a_configured_start_later_delivers_what_was_held(
        self, behind: Behind, providers: list[LoggerProvider], stack: Stack, audit_table: AuditTable
    ) -> None:
        exporter = SupabaseAuditExporter(table=audit_table.name)
        logger = behind(exporter)
        for _ in range(5):
            logger.emit(LogRecord(attributes=attributes()))
        providers.pop().shutdown()
        assert exporter.channel.stats().pending == 5
        pipeline = configure_audit("supabase", url=stack.url, key=stack.service_key, table=audit_table.name)
        assert pipeline.force_flush()
        stats = pipeline.stats()
        assert (stats.recovered, stats.succeeded, stats.pending) == (5, 5, 0)
        assert audit_table.count() == 5

    def test_events_held_for_an_unreadable_dsn_are_delivered_once_it_works(
        self, behind: Behind, providers: list[LoggerProvider], stack: Stack, audit_table: AuditTable
    ) -> None:
        exporter = PostgresAuditExporter(dsn="mysql://u:p@127.0.0.1/d", table=audit_table.name)
        behind(exporter).emit(LogRecord(attributes=attributes()))
        wait_until(lambda: exporter.channel.stats().held == 1, "the event is held")
        providers.pop().shutdown()
        pipeline = configure_audit("postgres", dsn=stack.dsn(), table=audit_table.name)
        assert pipeline.force_flush(60_000)
        assert audit_table.count() == 1

    def test_an_unreadable_setting_neither_stops_telemetry_nor_misdirects_rows(
        self,
        behind: Behind,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        tmp_path: Path,
        providers: list[LoggerProvider],
    ) -> None:
        monkeypatch.setenv("OTEL_AUDIT_SQLITE_PATH", os.fspath(tmp_path / "rows.db"))
        monkeypatch.setenv("OTEL_AUDIT_COLUMNS", "id=nonsense")
        exporter = SQLiteAuditExporter()
        behind(exporter).emit(LogRecord(attributes=attributes()))
        wait_until(lambda: exporter.channel.stats().held == 1, "the event is held")
        assert "OTEL_AUDIT_COLUMNS" in caplog.text
        providers.pop().shutdown()
        assert not (tmp_path / "pms_audit_log.db").exists()
        assert sqlite_rows(tmp_path / "rows.db") == []
        monkeypatch.delenv("OTEL_AUDIT_COLUMNS")
        assert configure_audit("sqlite").force_flush()
        assert len(sqlite_rows(tmp_path / "rows.db")) == 1

    def test_an_empty_argument_counts_as_missing(self, caplog: pytest.LogCaptureFixture) -> None:
        exporter = SupabaseAuditExporter(url="", key="", token="", table="", columns="", outbox_dir="")
        assert "SUPABASE_URL" in caplog.text
        assert (exporter.settings.table, exporter.settings.token) == ("pms_audit_log", None)
        assert SQLiteAuditExporter(redact_keys="").settings.redact_keys == ()

    def test_an_argument_that_cannot_be_read_is_an_error(self) -> None:
        with pytest.raises(AuditConfigurationError, match="mode='fast'"):
            SQLiteAuditExporter("rows.db", mode="fast")

    def test_an_unwritable_outbox_is_reported_and_events_go_on(
        self, behind: Behind, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "rows.db"), outbox_dir=os.fspath(tmp_path / "file"))
        behind(exporter).emit(LogRecord(attributes=attributes()))
        wait_until(lambda: exporter.channel.stats().succeeded == 1, "the row is stored")
        assert [record.levelno for record in caplog.records if "memory only" in record.message] == [logging.ERROR]


class TestAuditEvent:
    def test_without_configuration_it_says_what_to_call(self) -> None:
        with pytest.raises(AuditConfigurationError, match=r"configure_audit\(\)"):
            audit_event(**arguments())
        with pytest.raises(AuditConfigurationError):
            get_audit_pipeline()
        with pytest.raises(AuditConfigurationError):
            get_audit_stats()
        assert flush_audit()

    def test_it_uses_an_exporter_that_is_in_the_process_already(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, providers: list[LoggerProvider]
    ) -> None:
        provider = LoggerProvider(shutdown_on_exit=False)
        providers.append(provider)
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "rows.db"))
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter, schedule_delay_millis=20))
        monkeypatch.setattr(_logs, "get_logger_provider", lambda: provider)
        receipt = audit_event(**arguments())
        assert receipt.result(30).record_id == receipt.record_id
        assert [row["id"] for row in sqlite_rows(tmp_path / "rows.db")] == [receipt.record_id]
        assert get_audit_stats().succeeded == 1

    def test_a_flush_is_true_only_when_the_exporters_events_are_stored(
        self, tmp_path: Path, behind: Behind, providers: list[LoggerProvider]
    ) -> None:
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "missing" / "rows.db"))
        behind(exporter).emit(LogRecord(attributes=attributes()))
        wait_until(lambda: exporter.channel.stats().pending == 1, "the record is accepted")
        assert not flush_audit(200)
        (tmp_path / "missing").mkdir()
        assert flush_audit(60_000)
        assert len(sqlite_rows(tmp_path / "missing" / "rows.db")) == 1
        configure_audit("memory")  # a flush has configured nothing

    def test_a_shutdown_says_whether_what_that_exporter_accepted_is_stored(
        self, tmp_path: Path, behind: Behind
    ) -> None:
        exporter = SQLiteAuditExporter(os.fspath(tmp_path / "missing" / "rows.db"))
        behind(exporter).emit(LogRecord(attributes=attributes()))
        wait_until(lambda: exporter.channel.stats().pending == 1, "the record is accepted")
        assert not shutdown_audit(200)
        assert get_audit_stats().pending == 1

    def test_the_first_of_several_exporters_is_used(self, tmp_path: Path) -> None:
        made = [SQLiteAuditExporter(os.fspath(tmp_path / f"{number}.db")) for number in range(8)]
        audit_event(**arguments()).result(30)
        assert get_audit_pipeline().target == made[0].target

    def test_a_pipeline_that_is_configured_later_takes_over(self, tmp_path: Path) -> None:
        theirs = SQLiteAuditExporter(os.fspath(tmp_path / "theirs.db"))
        first = audit_event(**arguments())
        configure_audit("sqlite", path=os.fspath(tmp_path / "ours.db"))
        second = audit_event(**arguments())
        second.result(30)
        assert [row["id"] for row in sqlite_rows(tmp_path / "ours.db")] == [second.record_id]
        first.result(30)
        assert theirs.force_flush()
        assert [row["id"] for row in sqlite_rows(tmp_path / "theirs.db")] == [first.record_id]

    def test_the_sdk_s_own_configuration_is_enough(self, tmp_path: Path) -> None:
        program = (
            "from opentelemetry.sdk._configuration import _initialize_components\n"
            "_initialize_components()\n"
            "import json, sys\n"
            "from otel_audit_exporter import audit_event, flush_audit, get_audit_stats\n"
            f"said = json.loads({json.dumps(json.dumps(arguments()))})\n"
            "print(audit_event(**said).record_id, flush_audit(), get_audit_stats().succeeded)\n"
        )
        path = tmp_path / "rows.db"
        printed = run_python(
            program,
            OTEL_LOGS_EXPORTER="sqlite_audit",
            OTEL_TRACES_EXPORTER="none",
            OTEL_METRICS_EXPORTER="none",
            OTEL_AUDIT_SQLITE_PATH=os.fspath(path),
        )
        (row,) = sqlite_rows(path)
        assert printed.split() == [row["id"], "True", "1"]
