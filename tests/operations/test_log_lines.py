"""The log: one line per change, never one per event, and nothing of an event's content."""

from __future__ import annotations

import ast
import itertools
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import otel_audit_exporter
from otel_audit_exporter import (
    AuditError,
    OutboxFullError,
    audit_event,
    audited,
    compat,
    flush_audit,
    shutdown_audit,
)
from otel_audit_exporter.observability.delivery_log import DeliveryLog
from otel_audit_exporter.runtime.log import RateLimitedLogger
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from tests.operations.conftest import Configure
from tests.operations.stubs import AWAY, BAD_ROW, MISCONFIGURED, StubExporter, emit
from tests.stack.waiting import wait_until

PACKAGE = Path(otel_audit_exporter.__file__).parent
DENIED = SinkError(Verdict(Fault.TRANSIENT), "the gateway is busy", status=503)
GONE = SinkError(Verdict(Fault.TRANSIENT), "no answer in time", code="ReadTimeout")
TOO_LONG = SinkError(Verdict(Fault.RECORD, park_at_once=True), "a value is too long", code="22001")
SECRET = "s3cr3t-value-of-an-event"
FAILURES = {"away": (AWAY, 20_000), "misconfigured": (MISCONFIGURED, 20_000), "refusing": (BAD_ROW, 100_000)}


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("otel_audit_exporter")]


def without_health(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines but those of the health, which is told when the library next looks at it."""
    return [line for line in lines(caplog) if not line.startswith("audit: health")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("failure", FAILURES)
def test_many_failing_events_give_fewer_than_twenty_lines(
    configured: Configure, stub: StubExporter, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    """Up to a hundred thousand events."""
    caplog.set_level(logging.INFO)
    pipeline = configured()
    error, count = FAILURES[failure]
    stub.sink.fail(error)
    for _ in range(count // 10_000):
        emit(10_000, new_values={"note": SECRET})
    wait_until(lambda: pipeline.health().level == "critical", "the failure is told", 60)
    shutdown_audit(1000)
    assert pipeline.stats().submitted == count
    assert pipeline.stats().succeeded == 0
    assert 1 < len(lines(caplog)) < 20
    assert not any(SECRET in line for line in lines(caplog))


FLAKY: dict[str, tuple[SinkError | None, ...]] = {
    "every second write": (AWAY, None),
    "every second write, for one and another cause": (AWAY, None, DENIED, None),
    "for one and another cause": (AWAY, DENIED, GONE),
}


@pytest.mark.parametrize("flaky", FLAKY)
def test_a_sink_that_fails_now_and_then_gives_few_lines(
    configured: Configure, stub: StubExporter, caplog: pytest.LogCaptureFixture, flaky: str
) -> None:
    """Fewer than twenty lines for a hundred events."""
    caplog.set_level(logging.INFO)
    pipeline = configured()
    turns = itertools.cycle(FLAKY[flaky])

    def fail_in_turns(rows: object) -> None:
        error = next(turns)
        if error is not None:
            raise error

    stub.sink.behaviour = fail_in_turns
    channel = pipeline.exporters[0].channel
    for _ in range(100):
        emit(1)
        channel.completions.wait_for_attempt(
            time.monotonic() + 30, pipeline.primary.relay.deliver_now, lambda: channel.counters.pending == 0
        )
    assert 3 < len(lines(caplog)) < 20


def test_rows_refused_for_two_causes_give_one_line_for_each(
    configured: Configure, stub: StubExporter, caplog: pytest.LogCaptureFixture
) -> None:
    configured()
    emit(1)
    assert flush_audit()
    for turn in range(20):
        stub.sink.fail(BAD_ROW if turn % 2 else TOO_LONG)
        emit(1)
        assert flush_audit()
    parked = [line for line in lines(caplog) if "parked in the dead letters: " in line and "health" not in line]
    assert [line.partition("dead letters: ")[2].partition(".")[0] for line in parked] == [str(TOO_LONG), str(BAD_ROW)]


def test_the_end_of_each_repeated_failure_is_reported(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    now = 1000.0
    monkeypatch.setattr("otel_audit_exporter.observability.delivery_log.Clock.monotonic", lambda: now)
    delivery_log = DeliveryLog("stub")
    for _ in range(50):
        delivery_log.failing(AWAY, 1, None)
        delivery_log.delivering()
    told = [line.partition(":")[2][:6] for line in lines(caplog)]
    assert told == [" 1 eve", " deliv"] * 5
    caplog.clear()
    delivery_log.failing(AWAY, 1, None)
    assert not lines(caplog)
    now += 61.0
    delivery_log.failing(AWAY, 7, None)  # it still fails: that is told now
    assert ["7 event(s) wait" in line for line in lines(caplog)] == [True]


def test_event_names_cannot_fill_the_log_or_fake_a_line(
    configured: Configure, stub: StubExporter, caplog: pytest.LogCaptureFixture
) -> None:
    configured()
    stub.sink.fail(MISCONFIGURED)
    emit(1, action="a" * 50_000, entity_type="part\n2026-01-01 ERROR everything is lost")
    wait_until(lambda: any("wait" in line for line in lines(caplog)), "it is told")
    (line,) = [line for line in lines(caplog) if "wait" in line]
    assert len(line) < 1000
    assert "\n" not in line


@pytest.mark.parametrize("policy", ["raise", "log"])
def test_events_that_a_full_outbox_refuses_give_one_line(caplog: pytest.LogCaptureFixture, policy: str) -> None:
    stub = StubExporter(ids="text", outbox_max_bytes=2**20)
    pipeline = otel_audit_exporter.configure_audit(stub, on_outbox_error=policy)
    stub.sink.fail(AWAY)
    refused = 0
    while refused < 1000 and pipeline.stats().rejected < 1000:
        try:
            emit(10, new_values={"text": "x" * 20_000})
        except OutboxFullError:
            refused += 1
    lost = [line for line in lines(caplog) if "an event is lost" in line]
    assert len(lost) == 1
    assert "What to do: see `otel-audit status`" in lost[0]
    assert re.search(r"It was: update_part part part-\d$", lost[0])
    assert pipeline.health().level == "critical"


def wrong_payload() -> None:
    compat.write_audit_log_async(None, {"action": "update_part", "new_values": {"note": SECRET}})


@audited("approve", entity_type="part", entity_id=lambda: None)
def fails() -> None:
    raise RuntimeError(SECRET)


def fails_unrecorded() -> None:
    with pytest.raises(RuntimeError):
        fails()


def wrong_again() -> None:
    with pytest.raises(AuditError):
        audit_event("update_part", entity_type="", entity_id=1, yacht_id=1, user_id=1, new_values={"note": SECRET})


@pytest.mark.parametrize(
    ("mistake", "most"), [(wrong_payload, 1), (fails_unrecorded, 1), (wrong_again, 1)], ids=lambda one: str(one)[:25]
)
def test_the_same_mistake_in_every_call_gives_one_line(
    configured: Configure, caplog: pytest.LogCaptureFixture, mistake: Callable[[], None], most: int
) -> None:
    configured()
    for _ in range(500):
        mistake()
    assert flush_audit(30_000)
    assert len(without_health(caplog)) == most
    assert not any(SECRET in line for line in lines(caplog))


def test_another_mistake_is_reported_at_once(configured: Configure, caplog: pytest.LogCaptureFixture) -> None:
    configured()
    compat.write_audit_log_async(None, {"action": "update_part"})
    compat.write_audit_log_async(None, {"entity_type": "part"})
    wait_until(lambda: len(without_health(caplog)) == 2, "both are told")


def test_repeats_are_counted_and_reported_with_the_next_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("otel_audit_exporter.observability.delivery_log.Clock.monotonic", lambda: now)
    repeats = RateLimitedLogger(quiet_seconds=60.0)
    for _ in range(5):
        repeats.say(logging.ERROR, "cause", "lost %s", "one")
    now += 61.0
    repeats.say(logging.ERROR, "cause", "lost %s", "one")
    assert lines(caplog) == ["lost one", "lost one (and 4 more of the kind before)"]


def test_every_line_goes_to_the_library_s_own_logger() -> None:
    named = {
        node.args[0].value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "getLogger"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    assert named == {"otel_audit_exporter"}


def test_only_debug_lines_have_the_words_of_foreign_exceptions() -> None:
    """A traceback has an exception's own words, and those may hold values."""
    calls = [
        f"{path.name}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr == "exception" or any(keyword.arg == "exc_info" for keyword in node.keywords))
        and node.func.attr != "debug"
        and path.name != "health_monitor.py"  # the application's own callback: an event's values are not in its hands
    ]
    assert calls == []
