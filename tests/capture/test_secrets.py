"""Secrets of users reach neither the table nor the outbox, the logs, the dead letters or a message broker."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from pydantic import BaseModel

from otel_audit_exporter import (
    AuditConfigurationError,
    AuditPipeline,
    InMemoryAuditExporter,
    audit_context,
    audit_event,
    audited,
    configure_audit,
    shutdown_audit,
)
from otel_audit_exporter.integrations.context_propagation import serialize_context
from otel_audit_exporter.testing import AuditLog
from tests.stack import AuditTable, Stack
from tests.stack.ports import free_port
from tests.stack.waiting import wait_until

SECRET = "hunter2-correct-horse"
YACHT, USER = uuid4(), uuid4()


class Login(BaseModel):
    user: str = "ada"
    user_password: str = SECRET


def full_of_secrets() -> dict[str, Any]:
    deep: Any = {"PassWord": SECRET}
    for level in range(40):
        deep = {"level": level, "inside": [deep]}
    return {
        "password": SECRET,
        "deep": deep,
        "list": [{"apiKey": SECRET}, [{"X-Api-Key": SECRET}], ({"Set-Cookie": SECRET},)],
        "text": json.dumps({"a": [{"client_secret": SECRET, "kept": 1}]}),
        "text in text": json.dumps({"inner": json.dumps({"token": SECRET})}),
        "list as text": json.dumps([{"AUTHORIZATION": f"Bearer {SECRET}"}]),
        "model": Login(),
        "tokens": {"refresh_token": {"value": SECRET}, "private_key": [SECRET], "credentials": SECRET.encode()},
        "kept": "visible",
    }


def record(action: str = "login") -> str:
    return audit_event(
        action,
        entity_type="session",
        entity_id=uuid4(),
        yacht_id=YACHT,
        user_id=USER,
        old_values=full_of_secrets(),
        new_values=json.dumps(full_of_secrets(), default=lambda value: dict(value) if isinstance(value, Login) else ""),
        metadata=full_of_secrets(),
    ).record_id


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def _ended() -> Iterator[None]:
    yield
    shutdown_audit(0)


@pytest.mark.usefixtures("_ended")
def test_no_secret_in_the_outbox_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    configure_audit(
        "supabase",
        url=f"http://127.0.0.1:{free_port()}",
        key="k",
        outbox_dir=str(tmp_path),
        handle_sigterm=False,
        export_timeout_millis=500,
    )
    with audit_context(metadata={"token": SECRET}):
        record_id = record()
    kept = everything_in(tmp_path)
    assert record_id.encode() in kept
    assert b"visible" in kept
    assert SECRET.encode() not in kept
    assert SECRET not in caplog.text


@pytest.mark.usefixtures("_ended")
def test_no_secret_in_the_table_the_dead_letters_or_the_logs(
    stack: Stack, audit_table: AuditTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    audit_table.alter("add constraint no_bad check (action <> 'bad')")
    pipeline = configure_audit(
        "supabase",
        url=stack.url,
        key=stack.service_key,
        table=audit_table.name,
        outbox_dir=str(tmp_path),
        handle_sigterm=False,
    )
    good, bad = record(), record("bad")
    wait_until(lambda: _deliver_with_company(pipeline), "the bad row is parked")
    (letter,) = [pipeline.dead_letters().get(bad)]
    assert letter is not None
    assert "[REDACTED]" in json.dumps(letter.row)
    (row,) = [row for row in audit_table.rows() if str(row["id"]) == good]
    assert row["old_values"]["kept"] == "visible"
    assert row["old_values"]["password"] == "[REDACTED]"
    assert json.loads(row["old_values"]["text"]) == {"a": [{"client_secret": "[REDACTED]", "kept": 1}]}
    for place in (repr(audit_table.rows()), repr(letter), json.dumps(letter.row), caplog.text):
        assert SECRET not in place
    assert SECRET.encode() not in everything_in(tmp_path)


def _deliver_with_company(pipeline: AuditPipeline) -> bool:
    record("company")
    pipeline.force_flush(5_000)
    return pipeline.stats().failed == 1


def test_an_unusable_record_is_parked_without_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    exporter = InMemoryAuditExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    provider.get_logger("other").emit(
        LogRecord(
            attributes={
                "audit.action": "login",
                "audit.target.id": {"password": SECRET},  # what other code may do
                "audit.change.new_values": json.dumps({"password": SECRET, "kept": "visible"}),
            }
        )
    )
    try:
        (letter,) = exporter.channel.dead_letters.all()
        assert b"visible" in letter.body
        assert SECRET.encode() not in letter.body
        assert SECRET not in caplog.text
    finally:
        provider.shutdown()


def test_secrets_of_a_context_are_redacted_before_a_job_takes_them() -> None:
    with audit_context(user_id=USER, metadata=full_of_secrets()):
        packed = json.dumps(serialize_context())
    assert "visible" in packed
    assert SECRET not in packed


def test_without_a_pipeline_the_environment_decides_what_is_redacted_for_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with audit_context(user_id=USER, metadata={"pin": "1234", "password": SECRET}):
        monkeypatch.setenv("OTEL_AUDIT_REDACT_KEYS", "pin, password")
        assert serialize_context()["fields"]["metadata"] == {"pin": "[REDACTED]", "password": "[REDACTED]"}
        monkeypatch.setenv("OTEL_AUDIT_MODE", "nonsense")
        assert serialize_context()["fields"]["metadata"] == {"pin": "1234", "password": "[REDACTED]"}


def test_audited_redacts_arguments_and_old_values(audit_log: AuditLog) -> None:
    @audited("login", entity_type="session", entity_id=USER, old_values=lambda _: Login(), new_values="login")
    def handler(login: Login) -> None: ...

    with audit_context(yacht_id=YACHT, user_id=USER):
        handler(Login())
    audit_log.assert_recorded(new_values={"user": "ada", "user_password": "[REDACTED]"})
    assert SECRET not in repr(audit_log.events)


def test_a_list_of_ones_own_and_a_callable(audit_log: AuditLog) -> None:
    def hook(path: tuple[str, ...], value: object) -> object:
        return "[CARD]" if isinstance(value, str) and value.replace(" ", "").isdigit() else value

    configure_audit(redact_keys=["iban"], redact_hook=hook)
    audit_event(
        "pay",
        entity_type="order",
        entity_id=USER,
        yacht_id=YACHT,
        user_id=USER,
        new_values={"customer_iban": "DE00", "password": "shown now", "cards": [{"n": "4111 1111 1111 1111"}]},
    )
    audit_log.assert_recorded(
        new_values={"customer_iban": "[REDACTED]", "password": "shown now", "cards": [{"n": "[CARD]"}]}
    )


def test_long_values_are_kept_whole_unless_a_limit_is_set(audit_log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value beyond the limit is cut, and a mark says so."""

    def say() -> Any:
        audit_log.clear()
        audit_event(
            "note", entity_type="note", entity_id=USER, yacht_id=YACHT, user_id=USER, new_values={"text": "é" * 5000}
        )
        return audit_log.events[0].new_values["text"]

    assert say() == "é" * 5000
    monkeypatch.setenv("OTEL_AUDIT_MAX_VALUE_BYTES", "1KiB")
    configure_audit()
    cut = say()
    assert cut.startswith("é" * 512)
    assert len(cut) < 600
    assert "cut" in cut


@pytest.mark.parametrize("options", [{"redact_hook": "text"}, {"max_value_bytes": 0}, {"max_value_bytes": "many"}])
def test_wrong_settings_are_reported(audit_log: AuditLog, options: dict[str, Any]) -> None:
    with pytest.raises(AuditConfigurationError, match=next(iter(options))):
        configure_audit(**options)
