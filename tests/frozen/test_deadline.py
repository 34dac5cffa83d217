"""What becomes of an answer, and of its events, where the sink does not take them in time."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from otel_audit_exporter import AuditDeliveryError, AuditPipeline, audit_event, configure_audit, flush_audit
from otel_audit_exporter.cli.json_lines import parse_arguments
from otel_audit_exporter.integrations.aws_lambda import audit_lambda
from otel_audit_exporter.sinks.memory import MemorySink
from tests.frozen.held_sink import HeldSink
from tests.support.events import arguments

SECRET = "no one's business"


@audit_lambda
def handler(event: Any, context: Any) -> list[str]:
    return [audit_event(**arguments(**said)).record_id for said in event]


def configured(sink: MemorySink, past_deadline: str, **settings: Any) -> AuditPipeline:
    return configure_audit(
        sink, **{"profile": "ephemeral", "past_deadline": past_deadline, "response_deadline_millis": 60_000, **settings}
    )


def test_the_events_of_one_request_are_delivered_together() -> None:
    sink = HeldSink()
    configured(sink, "raise", schedule_delay_millis=60_000)
    ids = handler([{}] * 30, None)
    assert sorted(sink.ids) == sorted(ids)
    assert sink.requests == [30]


def test_the_profile_keeps_the_outbox_in_memory_by_default(tmp_path: Any) -> None:
    assert configure_audit("sqlite", path=str(tmp_path / "a.db"), profile="ephemeral").settings.outbox == "memory"


def test_a_hanging_sink_delays_the_response_to_the_deadline_at_most(caplog: pytest.LogCaptureFixture) -> None:
    sink = HeldSink(is_open=False)
    pipeline = configured(sink, "log", response_deadline_millis=50)
    (record_id,) = handler([{"new_values": {"note": SECRET}}], None)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert record_id in line
    assert "create_receiving receiving" in line
    assert SECRET not in caplog.text
    assert (pipeline.stats().late, pipeline.stats().pending) == (1, 1)
    sink.open.set()
    assert flush_audit(30_000)
    assert sink.ids == [record_id]


def test_the_request_fails_where_late_audits_must_not_be() -> None:
    sink = HeldSink(is_open=False)
    configured(sink, "raise", response_deadline_millis=50)
    with pytest.raises(AuditDeliveryError, match="deadline") as caught:
        handler([{}], None)
    assert caught.value.state == "pending"
    sink.open.set()


def test_a_late_event_is_printed_whole_and_comes_in_again_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = HeldSink(is_open=False)
    pipeline = configured(sink, "stdout", response_deadline_millis=50, surroundings="all")
    said = {"new_values": {"note": "Ø €😀\n", "password": SECRET}, "metadata": {"n": 2**70}, "outcome": "failure"}
    request = {"requestId": "r-1", "http": {"sourceIp": "10.1.2.3", "userAgent": "curl"}}

    @audit_lambda
    def one(event: Any, context: Any) -> str:
        return audit_event(**arguments(**said)).record_id

    record_id = one({"requestContext": request}, None)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isascii()
    assert SECRET not in line
    assert json.loads(line)["record_id"] == record_id
    again = parse_arguments(line.encode())
    sink.open.set()
    assert flush_audit(30_000)
    pipeline.submit(again)
    assert flush_audit(30_000)
    (row,) = sink.rows
    assert row["id"] == record_id
    other = HeldSink()
    pipeline.shutdown()
    configure_audit(other, outbox="memory", surroundings="all").submit(again)
    assert flush_audit(30_000)
    assert other.rows == [row]


def test_an_event_refused_by_the_table_is_reported_like_late_ones(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = configured(HeldSink(), "raise", response_deadline_millis=30_000)
    handler([{}], None)
    with pytest.raises(AuditDeliveryError, match="refused"):
        handler([{"action": "bad"}], None)
    assert (pipeline.stats().late, pipeline.stats().failed) == (0, 1)


def test_every_sink_is_waited_for() -> None:
    class Second(HeldSink):
        name = "second"

    first, second = HeldSink(), Second(is_open=False)
    pipeline = configure_audit([first, second], profile="ephemeral", response_deadline_millis=50)
    handler([{}], None)
    assert (pipeline.stats().sinks["memory"].late, pipeline.stats().sinks["second"].late) == (0, 1)
    second.open.set()


def test_in_the_profile_server_nothing_is_waited_for() -> None:
    sink = HeldSink(is_open=False)
    pipeline = configure_audit(sink, outbox="memory", response_deadline_millis=0)
    handler([{}], None)
    assert pipeline.stats().late == 0
    sink.open.set()


@pytest.mark.parametrize("variable", ["AWS_LAMBDA_FUNCTION_NAME", "K_SERVICE", "CLOUD_RUN_JOB"])
def test_a_platform_that_freezes_processes_is_warned_of_once(
    variable: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "shop")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.delenv("OTEL_AUDIT_OUTBOX_DIR", raising=False)
    configure_audit(MemorySink(), outbox="memory").shutdown()
    warnings = [
        record.getMessage() for record in caplog.records if "OTEL_AUDIT_PROFILE=ephemeral" in record.getMessage()
    ]
    assert len(warnings) == 1


@pytest.mark.parametrize("settings", [{"profile": "ephemeral"}, {"profile": "server"}, {"outbox_dir": "kept"}])
def test_an_explicit_choice_of_durability_gives_no_warning(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K_SERVICE", "shop")
    configure_audit(MemorySink(), **{"outbox": "memory", **settings}).shutdown()
    assert "OTEL_AUDIT_PROFILE" not in caplog.text
