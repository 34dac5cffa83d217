"""A lost event is seen: in the figures, the health, the log, over HTTP and in the command, until somebody has."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter import (
    AuditConfigurationError,
    AuditEventError,
    OutboxFullError,
    audit_event,
    compat,
    flush_audit,
    get_audit_stats,
)
from otel_audit_exporter.observability.causes import Cause
from otel_audit_exporter.observability.health import AuditHealth, HealthThresholds, Waiting, judge
from otel_audit_exporter.observability.losses import LossLedger, RecentLosses
from otel_audit_exporter.operations.handler import OperationsHandler, OperationsRequest
from otel_audit_exporter.outbox.dead_letter_store import MemoryDeadLetters
from otel_audit_exporter.outbox.loss_file import LossFile, MemoryLosses
from otel_audit_exporter.outbox.loss_records import FILE_BYTES, Loss, LossRecords
from otel_audit_exporter.pipeline.configure import configure_audit
from tests.operations.conftest import Configure
from tests.operations.stubs import AWAY, BAD_ROW, MISCONFIGURED, StubExporter, emit
from tests.stack.waiting import wait_until

WRONG = Cause("the id is wrong", "correct the call")


def reject(count: int = 1) -> None:
    for _ in range(count):
        with pytest.raises(AuditEventError):
            audit_event("approve", entity_type="part", entity_id="", yacht_id="y", user_id="u")


def ask(path: str, method: str = "GET", **more: Any) -> tuple[int, Any]:
    path, _, query = path.partition("?")
    given = dict(pair.split("=", 1) for pair in query.split("&")) if query else {}
    answer = OperationsHandler(guarded=True).answer(OperationsRequest(method, path, query=given, **more))
    return answer.status, json.loads(answer.body)


def test_rejected_events_are_in_rate_health_and_log(configured: Configure, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = configured()
    emit(5)
    assert flush_audit()
    reject(101)
    stats, health = get_audit_stats(), pipeline.health()
    assert (stats.submitted, stats.rejected, round(stats.success_rate, 2)) == (5, 101, 4.72)
    assert (health.level, health.rejected, health.accepting) == ("critical", 101, True)
    (reason,) = [one for one in health.reasons if "rejected" in one]
    assert "entity_id: is empty. What to do: correct the call" in reason
    (line,) = [one.getMessage() for one in caplog.records if "is rejected" in one.getMessage()]
    assert line.endswith("It was: approve part ")


def test_compat_counts_what_is_wrong_as_submitted_and_failed(configured: Configure) -> None:
    configured()
    emit(5)
    assert flush_audit()
    for _ in range(101):
        compat.write_audit_log_async(None, {"action": "approve", "entity_type": "part"})
    assert flush_audit()
    stats = compat.get_audit_stats()
    assert (stats["submitted"], stats["failed"], stats["success_rate"]) == (106, 101, "4.7%")


def test_a_rate_is_not_rounded_up_to_all(configured: Configure) -> None:
    configured()
    emit(2000)
    assert flush_audit()
    reject()
    assert compat.get_audit_stats()["success_rate"] == "99.9%"


@pytest.mark.parametrize(
    ("hours", "level"), [(0.0, "critical"), (0.9, "critical"), (1.1, "warning"), (23.0, "warning")]
)
def test_a_loss_is_critical_for_an_hour_and_then_a_warning(hours: float, level: str) -> None:
    losses = RecentLosses(rejected=5, succeeded=95, newest_seconds=hours * 3600, causes=(("rejected", WRONG),))
    assert judge(AuditHealth(), HealthThresholds(), losses, Waiting(), accepting=True).level == level


def test_a_loss_is_forgotten_after_a_day() -> None:
    now = [1_000_000.0]
    ledger = LossLedger(MemoryLosses(), MemoryDeadLetters(), clock=lambda: now[0])
    ledger.note("rejected", WRONG, "approve part 1")
    now[0] += 86_399
    assert ledger.recent(0).rejected == 1
    now[0] += 2
    assert ledger.recent(0) == RecentLosses()


def test_acknowledged_losses_are_trouble_no_more(configured: Configure, stub: StubExporter) -> None:
    pipeline = configured()
    emit(1)
    assert flush_audit()
    stub.sink.fail(BAD_ROW, containing=b"refuse me")
    emit(2, action="refuse me")
    assert flush_audit()
    reject(3)
    assert (pipeline.health().level, pipeline.health().failed) == ("critical", 2)
    with pytest.raises(ValueError, match="reason"):
        pipeline.acknowledge_losses(" ")
    assert pipeline.acknowledge_losses("a bad deploy, rolled back") == 5
    health = pipeline.health()
    assert (health.level, health.failed, health.rejected, health.parked, health.success_rate) == ("good", 0, 0, 2, 100)
    assert (pipeline.stats().failed, pipeline.stats().rejected) == (2, 3)
    assert pipeline.losses().acknowledgements[-1].reason == "a bad deploy, rolled back"
    reject()
    assert pipeline.health().rejected == 1


COMMAND = [sys.executable, "-m", "otel_audit_exporter.cli", "losses"]
REJECTS = """
from contextlib import suppress
from otel_audit_exporter import audit_event, configure_audit
configure_audit("sqlite")
with suppress(ValueError):
    audit_event("approve", entity_type="part", entity_id="no uuid", yacht_id="y", user_id="u")
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_losses_of_another_process_are_seen_and_acknowledged() -> None:
    run(sys.executable, "-c", REJECTS)
    with configure_audit("sqlite") as pipeline:
        assert (pipeline.health().rejected, pipeline.stats().rejected) == (1, 0)
        shown = run(*COMMAND)
        assert "entity_id: must be a UUID" in shown.stdout
        assert "correct the call" in shown.stdout
        assert "approve part no uuid" in shown.stdout
        done = run(*COMMAND, "acknowledge", "--reason", "seen")
        assert "1 event acknowledged" in done.stderr
        assert pipeline.health().rejected == 0
    assert "acknowledged" in run(*COMMAND).stderr


def test_a_loss_is_written_to_a_file_made_beforehand(configured: Configure, tmp_path: Path) -> None:
    configured()
    (file,) = (tmp_path / "outbox").glob("*/losses")
    assert (file.stat().st_size, file.stat().st_blocks > 0) == (FILE_BYTES, True)
    before = file.stat().st_ino
    reject()
    assert (file.stat().st_size, file.stat().st_ino) == (FILE_BYTES, before)
    assert LossFile(file.parent).read().count("rejected") == 1


def test_more_causes_than_fit_are_counted_together() -> None:
    many = [Loss("rejected", f"cause {n} " + "x" * 300, "r" * 300, "e" * 300, 2, 1.0, 1.0) for n in range(100)]
    written = LossRecords().added(many, 1.0).to_bytes()
    assert len(written) == FILE_BYTES
    assert LossRecords.from_bytes(written).count("rejected") == 200


def test_damaged_records_are_no_reason_to_fail(configured: Configure, tmp_path: Path) -> None:
    pipeline = configured()
    (file,) = (tmp_path / "outbox").glob("*/losses")
    file.write_bytes(b"nonsense" * 512)
    assert pipeline.health().level == "good"
    reject()
    assert pipeline.health().rejected == 1


def test_records_held_by_somebody_else_are_written_later(configured: Configure, tmp_path: Path) -> None:
    import portalocker

    pipeline = configured()
    (file,) = (tmp_path / "outbox").glob("*/losses")
    with open(file, "rb+") as held:
        portalocker.lock(held, portalocker.LockFlags.EXCLUSIVE)
        reject(2)
        assert pipeline.health().rejected == 2
        assert LossFile(file.parent).read().losses == ()
    wait_until(lambda: LossFile(file.parent).read().count("rejected") == 2, "they are written")


def test_a_forked_child_does_not_write_its_parents_losses(configured: Configure, tmp_path: Path) -> None:
    pipeline = configured()
    reject()
    child = os.fork()
    if child == 0:
        pipeline.health()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert pipeline.losses().count("rejected") == 1


def test_health_is_503_only_while_events_cannot_be_accepted(configured: Configure) -> None:
    configured()
    reject()
    assert (ask("/health")[0], ask("/health?strict=1")[0]) == (200, 503)
    assert ask("/health")[1]["rejected"] == 1


def test_a_full_outbox_is_503_until_it_takes_events_again() -> None:
    stub = StubExporter(ids="text", outbox="memory", outbox_max_bytes=2**20)
    configure_audit(stub)
    stub.sink.fail(AWAY)
    with pytest.raises(OutboxFullError):
        emit(1000, new_values={"text": "x" * 20_000})
    status, health = ask("/health")
    assert (status, health["accepting"], health["level"]) == (503, False, "critical")
    stub.sink.heal()
    assert flush_audit(60_000)
    status, health = ask("/health")
    assert (status, health["accepting"], health["rejected"]) == (200, True, 1)
    assert "What to do: see `otel-audit status`" in str(health["reasons"])


def test_held_events_name_their_cause_and_remedy(configured: Configure, stub: StubExporter) -> None:
    pipeline = configured()
    stub.sink.fail(MISCONFIGURED)
    emit(1)
    wait_until(lambda: pipeline.health().held == 1, "it is held")
    assert "1 event held: the key is wrong (HTTP 401). What to do: correct the key" in pipeline.health().reasons


def test_losses_over_http_are_shown_and_acknowledged(configured: Configure) -> None:
    configured()
    reject()
    status, document = ask("/losses")
    assert (status, document["losses"][0]["count"], document["losses"][0]["remedy"]) == (200, 1, "correct the call")
    assert ask("/losses/acknowledge", "POST")[0] == 400
    assert ask("/losses/acknowledge", "POST", form={"reason": "seen"}) == (200, {"acknowledged": 1})
    assert ask("/losses")[1]["losses"] == []
    assert ask("/losses/acknowledge")[0] == 405


# --- the log --------------------------------------------------------------------------------------------------------


def test_where_compat_is_used_failures_begin_as_before(
    configured: Configure, stub: StubExporter, caplog: pytest.LogCaptureFixture
) -> None:
    configured()
    compat.write_audit_log_async(None, {"action": "approve"})
    wait_until(lambda: "parked in the dead letters" in caplog.text, "it is parked")
    stub.sink.fail(MISCONFIGURED)
    emit(1)
    wait_until(lambda: "wait: the key is wrong" in caplog.text, "it is held")
    said = [
        one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR and "health" not in one.getMessage()
    ]
    assert len(said) == 2
    assert all(one.startswith("Audit log write failed: ") for one in said)


@pytest.mark.parametrize("how", ["dictConfig", "fileConfig", "attribute"])
def test_a_lost_event_is_logged_though_loggers_were_disabled(how: str) -> None:
    program = f"""
import io, logging, logging.config, configparser
from contextlib import suppress
from otel_audit_exporter import audit_event, configure_audit
configure_audit("sqlite")
if {how!r} == "dictConfig":
    logging.config.dictConfig({{"version": 1}})
elif {how!r} == "fileConfig":
    logging.config.fileConfig(io.StringIO(
        "[loggers]\\nkeys=root\\n[handlers]\\nkeys=\\n[formatters]\\nkeys=\\n[logger_root]\\nlevel=WARNING\\nhandlers="
    ))
else:
    logging.getLogger("otel_audit_exporter").disabled = True
with suppress(ValueError):
    audit_event("approve", entity_type="part", entity_id="no uuid", yacht_id="y", user_id="u")
"""
    assert run(sys.executable, "-c", program).stderr.count("an event is rejected") == 1


# --- the pages ------------------------------------------------------------------------------------------------------


def test_dead_letters_come_page_by_page(configured: Configure, stub: StubExporter) -> None:
    configured()
    ids = park(stub, 25)
    seen, after = [], ""
    while True:
        status, page = ask(f"/dead-letters?limit=10&after={after}")
        assert status == 200
        seen += [letter["record_id"] for letter in page["dead_letters"]]
        after = page["next"]
        if after is None:
            break
    assert sorted(seen) == sorted(ids)


def park(stub: StubExporter, count: int) -> list[str]:
    """Have so many events parked without a refusal each, which would take long; return their ids."""
    emit(1)
    assert flush_audit()
    said = {"action": "refuse me", "entity_type": "part", "yacht_id": "y", "user_id": "u"}
    events = [stub.rules.compose({**said, "entity_id": f"part-{n}"}) for n in range(count)]
    for event in events:
        stub.channel.parking.park_unsent(event.body, BAD_ROW)
    return [event.record_id for event in events]


@pytest.mark.parametrize("query", ["limit=" + "9" * 5000, "limit=-1", "limit=many", "after=nonsense"])
def test_a_query_that_makes_no_sense_is_400(configured: Configure, query: str) -> None:
    configured()
    assert ask(f"/dead-letters?{query}")[0] == 400


def test_an_origin_that_is_none_is_403(configured: Configure) -> None:
    configured()
    assert ask("/dead-letters/retry", "POST", headers={"origin": "http://[", "host": "a"})[0] == 403


def test_an_empty_token_beside_another_guard_is_refused() -> None:
    with pytest.raises(AuditConfigurationError, match="token: is empty"):
        OperationsHandler(token="", guarded=True)


@pytest.mark.timeout(300)
def test_all_dead_letters_are_retried_in_few_requests(configured: Configure, stub: StubExporter) -> None:
    pipeline = configured()
    park(stub, 1200)
    requests = 0

    def count(rows: Any) -> None:
        nonlocal requests
        requests += 1

    stub.sink.behaviour = count
    assert ask("/dead-letters/retry", "POST") == (200, {"stored": 1200, "left": 0, "through": True})
    assert requests <= 5
    stats = pipeline.stats()
    assert (stats.succeeded, stats.failed, stats.submitted) == (1201, 0, 1201)


def test_what_is_refused_again_stays_while_the_others_land(configured: Configure, stub: StubExporter) -> None:
    pipeline = configured()
    ids = park(stub, 20)
    stub.sink.fail(BAD_ROW, containing=ids[7].encode())
    assert pipeline.dead_letters().retry() == 19
    (left,) = pipeline.dead_letters()
    assert (left.record_id, left.attempts) == (ids[7], 2)


def test_an_unreadable_dead_letter_is_shown_as_that(configured: Configure, stub: StubExporter) -> None:
    pipeline = configured()
    pipeline.primary.channel.parking.park_unsent(b"no event", BAD_ROW)
    _, page = ask("/dead-letters")
    assert (page["dead_letters"][0]["unreadable"], page["dead_letters"][0]["action"]) == (True, None)
    html = OperationsHandler(guarded=True).answer(OperationsRequest("GET", "/"))
    assert (html.status, b"(unreadable)" in html.body) == (200, True)


HIDDEN = "a\u202eb\x85c\u200bd\U000e0041e"


def test_what_cannot_be_seen_is_escaped_on_the_page(configured: Configure, stub: StubExporter) -> None:
    configured()
    emit(1)
    assert flush_audit()
    stub.sink.fail(BAD_ROW, containing=b"refuse me")
    emit(1, action="refuse me", entity_type=HIDDEN)
    assert flush_audit()
    html = OperationsHandler(guarded=True).answer(OperationsRequest("GET", "/")).body.decode()
    assert "a\\u202eb\\u0085c\\u200bd\\U000e0041e" in html
    assert not any(char in html for char in "\u202e\x85\u200b\U000e0041")


def test_the_page_shows_causes_and_every_process(configured: Configure, stub: StubExporter) -> None:
    configured()
    park(stub, 3)
    html = OperationsHandler(guarded=True).answer(OperationsRequest("GET", "/")).body.decode()
    assert "Retry all 3" in html
    assert f"<td>{os.getpid()}</td><td>live</td>" in html


def test_an_invalid_record_is_a_dead_letter_of_its_own_kind(tmp_path: Path) -> None:
    from opentelemetry._logs import LogRecord
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

    exporter = StubExporter(ids="uuid")
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    provider.get_logger("other").emit(LogRecord(attributes={"audit.action": "approve", "audit.target.id": "none"}))
    from otel_audit_exporter.delivery.dead_letters import DeadLetters

    (letter,) = DeadLetters(exporter.channel)
    assert (letter.kind, letter.row) == ("invalid", None)
    assert letter.fields is not None
    assert letter.fields["action"] == "approve"
    assert "entity_id" in (letter.reasons or {})
    exporter.shutdown()
