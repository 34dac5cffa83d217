"""Set-up: once per process, from arguments and environment, with one line that says where rows go."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from supabase import create_client

from otel_audit_exporter import (
    AuditConfigurationError,
    AuditEvent,
    AuditEventError,
    InMemoryAuditExporter,
    SQLiteAuditExporter,
    SupabaseAuditExporter,
    audit_context,
    audit_event,
    configure_audit,
    flush_audit,
    get_audit_pipeline,
    get_audit_stats,
    shutdown_audit,
)
from tests.stack import AuditTable, Stack
from tests.stack.waiting import wait_until
from tests.support.events import USER, YACHT, arguments
from tests.support.rows import sqlite_rows


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.message) for record in caplog.records if record.name == "otel_audit_exporter"]


@pytest.fixture(autouse=True)
def _loud(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "otel_audit_exporter")


class TestOnce:
    def test_the_same_arguments_give_the_same_pipeline(self) -> None:
        first = configure_audit(
            "sqlite", table="t", columns={"id": "record_id", "n": "new_values"}, redact_keys=["pin"]
        )
        assert (
            configure_audit("sqlite", table="t", columns={"id": "record_id", "n": "new_values"}, redact_keys=["pin"])
            is first
        )
        assert get_audit_pipeline() is first

    def test_arguments_that_come_from_the_environment_are_the_same_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_AUDIT_TABLE", "t")
        first = configure_audit("sqlite")
        assert configure_audit("sqlite", table="t") is first

    def test_the_same_exporters_are_the_same_argument_however_they_are_written(self) -> None:
        pipeline = configure_audit()
        assert configure_audit("sqlite") is pipeline
        assert configure_audit(["SQLite"]) is pipeline
        pipeline.shutdown()
        pipeline = configure_audit("memory,none")
        assert configure_audit(("memory", "none")) is pipeline
        assert configure_audit("Memory, none") is pipeline
        with pytest.raises(AuditConfigurationError):
            configure_audit("none,memory")

    def test_equal_resources_are_the_same_argument(self) -> None:
        first = configure_audit("sqlite", resource=Resource({"service.name": "api"}))
        assert configure_audit("sqlite", resource=Resource({"service.name": "api"})) is first
        with pytest.raises(AuditConfigurationError):
            configure_audit("sqlite", resource=Resource({"service.name": "other"}))

    def test_other_arguments_are_an_error_and_change_nothing(self) -> None:
        first = configure_audit("sqlite", table="t")
        with pytest.raises(AuditConfigurationError, match="configured already"):
            configure_audit("sqlite", table="u")
        assert get_audit_pipeline() is first
        assert not first.closed

    def test_after_a_shutdown_a_new_one_starts(self) -> None:
        first = configure_audit("sqlite")
        shutdown_audit()
        second = configure_audit("sqlite", table="u")
        assert second is not first
        audit_event(**arguments())
        assert flush_audit()
        assert get_audit_stats().submitted == 1

    def test_a_pipeline_is_a_context_manager(self) -> None:
        with configure_audit("sqlite") as pipeline:
            audit_event(**arguments())
        assert pipeline.closed
        assert len(sqlite_rows("pms_audit_log.db")) == 1

    def test_an_exporter_that_was_shut_down_cannot_be_used_again(self) -> None:
        exporter = InMemoryAuditExporter()
        configure_audit(exporter).shutdown()
        with pytest.raises(AuditConfigurationError, match="shut down"):
            configure_audit(exporter)

    def test_an_emitted_event_object_lands(self) -> None:
        pipeline = configure_audit("sqlite")
        said = arguments()
        receipt = pipeline.emit(AuditEvent(**said))
        assert receipt.result(30).record_id == receipt.record_id
        with pytest.raises(AuditEventError) as caught:
            pipeline.emit(AuditEvent(action="a", yacht_id="no uuid"))
        assert set(caught.value.problems) == {"entity_type", "entity_id", "user_id", "yacht_id"}

    def test_an_emitted_event_object_is_filled_in_from_the_context(self) -> None:
        pipeline = configure_audit("sqlite")
        with audit_context(yacht_id=YACHT, user_id=YACHT, metadata={"a": 1}):
            pipeline.emit(AuditEvent("a", entity_type="t", entity_id=YACHT))
            pipeline.emit(AuditEvent("a", entity_type="t", entity_id=YACHT, user_id=USER, metadata={"b": 2}))
        assert pipeline.force_flush()
        rows = [(str(row["created_by"]), row["new_values"]["_audit"]) for row in sqlite_rows("pms_audit_log.db")]
        assert sorted(rows) == [(YACHT, {"metadata": {"a": 1}}), (USER, {"metadata": {"a": 1, "b": 2}})]

    def test_an_event_object_without_an_actor_takes_the_contexts_actor(self) -> None:
        exporter = InMemoryAuditExporter(
            columns={"id": "record_id", "actor": "actor_type", "user_id": "user_id"}, unmapped="drop"
        )
        pipeline = configure_audit(exporter)
        with audit_context(actor_type="service"):
            pipeline.emit(AuditEvent("a"))
            pipeline.emit(AuditEvent("a", actor_type="user", user_id=USER))
        assert pipeline.force_flush()
        assert [(row["actor"], row["user_id"]) for row in exporter.rows] == [("service", None), ("user", USER)]

    def test_what_is_rejected_at_the_call_is_counted_and_recorded_nowhere(self) -> None:
        pipeline = configure_audit("sqlite")
        for wrong in ({"entity_id": "no uuid"}, {"outcome": "perhaps"}, {"entity_typ": "x"}):
            with pytest.raises(AuditEventError):
                audit_event(**arguments(**wrong))
        stats = pipeline.stats()
        assert (stats.rejected, stats.submitted, stats.pending) == (3, 0, 0)

    def test_a_call_without_any_argument_names_all_that_is_missing(self) -> None:
        configure_audit("sqlite")
        with pytest.raises(AuditEventError) as caught:
            audit_event()  # type: ignore[call-arg]
        assert set(caught.value.problems) == {"action", "entity_type", "entity_id", "yacht_id", "user_id"}


class TestExporters:
    def test_a_ready_made_exporter_is_used(self) -> None:
        exporter = InMemoryAuditExporter()
        configure_audit(exporter)
        receipt = audit_event(**arguments())
        assert flush_audit()
        assert [row["id"] for row in exporter.rows] == [receipt.record_id]

    @pytest.mark.parametrize("listed", [False, True], ids=["alone", "in a list"])
    def test_a_ready_made_exporter_takes_the_arguments_of_configure_audit(self, listed: bool, tmp_path: Path) -> None:
        exporter = InMemoryAuditExporter(columns={"id": "record_id", "after": "new_values"})
        pipeline = configure_audit(
            [exporter, "none"] if listed else exporter, redact_keys=["iban"], ids="text", unmapped="error"
        )
        audit_event(**arguments(entity_id="no uuid", new_values={"iban": "S3CRET", "password": "p"}))
        assert flush_audit()
        assert [row["after"] for row in exporter.rows] == [{"iban": "[REDACTED]", "password": "p"}]
        with pytest.raises(AuditEventError, match="outcome"):
            audit_event(**arguments(outcome="failure"))
        assert pipeline.exporters[0] is exporter

    def test_a_ready_made_exporters_outbox_goes_to_the_configured_directory(
        self, tmp_path: Path, outbox_dir: str
    ) -> None:
        configure_audit(SQLiteAuditExporter(tmp_path / "rows.db"), outbox_dir=tmp_path / "kept", table="t")
        receipt = audit_event(**arguments()).result(60)
        assert [row["id"] for row in sqlite_rows(tmp_path / "rows.db", "t")] == [receipt.record_id]
        assert list((tmp_path / "kept").glob("*/*.log"))
        assert not list(Path(outbox_dir).glob("*/*.log"))

    def test_an_argument_that_contradicts_the_exporter_is_reported(self) -> None:
        exporter = InMemoryAuditExporter(ids="text")
        with pytest.raises(AuditConfigurationError, match="ids: the exporter that was given is made already"):
            configure_audit(exporter, ids="uuid", redact_keys=["iban"])
        configure_audit(exporter, ids="text")

    def test_an_argument_after_the_exporters_first_event_is_reported(self) -> None:
        used = SQLiteAuditExporter()
        audit_event(**arguments())
        with pytest.raises(AuditConfigurationError, match="redact_keys: the exporter that was given is made already"):
            configure_audit(used, redact_keys=["iban"])

    def test_a_ready_made_exporter_among_several_keeps_its_own_settings(self, tmp_path: Path) -> None:
        own = SQLiteAuditExporter(tmp_path / "own.db", table="own")
        configure_audit([own, "memory"], table="theirs")
        assert own.target.endswith(" own")
        receipt = audit_event(**arguments()).result(60)
        assert [row["id"] for row in sqlite_rows(tmp_path / "own.db", "own")] == [receipt.record_id]

    def test_names_may_be_written_in_any_case(self) -> None:
        assert configure_audit(" SQLite ").name == "sqlite"

    @pytest.mark.parametrize("name", ["sqllite", "supabase;drop", ","])
    def test_an_unknown_name_gives_the_known_ones(self, name: str) -> None:
        with pytest.raises(AuditConfigurationError, match="OTEL_AUDIT_EXPORTER"):
            configure_audit(name)

    @pytest.mark.parametrize("given", [5, SQLiteAuditExporter, [5], [["sqlite"]], [], object()])
    def test_an_object_that_is_no_exporter_gives_the_possible_ones(self, given: Any) -> None:
        with pytest.raises(AuditConfigurationError, match="must be one of sqlite, supabase"):
            configure_audit(given)

    @pytest.mark.parametrize("given", ["postgresql://u:S3CRET@h/d", "sb_secret_S3CRET_0123456789abcdef"])
    def test_a_dsn_or_key_given_as_the_name_is_not_repeated(self, given: str) -> None:
        with pytest.raises(AuditConfigurationError) as caught:
            configure_audit(given)
        assert "s3cret" not in str(caught.value).lower()

    def test_supabase_without_its_settings_names_them(self) -> None:
        with pytest.raises(AuditConfigurationError) as caught:
            configure_audit("supabase")
        assert "SUPABASE_URL" in str(caught.value)
        assert "SUPABASE_SERVICE_ROLE_KEY" in str(caught.value)
        with pytest.raises(AuditConfigurationError):
            get_audit_pipeline()

    def test_supabase_takes_its_settings_from_the_environment(
        self, stack: Stack, audit_table: AuditTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_AUDIT_EXPORTER", "supabase")
        monkeypatch.setenv("SUPABASE_URL", stack.url)
        monkeypatch.setenv("SUPABASE_SECRET_KEY", stack.secret_key)
        monkeypatch.setenv("OTEL_AUDIT_TABLE", audit_table.name)
        configure_audit()
        receipt = audit_event(**arguments())
        receipt.result(30)
        assert audit_table.ids() == [receipt.record_id]

    def test_a_ready_client_gives_url_and_key(self, stack: Stack, audit_table: AuditTable) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client = create_client(stack.url, stack.service_key)
        configure_audit("supabase", client=client, table=audit_table.name)
        audit_event(**arguments()).result(30)
        assert audit_table.count() == 1

    def test_an_exporter_takes_a_ready_client_too(self) -> None:
        client = SimpleNamespace(supabase_url="http://127.0.0.1:9", supabase_key="k")
        exporter = SupabaseAuditExporter(client=client, table="t")
        assert exporter.target == "http://127.0.0.1:9 public.t"
        assert SupabaseAuditExporter("http://127.0.0.2:9", client=client).target.startswith("http://127.0.0.2:9 ")

    def test_the_same_project_is_one_destination_however_its_address_is_written(self) -> None:
        names = set()
        for url in ("http://127.0.0.1:9", "http://127.0.0.1:9/", "HTTP://127.0.0.1:9/rest/v1/"):
            pipeline = configure_audit("supabase", url=url, key="k")
            folder = pipeline.primary.channel.logs.directory
            assert folder is not None
            names.add(folder.path)
            pipeline.shutdown(0)
        assert len(names) == 1

    def test_other_columns_and_defaults_reach_the_table(self, stack: Stack, audit_table: AuditTable) -> None:
        audit_table.alter("add column outcome text, add column source text, alter column new_values set not null")
        stack.reload_schema_cache()
        columns = {
            "id": "record_id", "yacht_id": "yacht_id", "entity_type": "entity_type", "action": "action",
            "entity_id": "entity_id", "created_by": "user_id", "created_at": "timestamp",
            "new_values": "new_values", "outcome": "outcome",
        }  # fmt: skip
        configure_audit(
            "supabase",
            url=stack.url,
            key=stack.service_key,
            table=audit_table.name,
            columns=columns,
            column_defaults={"new_values": {}, "source": "api"},
        )
        audit_event(**arguments(new_values=None, outcome="failure")).result(30)
        (row,) = audit_table.rows()
        assert (row["outcome"], row["source"], row["new_values"]) == ("failure", "api", {})

    def test_another_schema_is_written_to(self, stack: Stack) -> None:
        table = stack.create_table("audit")
        configure_audit("supabase", url=stack.url, key=stack.service_key, table=table.name, schema="audit")
        audit_event(**arguments()).result(30)
        assert table.count() == 1
        table.drop()

    @pytest.mark.parametrize("unmapped", ["fold", "drop", "error"])
    def test_what_no_column_takes_is_folded_dropped_or_refused(self, unmapped: str) -> None:
        configure_audit("sqlite", unmapped=unmapped)
        said = arguments(outcome="failure", metadata={"m": 1}, new_values={"a": 1})
        if unmapped == "error":
            with pytest.raises(AuditEventError) as caught:
                audit_event(**said)
            assert set(caught.value.problems) == {"outcome", "metadata"}
            return
        audit_event(**said).result(30)
        folded = {"_audit": {"outcome": "failure", "metadata": {"m": 1}}} if unmapped == "fold" else {}
        assert sqlite_rows("pms_audit_log.db")[0]["new_values"] == {"a": 1} | folded

    def test_text_ids_reach_the_table(self) -> None:
        configure_audit("sqlite", ids="text")
        audit_event(**arguments(entity_id="PO-17", user_id=42, yacht_id="Näiad")).result(30)
        (row,) = sqlite_rows("pms_audit_log.db")
        assert (row["entity_id"], str(row["created_by"]), row["yacht_id"]) == ("PO-17", "42", "Näiad")


class TestWhatIsSaid:
    def test_one_line_says_exporter_and_target(self, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
        configure_audit("sqlite", path=os.fspath(tmp_path / "rows.db"))
        ((level, line),) = lines(caplog)
        assert level == logging.INFO
        assert "sqlite" in line
        assert os.fspath(tmp_path / "rows.db") in line

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("SUPABASE_URL", "https://abc.supabase.co"),
            ("OTEL_AUDIT_POSTGRES_DSN", "postgresql://u:S3CRET@h/d"),
            ("DATABASE_URL", "postgresql://u:S3CRET@h/d"),
        ],
    )
    def test_a_database_that_is_set_and_not_used_is_a_warning(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
    ) -> None:
        monkeypatch.setenv(variable, value)
        configure_audit()
        ((level, line),) = lines(caplog)
        assert level == logging.WARNING
        assert variable in line
        assert "sqlite" in line
        assert "S3CRET" not in line

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            ({"url": "https://abc.supabase.co"}, "url"),
            ({"client": SimpleNamespace(supabase_url="https://abc.supabase.co", supabase_key="S3CRET")}, "url"),
            ({"dsn": "postgresql://u:S3CRET@h/d"}, "dsn"),
        ],
    )
    def test_a_database_argument_that_is_not_used_is_a_warning(
        self, caplog: pytest.LogCaptureFixture, options: dict[str, Any], name: str
    ) -> None:
        configure_audit(**options)
        ((level, line),) = lines(caplog)
        assert level == logging.WARNING
        assert f"although {name} is set" in line
        assert "S3CRET" not in line

    @pytest.mark.parametrize("how", ["name", "variable", "object"])
    def test_an_exporter_that_was_chosen_is_no_warning(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        monkeypatch.setenv("SUPABASE_URL", "https://abc.supabase.co")
        if how == "variable":
            monkeypatch.setenv("OTEL_AUDIT_EXPORTER", "sqlite")
        given = {
            "name": "sqlite",
            "variable": None,
            "object": SQLiteAuditExporter("rows.db") if how == "object" else "",
        }
        configure_audit(given[how] or None)
        assert [level for level, _ in lines(caplog)] == [logging.INFO]

    def test_events_that_wait_for_another_destination_are_a_warning(
        self, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        configure_audit("sqlite", path=os.fspath(tmp_path / "missing" / "rows.db"))
        for _ in range(3):
            audit_event(**arguments())
        shutdown_audit(0)
        caplog.clear()
        configure_audit("sqlite", path=os.fspath(tmp_path / "rows.db"))
        said = [line for level, line in lines(caplog) if level == logging.WARNING]
        assert len(said) == 1
        assert "3 event(s)" in said[0]
        assert "missing" in said[0]


class TestFaults:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"mode": "fast"}, "mode='fast': must be one of batch, sync"),
            ({"columns": {"id": "nonsense"}}, "nonsense"),
            ({"tabel": "t"}, "tabel: there is no such setting"),
            ({"max_queue_size": 1, "max_export_batch_size": 2}, "must not be larger than max_queue_size"),
            ({"redact_keys": 5}, "redact_keys"),
        ],
    )
    def test_a_wrong_argument_is_named_and_nothing_is_configured(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(AuditConfigurationError) as caught:
            configure_audit("sqlite", **options)
        assert words in str(caught.value)
        with pytest.raises(AuditConfigurationError):
            get_audit_pipeline()

    def test_files_and_directories_may_be_path_objects(self, tmp_path: Path) -> None:
        pipeline = configure_audit("sqlite", path=tmp_path / "rows.db", outbox_dir=tmp_path / "kept")
        assert configure_audit("sqlite", path=str(tmp_path / "rows.db"), outbox_dir=str(tmp_path / "kept")) is pipeline
        shutdown_audit()
        configure_audit(SQLiteAuditExporter(tmp_path / "rows.db", outbox_dir=tmp_path / "kept"))
        receipt = audit_event(**arguments()).result(60)
        assert [row["id"] for row in sqlite_rows(tmp_path / "rows.db")] == [receipt.record_id]

    def test_a_wrong_variable_is_named_with_value_and_what_is_allowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_AUDIT_IDS", "int")
        with pytest.raises(AuditConfigurationError, match="OTEL_AUDIT_IDS='int': must be one of uuid, text"):
            configure_audit("sqlite")

    @pytest.mark.parametrize(
        ("exporter", "variable", "value"),
        [
            ("postgres", "OTEL_AUDIT_POSTGRES_DSN", "mysql://u:S3CRET@127.0.0.1/d"),
            ("postgres", "DATABASE_URL", "host=127.0.0.1 S3CRET=1"),
            ("supabase", "SUPABASE_SECRET_KEY", "S3CRET two"),
        ],
    )
    def test_a_variable_without_address_or_key_is_named_without_its_value(
        self, exporter: str, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SUPABASE_URL", "http://x.example")
        monkeypatch.setenv(variable, value)
        with pytest.raises(AuditConfigurationError, match=rf"exporter {exporter}: .*{variable}\)$") as caught:
            configure_audit(exporter)
        assert "S3CRET" not in str(caught.value)

    @pytest.mark.parametrize("exporter", ["sqlite,postgres", "sqlite,sqlite", "sqlite,nonsense"])
    def test_of_several_exporters_none_runs_on_where_one_cannot(self, exporter: str) -> None:
        before = set(threading.enumerate())
        with pytest.raises(AuditConfigurationError):
            configure_audit(exporter)
        with pytest.raises(AuditConfigurationError, match="not configured"):
            audit_event(**arguments())
        wait_until(
            lambda: not any("relay" in thread.name for thread in set(threading.enumerate()) - before),
            "no relay runs on",
        )

    @pytest.mark.parametrize("exporter", ["sqlite", "memory"])
    def test_a_key_that_is_not_written_is_reported(self, exporter: str) -> None:
        with pytest.raises(AuditConfigurationError, match=r"OTEL_AUDIT_KEY_COLUMNS.* no field goes to nowhere"):
            configure_audit(exporter, key_columns=["id", "nowhere"])

    def test_a_resource_is_one_of_the_sdk_s(self) -> None:
        with pytest.raises(AuditConfigurationError, match="resource"):
            configure_audit("memory", resource={"service.name": "shop"})  # type: ignore[arg-type]

    @pytest.mark.parametrize("below", [False, True])
    def test_an_outbox_directory_that_cannot_be_used_names_both_remedies(self, tmp_path: Path, below: bool) -> None:
        in_the_way = tmp_path / "file"
        in_the_way.write_text("no directory")
        place = in_the_way / "below" if below else in_the_way
        with pytest.raises(AuditConfigurationError) as caught:
            configure_audit("sqlite", outbox_dir=os.fspath(place))
        assert "OTEL_AUDIT_OUTBOX_DIR" in str(caught.value)
        assert "OTEL_AUDIT_OUTBOX=memory" in str(caught.value)
        configure_audit("sqlite", outbox_dir=os.fspath(place), outbox="memory")
        audit_event(**arguments()).result(30)

    def test_a_memory_outbox_writes_nothing_to_the_disk(self, tmp_path: Path) -> None:
        configure_audit("sqlite", outbox="memory")
        audit_event(**arguments(yacht_id=YACHT)).result(30)
        assert not (tmp_path / "outbox").exists()
