"""A wrong event need not fail the request: with `on_invalid="park"` it waits in the dead letters to be corrected."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter import (
    NOBODY,
    AuditDeliveryError,
    AuditEventError,
    AuditPipeline,
    audit_context,
    audit_event,
    audited,
    compat,
    configure_audit,
    flush_audit,
    get_audit_stats,
)
from otel_audit_exporter.outbox.dead_letter_store import DeadLettersBusyError
from otel_audit_exporter.outbox.frames import EVENT
from otel_audit_exporter.outbox.sqlite_dead_letters import SqliteDeadLetterStore
from otel_audit_exporter.pipeline import invalid_events
from tests.operations.stubs import AWAY, StubExporter
from tests.stack.waiting import wait_until

YACHT, USER, PART = (f"00000000-0000-7000-8000-00000000000{n}" for n in range(3))
RIGHT: dict[str, Any] = {"entity_type": "part", "entity_id": PART, "yacht_id": YACHT, "user_id": USER}


@pytest.fixture(autouse=True)
def _clean(bare_environment: None) -> None:
    """Have it for every test here."""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def pipeline(database: Path) -> AuditPipeline:
    return configure_audit("sqlite", path=database, on_invalid="park")


def rows(database: Path) -> list[dict[str, Any]]:
    import sqlite3

    connection = sqlite3.connect(database)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute("SELECT * FROM pms_audit_log ORDER BY created_at")]
    finally:
        connection.close()


def wrong(action: str = "approve", **said: Any) -> Any:
    return audit_event(action, **(RIGHT | {"entity_id": "part-7"} | said))


def test_a_wrong_event_is_parked_and_the_call_returns(pipeline: AuditPipeline, database: Path) -> None:
    receipt = wrong(new_values={"qty": 1, "password": "hunter2"})
    audit_event("count", **RIGHT).result(30)
    with pytest.raises(AuditDeliveryError, match="entity_id: must be a UUID") as caught:
        receipt.result(30)
    assert (caught.value.state, receipt.state) == ("parked", "parked")
    (letter,) = pipeline.dead_letters()
    assert (letter.record_id, letter.kind, letter.row) == (receipt.record_id, "invalid", None)
    assert letter.fields is not None
    assert (letter.fields["entity_id"], letter.fields["yacht_id"], letter.fields["action"]) == (
        "part-7",
        YACHT,
        "approve",
    )
    assert letter.fields["new_values"] == {"qty": 1, "password": "[REDACTED]"}
    assert list(letter.reasons or {}) == ["entity_id"]
    stats = get_audit_stats()
    assert (stats.submitted, stats.succeeded, stats.failed, stats.pending, stats.rejected) == (2, 1, 1, 0, 0)
    assert flush_audit()
    assert [row["action"] for row in rows(database)] == ["count"]


def test_raise_is_the_default(database: Path) -> None:
    pipeline = configure_audit("sqlite", path=database)
    with pytest.raises(AuditEventError):
        wrong()
    assert (pipeline.stats().rejected, len(pipeline.dead_letters())) == (1, 0)


def test_the_variable_parks_too(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_AUDIT_ON_INVALID", "park")
    configure_audit("sqlite", path=database)
    receipt = wrong()
    wait_until(lambda: receipt.state == "parked", "it is parked")


def test_arguments_that_no_event_has_are_kept_and_redacted(pipeline: AuditPipeline) -> None:
    receipt = audit_event("approve", **RIGHT, entty="x", api_key="sk-secret")  # type: ignore[arg-type]
    wait_until(lambda: receipt.state == "parked", "it is parked")
    (letter,) = pipeline.dead_letters()
    assert letter.fields is not None
    assert (letter.fields["entty"], letter.fields["api_key"]) == ("x", "[REDACTED]")
    assert set(letter.reasons or {}) == {"entty", "api_key"}


def test_it_is_parked_while_the_sink_is_away() -> None:
    stub = StubExporter(ids="uuid")
    pipeline = configure_audit(stub, on_invalid="park")
    stub.sink.fail(AWAY)
    waiting = audit_event("count", **RIGHT)
    wait_until(lambda: pipeline.stats().last_error is not None, "the sink is away")
    receipt = wrong()
    wait_until(lambda: receipt.state == "parked", "it is parked")
    assert waiting.state == "pending"
    stub.sink.heal()
    assert flush_audit(30_000)


def test_a_killed_process_leaves_it_to_the_next_one(database: Path, tmp_path: Path) -> None:
    program = f"""
import os, signal
from otel_audit_exporter import configure_audit, audit_event
from otel_audit_exporter.delivery.parking import Parking
Parking.park_invalid = lambda self: None
configure_audit("sqlite", path={os.fspath(database)!r}, on_invalid="park", schedule_delay_millis=60_000)
for n in range(3):
    audit_event("approve", entity_type="part", entity_id="part-%d" % n, yacht_id={YACHT!r}, user_id={USER!r})
    audit_event("count", entity_type="part", entity_id={PART!r}, yacht_id={YACHT!r}, user_id={USER!r})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    pipeline = configure_audit("sqlite", path=database)
    assert flush_audit(30_000)
    assert len(rows(database)) == 3
    assert {letter.fields["entity_id"] for letter in pipeline.dead_letters() if letter.fields} == {
        "part-0",
        "part-1",
        "part-2",
    }
    stats = pipeline.stats()
    assert (stats.recovered, stats.succeeded, stats.failed) == (6, 3, 3)


def test_a_frame_of_a_newer_version_is_kept_and_never_delivered(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = configure_audit("sqlite", path=database)
    channel = pipeline.primary.channel
    channel.accept(pipeline.primary.rules.compose({"action": "new", **RIGHT}).body, 9 * EVENT)
    audit_event("count", **RIGHT).result(30)
    wait_until(lambda: "newer version" in caplog.text, "it is told")
    assert not flush_audit(300)
    assert [row["action"] for row in rows(database)] == ["count"]
    assert (len(pipeline.dead_letters()), pipeline.stats().pending) == (0, 1)


def test_what_cannot_be_parked_now_waits(pipeline: AuditPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any) -> None:
        raise DeadLettersBusyError("held")

    with monkeypatch.context() as held:
        held.setattr(SqliteDeadLetterStore, "park", busy)
        receipt = wrong()
        assert not flush_audit(500)
        assert receipt.state == "pending"
    wait_until(lambda: receipt.state == "parked", "it is parked", 30)


@pytest.mark.parametrize("limit", ["count", "bytes"])
def test_past_the_limit_it_is_rejected_and_the_call_returns(
    limit: str, database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if limit == "count":
        monkeypatch.setattr(invalid_events, "MOST_OF_ONE_CAUSE", 3)
    configure_audit("sqlite", path=database, on_invalid="park", outbox_max_bytes=2**20)
    receipts = [wrong(new_values="x" * (10 if limit == "count" else 30_000)) for _ in range(5)]
    assert [receipt.state for receipt in receipts][3:] == ["rejected", "rejected"]
    assert flush_audit(30_000)
    assert (get_audit_stats().failed, get_audit_stats().rejected) == (3, 2)
    assert wrong("other", entity_id=PART, yacht_id="none").state != "rejected" or limit == "bytes"
    (line,) = [one.getMessage() for one in caplog.records if "is rejected" in one.getMessage()][:1]
    assert line.endswith("It was: approve part part-7")


def test_compat_parks_what_is_wrong(pipeline: AuditPipeline) -> None:
    compat.write_audit_log_async(None, {"action": "approve", "entity_type": "part"})
    compat.write_audit_log_async(None, "no mapping")  # type: ignore[arg-type]
    compat.write_audit_log_async(None, {"action": "count", **RIGHT})
    assert flush_audit(30_000)
    stats = compat.get_audit_stats()
    assert (stats["submitted"], stats["succeeded"], stats["failed"], stats["rejected"]) == (3, 1, 2, 0)
    assert stats["success_rate"] == "33.3%"
    said = {str(letter.fields) for letter in pipeline.dead_letters()}
    assert any("no mapping" in one for one in said)


def test_compat_parks_whatever_the_pipeline_does(database: Path) -> None:
    pipeline = configure_audit("sqlite", path=database)
    compat.write_audit_log_async(None, {"action": "approve"})
    assert flush_audit(30_000)
    assert (len(pipeline.dead_letters()), pipeline.stats().rejected) == (1, 0)


def test_a_source_of_audited_that_raises_does_not_fail_the_call(pipeline: AuditPipeline) -> None:
    def fails() -> None:
        raise KeyError("missing")

    def approve() -> str:
        return "done"

    assert audited("approve", **(RIGHT | {"entity_id": fails}))(approve)() == "done"
    assert audited("approve", **(RIGHT | {"new_values": fails}))(approve)() == "done"
    assert flush_audit(30_000)
    (letter,) = pipeline.dead_letters()
    assert list(letter.reasons or {}) == ["entity_id"]
    assert (pipeline.stats().succeeded, pipeline.stats().failed) == (1, 1)


# --- correcting -----------------------------------------------------------------------------------------------------


def park(pipeline: AuditPipeline, **said: Any) -> str:
    receipt = wrong(**said)
    assert flush_audit(30_000)
    assert receipt.state == "parked"
    return str(receipt.record_id)


def test_a_corrected_event_lands_and_says_who_corrected_it(pipeline: AuditPipeline, database: Path) -> None:
    record_id = park(pipeline, new_values={"qty": 1}, outcome="failure")
    letters = pipeline.dead_letters()
    assert letters.retry() == 0
    assert letters.passed_over == 1
    corrected = letters.edit(record_id, {"entity_id": PART}, "the client sent a name", by="eve")
    assert (corrected.kind, corrected.row is not None) == ("refused", True)
    assert letters.originals(record_id)[0]["entity_id"] == "part-7"
    assert letters.retry(record_id) == 1
    (row,) = rows(database)
    assert (row["id"], row["entity_id"]) == (record_id, PART)
    audit = json.loads(row["new_values"])["_audit"]
    assert audit["outcome"] == "failure"
    (entry,) = audit["corrected"]
    assert re.match(r"20\d\d-", entry.pop("at"))
    assert entry == {
        "by": "eve",
        "reason": "the client sent a name",
        "from": {"entity_id": "part-7"},
        "to": {"entity_id": PART},
    }
    assert (letters.get(record_id), letters.originals(record_id)[0]["entity_id"]) == (None, "part-7")
    stats = pipeline.stats()
    assert (stats.submitted, stats.succeeded, stats.failed) == (1, 1, 0)


def test_what_is_read_back_shows_the_correction_and_every_field(pipeline: AuditPipeline, database: Path) -> None:
    record_id = park(pipeline, new_values={"qty": 1}, outcome="failure")
    pipeline.dead_letters().edit(record_id, {"entity_id": PART}, "a name", by="eve")
    assert pipeline.dead_letters().retry() == 1
    (row,) = rows(database)
    fields = pipeline.primary.mapping.fields_of(row)
    assert (fields["outcome"], fields["new_values"]["qty"]) == ("failure", 1)
    assert fields["new_values"]["_audit"]["corrected"][0]["by"] == "eve"


def test_nobody_can_forge_a_correction(pipeline: AuditPipeline, database: Path) -> None:
    forged = {"_audit": {"corrected": [{"by": "eve"}]}}
    audit_event("approve", **RIGHT, new_values=forged).result(30)
    assert json.loads(rows(database)[0]["new_values"]) == {"value": forged, "_audit": {}}


def test_tenant_actor_and_time_are_changed_only_with_force(pipeline: AuditPipeline, database: Path) -> None:
    record_id = park(pipeline, entity_id=PART, yacht_id="no uuid")
    letters = pipeline.dead_letters()
    with pytest.raises(AuditEventError, match="yacht_id: is changed only with force"):
        letters.edit(record_id, {"tenant_id": YACHT, "timestamp": "2026-01-01T00:00:00Z"}, "why")
    with pytest.raises(AuditEventError, match="yacht_id: must be a UUID"):
        letters.edit(record_id, {"action": "other"}, "why")
    letters.edit(record_id, {"tenant_id": YACHT, "timestamp": "2026-01-01T00:00:00Z"}, "why", force=True)
    assert letters.retry() == 1
    (row,) = rows(database)
    assert row["yacht_id"] == YACHT
    assert row["created_at"].startswith("2026-01-01")


def test_an_edit_is_checked(pipeline: AuditPipeline) -> None:
    record_id = park(pipeline)
    letters = pipeline.dead_letters()
    with pytest.raises(AuditEventError, match="entity_id: must be a UUID"):
        letters.edit(record_id, {"entity_id": "part-8"}, "why")
    with pytest.raises(AuditEventError, match="record_id: stays as it is"):
        letters.edit(record_id, {"record_id": PART}, "why")
    with pytest.raises(ValueError, match="reason"):
        letters.edit(record_id, {"entity_id": PART}, " ")
    with pytest.raises(LookupError):
        letters.edit("none", {"entity_id": PART}, "why")
    (letter,) = letters
    assert letter.kind == "invalid"


def test_an_event_for_an_unknown_destination_lands_in_no_other(pipeline: AuditPipeline) -> None:
    record_id = park(pipeline, database="acme")
    (letter,) = pipeline.dead_letters()
    assert (letter.fields or {})["database"] == "acme"
    with pytest.raises(AuditEventError, match="database: was given for another destination"):
        pipeline.dead_letters().edit(record_id, {"entity_id": PART}, "why")


def test_nobody_stays_nobody_when_it_is_corrected(pipeline: AuditPipeline, database: Path) -> None:
    with audit_context(user_id=USER):
        record_id = park(pipeline, user_id=NOBODY)
    pipeline.dead_letters().edit(record_id, {"entity_id": PART}, "why")
    assert pipeline.dead_letters().retry() == 1
    assert rows(database)[0]["created_by"] is None


def test_the_command_corrects_and_retries(pipeline: AuditPipeline, database: Path) -> None:
    record_id = park(pipeline)

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        full = [sys.executable, "-m", "otel_audit_exporter.cli", "dead-letters", *words]
        there = {"OTEL_AUDIT_EXPORTER": "sqlite", "OTEL_AUDIT_SQLITE_PATH": os.fspath(database)}
        return subprocess.run(full, capture_output=True, text=True, check=False, env=os.environ | there)

    done = command("retry")
    assert (done.returncode, "1 passed over" in done.stderr) == (1, True)
    done = command("edit", record_id, "--set", "entity_id=part-9", "--reason", "a name")
    assert (done.returncode, "entity_id: must be a UUID" in done.stderr) == (1, True)
    done = command("edit", record_id, "--set", "user_id=", "--reason", "a name")
    assert "is changed only with force" in done.stderr
    assert command("edit", record_id, "--set", f"entity_id={PART}", "--reason", "a name").returncode == 0
    assert command("retry", record_id).returncode == 0
    assert rows(database)[0]["entity_id"] == PART
