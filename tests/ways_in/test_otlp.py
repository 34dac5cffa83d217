"""What a receiver of OTLP may answer, and what becomes of the events then."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

from otel_audit_exporter import (
    AuditConfigurationError,
    AuditDeliveryError,
    AuditPipeline,
    audit_event,
    configure_audit,
    flush_audit,
    get_audit_stats,
    shutdown_audit,
)
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.otlp_receiver import Received, Receiver


@pytest.fixture
def pipeline(receiver: Receiver) -> AuditPipeline:
    return configure_audit("otlp", endpoint=receiver.endpoint, schedule_delay_millis=10)


def refusing(status: int, action: str) -> Callable[[list[Received]], int]:
    def judge(records: list[Received]) -> int:
        return status if any(record.attributes["audit.action"] == action for record in records) else 200

    return judge


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_event_that_is_refused_is_parked_and_the_others_arrive(
    status: int, receiver: Receiver, pipeline: AuditPipeline
) -> None:
    receiver.judge = refusing(status, "bad")
    # Larger than the others: a 413 alone says nothing against one that fits.
    bad = audit_event(**arguments(action="bad", new_values={"text": "x" * 200_000}))
    # Only what the receiver takes after its refusal proves that it is the event's own fault.
    wait_until(lambda: get_audit_stats().last_error is not None, "the refusal is noted")
    good = [audit_event(**arguments()).record_id for _ in range(60)]
    assert flush_audit(60_000)
    assert receiver.ids == set(good)
    (letter,) = pipeline.dead_letters()
    assert letter.record_id == bad.record_id
    assert f"HTTP {status}" in letter.error
    stats = get_audit_stats()
    assert (stats.succeeded, stats.failed, stats.pending) == (60, 1, 0)


def test_requests_that_are_too_large_are_made_smaller(receiver: Receiver, pipeline: AuditPipeline) -> None:
    receiver.judge = lambda records: 413 if len(records) > 3 else 200
    said = {audit_event(**arguments()).record_id for _ in range(50)}
    assert flush_audit(60_000)
    assert receiver.ids == said
    assert get_audit_stats().failed == 0


@pytest.mark.parametrize(
    ("status", "headers", "remedy"),
    [
        (401, {}, "OTEL_EXPORTER_OTLP_HEADERS"),
        (403, {}, "OTEL_EXPORTER_OTLP_HEADERS"),
        (404, {}, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"),
        (301, {"location": "http://127.0.0.1:9/"}, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"),
        (302, {"location": "http://127.0.0.1:9/"}, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"),
        (200, {"content-type": "text/html"}, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"),
    ],
)
def test_a_wrong_key_or_address_holds_everything_until_it_is_fixed(
    status: int,
    headers: dict[str, str],
    remedy: str,
    receiver: Receiver,
    pipeline: AuditPipeline,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says what to fix."""
    usual = receiver.headers
    receiver.judge, receiver.headers = lambda records: status, headers
    receipts = [audit_event(**arguments()) for _ in range(5)]
    wait_until(lambda: get_audit_stats().held == 5, "all is held")
    assert remedy in caplog.text
    with pytest.raises(AuditDeliveryError):
        receipts[0].result(0.1)
    receiver.judge, receiver.headers = lambda records: 200, usual
    assert flush_audit(60_000)
    assert receiver.ids >= {receipt.record_id for receipt in receipts}
    assert get_audit_stats().failed == 0


def test_what_a_receiver_says_it_rejected_is_not_taken_for_stored(receiver: Receiver, pipeline: AuditPipeline) -> None:
    first = audit_event(**arguments())
    first.result(60)
    receiver.rejected = 1
    second = audit_event(**arguments())
    wait_until(lambda: get_audit_stats().held == 1, "the rejected one waits for a proof that it is at fault")
    receiver.rejected = 0
    assert flush_audit(60_000)
    assert second.record_id in receiver.ids


def test_an_answer_without_a_word_is_a_success(receiver: Receiver, pipeline: AuditPipeline) -> None:
    receiver.headers = {}
    said = audit_event(**arguments()).result(60)
    assert receiver.ids == {said.record_id}


def test_a_key_in_the_address_appears_in_no_log_or_path(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It appears in no name either."""
    caplog.set_level(logging.DEBUG, "otel_audit_exporter")
    address = receiver.endpoint.replace("//", "//user:S3CRET@") + "?key=S3CRET"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", address)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=S3CRET")
    receiver.stop()
    pipeline = configure_audit("otlp")
    audit_event(**arguments())
    wait_until(lambda: get_audit_stats().last_error is not None, "an attempt has failed")
    (exporter,) = pipeline.exporters
    said = [caplog.text, pipeline.target, repr(pipeline.settings), repr(exporter), repr(exporter.channel.sink)]
    said += [str(get_audit_stats()), *(os.fspath(path) for path in (tmp_path / "outbox").rglob("*"))]
    said += [path.read_text() for path in (tmp_path / "outbox").rglob("destination.json")]
    assert not [text for text in said if "S3CRET" in text]
    assert receiver.endpoint in caplog.text
    receiver.start()
    assert flush_audit(60_000)
    with pytest.raises(AuditConfigurationError) as caught:
        configure_audit("otlp", endpoint=address)
    assert "S3CRET" not in str(caught.value)


def test_a_key_in_a_third_party_exporters_address_is_never_shown() -> None:
    theirs = OTLPLogExporter(endpoint="http://user:S3CRET@127.0.0.1:9/v1/logs?key=S3CRET")
    pipeline = configure_audit(theirs)
    assert pipeline.target == "http://127.0.0.1:9/v1/logs"
    assert "S3CRET" not in str(pipeline.exporters[0].channel.logs.directory)
    shutdown_audit(0)


@pytest.mark.parametrize("endpoint", ["collector:4317", "grpc://collector:4317"])
def test_a_grpc_endpoint_is_refused_only_by_the_otlp_exporter(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", endpoint)
    with pytest.raises(AuditConfigurationError, match="OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"):
        configure_audit("otlp")
    configure_audit("sqlite")
    audit_event(**arguments()).result(60)


def test_a_refusing_receiver_is_asked_again_after_the_time_it_names(
    receiver: Receiver, pipeline: AuditPipeline
) -> None:
    receiver.headers = {"retry-after": "1"}
    receiver.answer_next(429, 503)
    audit_event(**arguments()).result(60)
    assert receiver.refusals == 2
