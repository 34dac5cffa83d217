"""What newcomers stumble over: paths with quotes, numbers as ids, other event loops."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
import trio

from otel_audit_exporter import (
    AuditConfigurationError,
    AuditDeliveryError,
    AuditEventError,
    AuditReceipt,
    audit_event,
    audited,
    configure_audit,
    flush_audit,
)
from otel_audit_exporter.config.settings import load_settings
from tests.support.events import arguments
from tests.support.rows import sqlite_rows


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (":memory:", "the exporter `memory`"),
        ("sqlite:///audit.db", "give audit.db"),
        ('"audit.db"', "without quotes"),
        ("'audit.db'", "without quotes"),
        ("$HOME/audit.db", "without variables"),
        ("/var/${NAME}/audit.db", "without variables"),
    ],
)
@pytest.mark.parametrize("setting", ["path", "outbox_dir"])
def test_what_is_no_path_is_refused_with_the_remedy(setting: str, given: str, words: str) -> None:
    with pytest.raises(AuditConfigurationError, match=words):
        load_settings({setting: given}, {})


def test_a_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = load_settings({"path": "~/audit.db", "outbox_dir": Path("~/audit")}, {})
    assert (settings.path, settings.outbox_dir) == ("/home/somebody/audit.db", "/home/somebody/audit")


@pytest.mark.parametrize("wrong", [42, "42"])
def test_an_id_that_is_no_uuid_is_refused_with_the_setting(bare_environment: None, wrong: object) -> None:
    configure_audit("memory")
    with pytest.raises(AuditEventError, match="OTEL_AUDIT_IDS=text"):
        audit_event(**arguments(entity_id=wrong))
    with pytest.raises(AuditEventError) as caught:
        audit_event(**arguments(record_id=wrong))
    assert "OTEL_AUDIT_IDS" not in str(caught.value)  # a record's own id is a UUID, whatever the others are


async def received() -> AuditReceipt:
    return await audit_event(**arguments())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_receipt_is_awaited_in_any_event_loop(tmp_path: Path, bare_environment: None, backend: str) -> None:
    configure_audit("sqlite", path=str(tmp_path / "audit.db"))
    receipt = anyio.run(received, backend=backend)
    assert [row["id"] for row in sqlite_rows(tmp_path / "audit.db")] == [receipt.record_id]


def test_a_wait_in_trio_can_be_given_up(tmp_path: Path, bare_environment: None) -> None:
    configure_audit("sqlite", path=str(tmp_path / "missing" / "audit.db"))

    async def give_up() -> bool:
        with trio.move_on_after(0.1) as waiting:
            await audit_event(**arguments())
        return waiting.cancelled_caught

    assert trio.run(give_up)


def test_without_a_loop_the_error_says_what_to_call(bare_environment: None) -> None:
    configure_audit("memory")
    with pytest.raises(RuntimeError, match="result"):
        received().send(None)


async def broken(_: object) -> dict[str, object]:
    raise LookupError


def also_broken(_: object) -> dict[str, object]:
    raise LookupError


def test_a_handler_runs_where_its_old_values_cannot_be_taken(
    tmp_path: Path, bare_environment: None, caplog: pytest.LogCaptureFixture
) -> None:
    configure_audit("sqlite", path=str(tmp_path / "audit.db"), tenants=False)
    said = arguments()
    fixed = {"entity_type": "t", "entity_id": said["entity_id"], "user_id": said["user_id"]}

    @audited("sync", old_values=also_broken, **fixed)
    def handler() -> str:
        return "done"

    @audited("async", old_values=broken, **fixed)
    async def async_handler() -> str:
        return "done"

    assert handler() == handler() == anyio.run(async_handler) == "done"
    assert flush_audit(30_000)
    rows = sqlite_rows(tmp_path / "audit.db")
    assert [(row["action"], row["old_values"]) for row in rows] == [("sync", None), ("sync", None), ("async", None)]
    assert caplog.text.count("old_values of sync raised LookupError") == 1


def test_a_refused_receipt_says_so_without_a_loop() -> None:
    from otel_audit_exporter.delivery.receipts import PendingReceipt

    async def wait() -> None:
        await PendingReceipt("id", None, None)

    with pytest.raises(AuditDeliveryError):
        wait().send(None)
