"""Any exporter of the SDK's interface, given to configure_audit."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource

from otel_audit_exporter import audit_event, configure_audit, flush_audit
from tests.support.events import USER, YACHT, arguments
from tests.support.otlp_receiver import Receiver

SUCCESS, FAILURE = LogRecordExportResult.SUCCESS, LogRecordExportResult.FAILURE
Answer = LogRecordExportResult | Exception


class Theirs(LogRecordExporter):
    """Answers as it was told, then SUCCESS; stands in export while it is not let go."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = deque(answers)
        self.exports = 0
        self.taken: list[str] = []
        self.shut_down = threading.Event()
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.let_go.set()

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        self.exports += 1
        self.entered.set()
        self.let_go.wait()
        answer = self.answers.popleft() if self.answers else SUCCESS
        if isinstance(answer, Exception):
            raise answer
        if answer is SUCCESS:
            self.taken += [str((one.log_record.attributes or {})["audit.record.id"]) for one in batch]
        return answer

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        return True

    def shutdown(self) -> None:
        self.shut_down.set()


@pytest.fixture
def hanging() -> Iterator[Theirs]:
    exporter = Theirs()
    exporter.let_go.clear()
    yield exporter
    exporter.let_go.set()


@pytest.mark.parametrize("mode", ["batch", "sync"])
@pytest.mark.parametrize(
    "answers",
    [(FAILURE, FAILURE, FAILURE), (RuntimeError("no"), OSError("gone"), FAILURE)],
    ids=["answers FAILURE", "raises"],
)
def test_an_exporter_that_fails_is_asked_again_until_it_succeeds(mode: str, answers: tuple[Answer, ...]) -> None:
    theirs = Theirs(*answers)
    pipeline = configure_audit(theirs, mode=mode, schedule_delay_millis=10)
    receipts = [audit_event(**arguments()) for _ in range(5)]
    assert all(receipt.result(90) for receipt in receipts)
    assert sorted(theirs.taken) == sorted(receipt.record_id for receipt in receipts)
    assert not theirs.answers
    stats = pipeline.stats()
    assert (stats.submitted, stats.succeeded, stats.failed, stats.pending) == (5, 5, 0, 0)
    assert list(stats.sinks) == ["Theirs"]
    assert stats.retried > 0
    assert stats.last_error


class Choosy(Theirs):
    """Takes no batch that is too long, or has an event in it that it cannot take."""

    longest = 1000
    bad: frozenset[str] = frozenset()

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        actions = {str((one.log_record.attributes or {})["audit.action"]) for one in batch}
        return FAILURE if len(batch) > self.longest or actions & self.bad else super().export(batch)


def test_a_batch_too_long_for_an_exporter_is_made_shorter() -> None:
    theirs = Choosy()
    theirs.longest = 3
    configure_audit(theirs, schedule_delay_millis=200)
    ids = {audit_event(**arguments()).record_id for _ in range(100)}
    assert flush_audit(60_000)
    assert set(theirs.taken) == ids


def test_events_that_an_exporter_never_takes_hold_up_no_others() -> None:
    theirs = Choosy()
    theirs.bad = frozenset({"bad"})
    pipeline = configure_audit(theirs, schedule_delay_millis=10)
    bad = [audit_event(**arguments(action="bad")) for _ in range(2)]
    good = [audit_event(**arguments()) for _ in range(50)]
    assert all(receipt.result(60).record_id in theirs.taken for receipt in good)
    late = audit_event(**arguments())
    assert late.result(60).record_id in theirs.taken
    assert {receipt.state for receipt in bad} == {"pending"}
    assert (pipeline.stats().failed, pipeline.stats().pending) == (0, 2)
    theirs.bad = frozenset()
    assert flush_audit(60_000)
    assert {receipt.record_id for receipt in bad} <= set(theirs.taken)


class Counting(Theirs):
    """Counts how many of its exports were under way at once."""

    def __init__(self) -> None:
        super().__init__(*[FAILURE] * 3)
        self.under_way = 0
        self.most = 0

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        result = super().export(batch)
        time.sleep(0.005)  # so that another one, if there were any, would come in
        self.under_way -= 1
        return result


def test_exports_come_one_at_a_time() -> None:
    theirs = Counting()
    theirs.let_go.clear()
    configure_audit(theirs, schedule_delay_millis=5, max_export_batch_size=64, max_queue_size=64)
    ids = {audit_event(**arguments()).record_id for _ in range(10_000)}
    theirs.let_go.set()
    assert flush_audit(90_000)
    assert set(theirs.taken) == ids
    assert theirs.most == 1


def test_a_hanging_exporter_delays_neither_the_caller_nor_the_end(hanging: Theirs) -> None:
    pipeline = configure_audit(hanging)
    audit_event(**arguments())
    assert hanging.entered.wait(60)
    receipts = [audit_event(**arguments()) for _ in range(1000)]
    assert {receipt.state for receipt in receipts} == {"pending"}
    assert pipeline.force_flush(100) is False
    assert pipeline.shutdown(100) is False
    assert not hanging.let_go.is_set()
    assert hanging.taken == []


def test_the_next_pipeline_delivers_what_an_exporter_did_not_take(hanging: Theirs) -> None:
    pipeline = configure_audit(hanging)
    ids = {audit_event(**arguments()).record_id for _ in range(20)}
    assert hanging.entered.wait(60)
    assert pipeline.shutdown(100) is False
    theirs = Theirs()
    later = configure_audit(theirs)
    assert later.force_flush(60_000)
    assert set(theirs.taken) == ids
    assert later.stats().recovered == 20


def test_an_exporter_is_shut_down_with_the_pipeline() -> None:
    theirs = Theirs()
    pipeline = configure_audit(theirs)
    audit_event(**arguments())
    assert pipeline.shutdown(60_000)
    assert theirs.shut_down.wait(60)


class Lingering(Theirs):
    """Stands in shutdown while it is not let go, as one does that waits for a connection of its own."""

    def shutdown(self) -> None:
        super().shutdown()
        self.let_go.wait()


def test_an_exporter_hanging_in_its_shutdown_does_not_delay_the_end() -> None:
    theirs = Lingering()
    pipeline = configure_audit(theirs)
    audit_event(**arguments()).result(60)
    theirs.let_go.clear()
    try:
        assert pipeline.shutdown(500) is True
        assert theirs.shut_down.wait(60)
        assert not theirs.let_go.is_set()
    finally:
        theirs.let_go.set()


class Failing(Theirs):
    """Raises in its own shutdown."""

    def shutdown(self) -> None:
        raise RuntimeError("no")


def test_an_exporter_that_raises_in_its_shutdown_gives_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    theirs = Failing()
    pipeline = configure_audit(theirs)
    receipt = audit_event(**arguments())
    assert pipeline.shutdown(60_000) is True
    assert theirs.taken == [receipt.record_id]
    assert "raised RuntimeError in flush or shutdown" in caplog.text


def test_an_exporter_gets_whole_records() -> None:
    theirs = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # of the SDK
    pipeline = configure_audit(theirs, resource=Resource({"service.name": "shop"}))
    receipt = audit_event(**arguments(action="order", entity_type="part", metadata={"why": "spare"}))
    assert pipeline.force_flush(60_000)
    (got,) = theirs.get_finished_logs()
    attributes = dict(got.log_record.attributes or {})
    assert json.loads(str(attributes.pop("audit.metadata"))) == {"why": "spare"}
    assert json.loads(str(attributes.pop("audit.change.new_values"))) == {"lines": [1, "ü"]}
    assert attributes.pop("audit.target.id")
    assert attributes == {
        "audit.record.id": receipt.record_id,
        "audit.action": "order",
        "audit.target.type": "part",
        "audit.tenant.id": YACHT,
        "audit.actor.id": USER,
        "audit.actor.type": "user",
        "audit.outcome": "success",
    }
    assert got.log_record.event_name == "part.order"
    assert got.resource.attributes["service.name"] == "shop"


@pytest.mark.parametrize("year", [1, 1969, 2555, 9999])
def test_an_event_with_an_unrecordable_time_is_parked_alone(receiver: Receiver, year: int) -> None:
    """No log record can hold its time. The others arrive."""
    pipeline = configure_audit("otlp", endpoint=receiver.endpoint)
    before = audit_event(**arguments())
    odd = audit_event(**arguments(timestamp=datetime(year, 6, 1, tzinfo=UTC)))
    after = audit_event(**arguments())
    assert pipeline.force_flush(60_000)
    assert (before.state, odd.state, after.state) == ("stored", "parked", "stored")
    assert receiver.ids == {before.record_id, after.record_id}
    (letter,) = pipeline.dead_letters()
    assert "before 1970 or after 2554" in letter.error
