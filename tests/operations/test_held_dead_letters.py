"""Somebody else holds the dead letters: a backup, a stopped process, a database browser. Nobody waits for them long."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from otel_audit_exporter import AuditDeliveryError, AuditPipeline, PendingReceipt, audit_event, flush_audit
from otel_audit_exporter.delivery.dead_letters import DeadLetters
from tests.operations.conftest import Configure
from tests.operations.stubs import BAD_ROW, StubExporter, emit
from tests.stack.waiting import wait_until

HOLDS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""
SOON = 9.0  # seconds; each of these took 10 to 60 when SQLite's own busy time was waited for


@pytest.fixture(autouse=True)
def patient_users_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_audit_exporter.delivery.dead_letters._PATIENCE_SECONDS", 0.2)


@contextmanager
def held(file: Path) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        assert holder.poll() is None
        holder.communicate("")


@contextmanager
def takes_not_long(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON, what


def letters_file(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "outbox").iterdir()
    return folder / "dead-letters.db"


def say(action: str = "approve") -> PendingReceipt:
    return audit_event(action, entity_type="part", entity_id="part-1", yacht_id="yacht-1", user_id="user-1")


def park_one(stub: StubExporter) -> PendingReceipt:
    stub.sink.fail(BAD_ROW, containing=b"refuse me")
    receipt = say("refuse me")
    emit(1)
    assert flush_audit()
    assert receipt.state == "parked"
    return receipt


@pytest.fixture
def parked(configured: Configure, stub: StubExporter) -> tuple[AuditPipeline, PendingReceipt]:
    pipeline = configured()
    return pipeline, park_one(stub)


def test_nothing_waits_for_who_holds_the_dead_letters(
    parked: tuple[AuditPipeline, PendingReceipt], tmp_path: Path
) -> None:
    pipeline, _ = parked
    assert pipeline.health().parked == 1
    with held(letters_file(tmp_path)):
        refused = say("refuse me")
        with takes_not_long("fork"):
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
        with takes_not_long("stats"):
            assert pipeline.stats().succeeded == 1
        with takes_not_long("health"):
            health = pipeline.health()
        with takes_not_long("a receipt"):
            say().result(8)
        with takes_not_long("a receipt of what cannot be parked"), pytest.raises(AuditDeliveryError, match="pending"):
            refused.result(1)
        with takes_not_long("shutdown"):
            assert not pipeline.shutdown(1000)
    assert any("are held by somebody else" in one for one in health.reasons)
    assert (health.level != "good", health.parked) == (True, 1)


def test_a_receipt_with_unknown_state_is_pending(parked: tuple[AuditPipeline, PendingReceipt], tmp_path: Path) -> None:
    _, receipt = parked
    with held(letters_file(tmp_path)):
        state: str = receipt.state
        assert state == "pending"
        with pytest.raises(AuditDeliveryError, match="held by somebody else") as caught:
            receipt.result(0.2)
        assert caught.value.state == "pending"
    assert receipt.state == "parked"


def test_an_event_loop_goes_on_while_a_receipt_is_awaited(
    parked: tuple[AuditPipeline, PendingReceipt], tmp_path: Path
) -> None:
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    async def wait() -> None:
        beating = asyncio.create_task(beat())
        with ExitStack() as holding:  # in another thread, as it waits for a process
            await asyncio.to_thread(holding.enter_context, held(letters_file(tmp_path)))
            awaited = asyncio.ensure_future(_awaited(receipt))
            done, _ = await asyncio.wait([awaited], timeout=1)
            assert not done
            await asyncio.to_thread(holding.close)
        with pytest.raises(AuditDeliveryError, match="parked"):
            await awaited
        beating.cancel()

    _, receipt = parked
    asyncio.run(wait())
    assert longest < SOON / 3


async def _awaited(receipt: PendingReceipt) -> object:
    return await receipt


def test_what_cannot_be_parked_now_is_parked_later(
    parked: tuple[AuditPipeline, PendingReceipt], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline, _ = parked
    with held(letters_file(tmp_path)):
        receipt = say("refuse me")
        wait_until(lambda: "cannot be parked now" in caplog.text, "it is logged")
        assert (receipt.state, pipeline.stats().pending) == ("pending", 1)
    wait_until(lambda: receipt.state == "parked", "it is parked", 30)
    assert len(pipeline.dead_letters()) == 2


def test_a_file_that_is_no_database_is_set_aside_and_reported(
    configured: Configure, stub: StubExporter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = configured()
    file = letters_file(tmp_path)
    file.write_bytes(b"no database at all " * 100)
    assert pipeline.health().level == "critical"
    assert park_one(stub).state == "parked"
    assert "dead letters damaged" in caplog.text
    assert pipeline.health().problem == ""
    (aside,) = file.parent.glob("dead-letters.db.damaged-*")
    assert aside.read_bytes().startswith(b"no database")


def test_a_file_of_something_else_is_set_aside(configured: Configure, stub: StubExporter, tmp_path: Path) -> None:
    pipeline = configured()
    file = letters_file(tmp_path)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE holiday (day TEXT)")
    assert park_one(stub).state == "parked"
    assert len(pipeline.dead_letters()) == 1
    assert len(list(file.parent.glob("dead-letters.db.damaged-*"))) == 1


def test_a_file_of_an_earlier_version_gets_its_missing_column(
    configured: Configure, stub: StubExporter, tmp_path: Path
) -> None:
    pipeline = configured()
    event = stub.rules.compose({"action": "a", "entity_type": "e", "entity_id": "1", "yacht_id": "y", "user_id": "u"})
    with closing(sqlite3.connect(letters_file(tmp_path))) as connection, connection:
        connection.execute(
            "CREATE TABLE dead_letter (record_id TEXT PRIMARY KEY, body BLOB NOT NULL, error TEXT NOT NULL, code TEXT,"
            " attempts INTEGER NOT NULL, first_failed_at REAL NOT NULL, parked_at REAL NOT NULL, parked_by TEXT NOT "
            "NULL)"
        )
        row = (event.record_id, event.body, "refused", None, 1, 1.0, 2.0, "earlier")
        connection.execute("INSERT INTO dead_letter VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    (letter,) = pipeline.dead_letters()
    assert (letter.record_id, letter.kind, letter.reasons) == (event.record_id, "refused", None)
    assert pipeline.dead_letters().retry() == 1
    assert len(DeadLetters(stub.channel)) == 0
