"""The road of traces: references on spans, and span events of other code as rows."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import Tracer

from otel_audit_exporter import (
    AuditConfigurationError,
    AuditSpanProcessor,
    audit_context,
    audit_event,
    configure_audit,
    get_audit_pipeline,
    get_audit_stats,
    shutdown_audit,
)
from otel_audit_exporter.testing import AuditLog
from tests.stack import AuditTable, Stack

YACHT, USER, PART = uuid4(), uuid4(), uuid4()


class Spans:
    """A tracer with our processor, and the spans that ended."""

    def __init__(self, sampler: Any = ALWAYS_ON) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(AuditSpanProcessor())
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: Tracer = self.provider.get_tracer("test")

    def events(self) -> list[Any]:
        return [event for span in self._exporter.get_finished_spans() for event in span.events]


@pytest.fixture
def spans() -> Spans:
    return Spans()


def attributes(**more: Any) -> dict[str, Any]:
    return {
        "audit.action": "approve_purchase",
        "audit.target.type": "purchase",
        "audit.target.id": str(PART),
        "audit.tenant.id": str(YACHT),
        "audit.actor.id": str(USER),
        **more,
    }


def record(**more: Any) -> str:
    return audit_event("touch", entity_type="part", entity_id=PART, yacht_id=YACHT, user_id=USER, **more).record_id


def test_an_event_emitted_as_span_event_leaves_a_reference_without_values(audit_log: AuditLog, spans: Spans) -> None:
    with spans.tracer.start_as_current_span("request") as span:
        record_id = record(as_span_event=True, new_values={"name": "impeller"})
    (event,) = spans.events()
    assert dict(event.attributes) == {"audit.record.id": record_id, "audit.action": "touch"}
    (recorded,) = audit_log.events
    context = span.get_span_context()
    assert (recorded.trace_id, recorded.span_id) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert get_audit_stats().submitted == 1


@pytest.mark.parametrize("limits", [{"max_event_attributes": 1}, {"max_attribute_length": 5}, {"max_events": 1}])
def test_a_reference_that_the_spans_limits_cut_is_no_event(audit_log: AuditLog, limits: dict[str, int]) -> None:
    provider = TracerProvider(span_limits=SpanLimits(**limits), shutdown_on_exit=False)
    provider.add_span_processor(AuditSpanProcessor())
    with provider.get_tracer("test").start_as_current_span("request"):
        ids = [record(as_span_event=True) for _ in range(2)]
    assert [event.record_id for event in audit_log.events] == ids
    assert get_audit_stats().rejected == 0


def test_without_a_span_the_event_is_recorded_all_the_same(audit_log: AuditLog) -> None:
    record(as_span_event=True)
    audit_log.assert_recorded("touch")


def test_an_enum_as_action_is_named_on_the_span_too(audit_log: AuditLog, spans: Spans) -> None:
    class Action(Enum):
        TOUCH = "touch"

    with spans.tracer.start_as_current_span("request"):
        audit_event(
            Action.TOUCH,  # type: ignore[arg-type]  # what people do
            entity_type="part",
            entity_id=PART,
            yacht_id=YACHT,
            user_id=USER,
            as_span_event=True,
        )
    assert spans.events()[0].attributes["audit.action"] == "touch"


def test_span_events_of_other_code_become_events_when_the_span_ends(audit_log: AuditLog, spans: Spans) -> None:
    at = datetime(2026, 5, 1, 12, 30, 0, 123456, tzinfo=UTC)
    with spans.tracer.start_as_current_span("request") as span:
        span.add_event(
            "purchase approved",
            attributes(
                **{
                    "audit.change.old_values": json.dumps({"approved": False}),
                    "audit.change.new_values": json.dumps({"approved": True, "password": "hunter2"}),
                    "audit.metadata": '{"screen": "orders"}',
                    "audit.outcome": "failure",
                    "audit.source.id": "203.0.113.7",
                    "request.id": "r-1",
                    "other": "ignored",
                }
            ),
            timestamp=int(at.timestamp()) * 10**9 + 123_456_000,
        )
        span.add_event("no audit", {"other": 1})
        audit_log.assert_nothing_recorded()
    (event,) = audit_log.events
    context = span.get_span_context()
    audit_log.assert_recorded(
        action="approve_purchase",
        entity_type="purchase",
        entity_id=PART,
        yacht_id=YACHT,
        user_id=USER,
        timestamp=at,
        old_values={"approved": False},
        new_values={"approved": True, "password": "[REDACTED]"},
        metadata={"screen": "orders"},
        outcome="failure",
        source_ip="203.0.113.7",
        request_id="r-1",
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        event_name="purchase approved",
    )
    assert event.record_id


def test_the_context_fills_in_missing_fields_even_after_its_end(audit_log: AuditLog, spans: Spans) -> None:
    short = {"audit.action": "touch", "audit.target.type": "part", "audit.target.id": str(PART)}
    with audit_context(yacht_id=YACHT):
        span = spans.tracer.start_span("request")
        with audit_context(user_id=USER), spans.tracer.start_as_current_span("inner") as inner:
            inner.add_event("touched", short)
        span.add_event("touched", {**short, "audit.actor.id": str(USER)})
    with audit_context(user_id=uuid4()):
        span.end()
    assert [event.user_id for event in audit_log.events] == [str(USER)] * 2


def test_an_id_that_was_seen_comes_once(audit_log: AuditLog, spans: Spans) -> None:
    record_id = str(uuid4())
    for _ in range(2):
        with spans.tracer.start_as_current_span("request") as span:
            span.add_event("one", attributes(**{"audit.record.id": record_id}))
            span.add_event("two", attributes(**{"audit.record.id": record_id.upper()}))
    assert get_audit_stats().submitted == 1


def test_an_event_on_both_roads_is_one_row(audit_log: AuditLog, spans: Spans) -> None:
    with spans.tracer.start_as_current_span("request") as span:
        record_id = record(as_span_event=True)
        span.add_event("again, by other code", attributes(**{"audit.record.id": record_id}))
        same = str(uuid4())
        record(record_id=same)
        span.add_event("touch", attributes(**{"audit.record.id": same, "audit.action": "touch"}))
    assert [event.record_id for event in audit_log.events] == [record_id, same]
    assert get_audit_stats().failed == 0


def test_a_wrong_one_is_logged_and_counted_and_the_span_ends(
    audit_log: AuditLog, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    with spans.tracer.start_as_current_span("request") as span:
        span.add_event("bad", {"audit.action": "touch", "audit.change.new_values": '{"a": "hunter2"}'})
        span.add_event("good", attributes())
    assert len(audit_log.events) == 1
    assert get_audit_stats().rejected == 1
    assert "entity_id: is missing" in caplog.text
    assert "hunter2" not in caplog.text


def test_an_id_whose_event_could_not_be_recorded_may_come_again(audit_log: AuditLog, spans: Spans) -> None:
    record_id = str(uuid4())
    for wrong in ({"audit.target.id": "none"}, {}):
        with spans.tracer.start_as_current_span("request") as span:
            span.add_event("x", attributes(**{"audit.record.id": record_id, **wrong}))
    audit_log.assert_recorded(record_id=record_id)
    assert get_audit_stats().rejected == 1


def test_without_a_pipeline_spans_end_and_an_error_is_logged(
    spans: Spans, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AuditConfigurationError):
        get_audit_pipeline()
    with spans.tracer.start_as_current_span("request") as span:
        span.add_event("x", attributes())
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert spans.provider.force_flush()


def test_a_pipeline_may_be_given(audit_log: AuditLog) -> None:
    processor = AuditSpanProcessor(get_audit_pipeline())
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    with provider.get_tracer("test").start_as_current_span("request") as span:
        span.add_event("x", attributes())
    assert provider.force_flush()
    audit_log.assert_recorded("approve_purchase")


def test_scopes_of_spans_that_never_end_are_not_kept(audit_log: AuditLog) -> None:
    processor = AuditSpanProcessor()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    with audit_context(yacht_id=YACHT):
        for _ in range(10):
            provider.get_tracer("test").start_span("forgotten")
    assert not processor._scopes


def test_at_zero_percent_sampling_every_event_asked_for_is_a_row(audit_table: AuditTable, stack: Stack) -> None:
    configure_audit(
        "supabase", url=stack.url, key=stack.service_key, table=audit_table.name, outbox="memory", handle_sigterm=False
    )
    spans = Spans(ALWAYS_OFF)
    try:
        ids = []
        for _ in range(200):
            with spans.tracer.start_as_current_span("request"):
                ids.append(record(as_span_event=True))
        assert shutdown_audit(30_000)
    finally:
        shutdown_audit()
    assert not spans.events()
    assert sorted(ids) == audit_table.ids()
