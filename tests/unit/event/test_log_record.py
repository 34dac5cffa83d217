"""Events as log records, and the log records of other code as events."""

from __future__ import annotations

import copy
import json
import time
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LogRecordLimits
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context, use_span

from otel_audit_exporter.errors import AuditEventError
from otel_audit_exporter.event.encoded_event import EncodedEvent, decode
from otel_audit_exporter.event.fields import FIELDS
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.log_record import (
    AuditLogRecord,
    AuditReadWriteLogRecord,
    event_arguments_from,
    is_audit_record,
    raw_body,
    to_attributes,
)
from otel_audit_exporter.event.validation import EventValidator
from tests.support.events import ENTITY, RECORD, USER, YACHT, said

SPAN = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
MINIMAL = {
    "audit.action": "create_receiving",
    "audit.target.type": "receiving",
    "audit.target.id": ENTITY,
    "audit.tenant.id": YACHT,
    "audit.actor.id": USER,
}


def compose(**changes: Any) -> EncodedEvent:
    return EventValidator().compose(said(**changes))


def event_of(record: LogRecord) -> dict[str, Any]:
    return decode(EventValidator().compose(event_arguments_from(record)).body)


class TestFromEvents:
    def test_attributes_carry_everything_under_the_draft_s_names(self) -> None:
        event = compose(
            record_id=RECORD,
            old_values={"a": 1},
            new_values=["b", None],
            outcome="failure",
            actor_type="service",
            on_behalf_of="someone",
            metadata={"m": 1},
            signature={"s": 2},
            source_ip="10.0.0.1",
            request_id="req",
            user_agent="curl",
        )
        assert to_attributes(event.body) == {
            "audit.record.id": RECORD,
            "audit.tenant.id": YACHT,
            "audit.target.type": "receiving",
            "audit.action": "create_receiving",
            "audit.target.id": ENTITY,
            "audit.actor.id": USER,
            "audit.change.old_values": '{"a":1}',
            "audit.change.new_values": '["b",null]',
            "audit.outcome": "failure",
            "audit.actor.type": "service",
            "audit.on_behalf_of.id": "someone",
            "audit.metadata": '{"m":1}',
            "audit.signature": '{"s":2}',
            "audit.source.id": "10.0.0.1",
            "audit.source.type": "ip",
            "request.id": "req",
            "user_agent.original": "curl",
        }

    def test_a_missing_field_is_no_attribute(self) -> None:
        assert to_attributes(compose(user_id=..., actor_type="system").body).keys() == {
            "audit.record.id", "audit.tenant.id", "audit.target.type", "audit.action", "audit.target.id",
            "audit.outcome", "audit.actor.type",
        }  # fmt: skip

    def test_an_id_that_is_a_number_is_a_string_attribute(self) -> None:
        body = EventValidator(ids="text").compose(said(entity_id=2**70)).body
        assert to_attributes(body)["audit.target.id"] == str(2**70)

    def test_the_record_has_name_time_and_span_but_no_severity(self) -> None:
        with use_span(SPAN):
            event = compose(timestamp=datetime(2026, 1, 1, tzinfo=UTC))
            record = AuditLogRecord(event, {})
        assert record.event_name == "receiving.create_receiving"
        assert record.timestamp == 1_767_225_600 * 10**9
        assert abs((record.observed_timestamp or 0) - time.time_ns()) < 60 * 10**9
        assert (record.trace_id, record.span_id, record.trace_flags) == (0xABC, 0xDEF, 1)
        assert record.severity_number is None
        assert record.severity_text is None
        assert record.body is None
        assert decode(event.body)["trace_id"] == f"{0xABC:032x}"
        assert decode(event.body)["span_id"] == f"{0xDEF:016x}"

    def test_attributes_behave_like_those_of_any_record(self) -> None:
        record = AuditLogRecord(compose(), {})
        attributes: Any = record.attributes
        assert attributes["audit.action"] == "create_receiving"
        assert dict(attributes) == to_attributes(record.event_body or b"")
        attributes["more"] = 1
        del attributes["audit.outcome"]
        assert "more" in attributes
        assert "audit.outcome" not in attributes
        assert len(attributes) == len(list(attributes))
        assert USER not in repr(attributes)

    def test_a_change_of_the_attributes_changes_nothing_of_the_event(self) -> None:
        event = compose()
        record = AuditLogRecord(event, {})
        record.attributes["audit.action"] = "forged"  # type: ignore[index]
        assert record.event_body == event.body

    def test_no_limit_cuts_a_record(self) -> None:
        limits = LogRecordLimits(max_attributes=1, max_attribute_length=1)
        record = AuditLogRecord(compose(new_values={"text": "x" * 5000}), {})
        carried = AuditReadWriteLogRecord(record, Resource.get_empty(), None, limits)
        assert carried.log_record is record
        assert len(record.attributes or {}) == 9
        assert carried.dropped_attributes == 0

    def test_a_slim_record_of_a_large_event_has_no_body(self) -> None:
        """Its content is in the outbox."""
        large, small = compose(new_values={"text": "x" * 10**6}), compose()
        assert AuditLogRecord(large, {}, slim=True).event_body is None
        assert AuditLogRecord(large, {}).event_body == large.body
        assert AuditLogRecord(small, {}, slim=True).event_body == small.body

    def test_copying_a_record_costs_nothing(self) -> None:
        record = AuditLogRecord(compose(), {})
        assert copy.copy(record) is record


class TestFromRecords:
    def test_only_records_with_an_action_are_audit_records(self) -> None:
        assert is_audit_record(LogRecord(attributes=MINIMAL))
        assert not is_audit_record(LogRecord(attributes={"audit.record.id": RECORD}))
        assert not is_audit_record(LogRecord(body="text"))

    def test_a_record_becomes_the_event_that_it_says(self) -> None:
        record = LogRecord(
            timestamp=1_767_225_600_123_456_789,
            attributes=MINIMAL
            | {
                "audit.record.id": RECORD,
                "audit.change.new_values": '{"a": [1, "ü"]}',
                "audit.change.old_values": {"b": [1, {"c": None}]},
                "audit.outcome": "failure",
                "audit.metadata": '{"m": 1}',
                "other": "left alone",
            },
            event_name="named",
        )
        stored = event_of(record)
        assert stored["record_id"] == RECORD
        assert stored["timestamp"] == "2026-01-01T00:00:00.123456+00:00"
        assert stored["new_values"] == {"a": [1, "ü"]}
        assert stored["old_values"] == {"b": [1, {"c": None}]}
        assert stored["outcome"] == "failure"
        assert stored["metadata"] == {"m": 1}
        assert stored["event_name"] == "named"

    def test_a_missing_id_is_made_and_the_observed_time_used(self) -> None:
        """The observed time is used where the record has no other."""
        record = LogRecord(observed_timestamp=1_767_225_600_000_000_000, attributes=MINIMAL)
        stored = event_of(record)
        assert stored["timestamp"] == "2026-01-01T00:00:00.000000+00:00"
        assert len(stored["record_id"]) == 36

    def test_a_record_without_any_time_gets_the_present_one(self) -> None:
        record = LogRecord(attributes=MINIMAL)
        record.observed_timestamp = None  # type: ignore[assignment]  # some SDKs leave it so
        before = datetime.now(UTC)
        assert datetime.fromisoformat(event_of(record)["timestamp"]) >= before.replace(
            microsecond=before.microsecond // 1000 * 1000
        )

    def test_a_record_s_span_is_the_event_s(self) -> None:
        record = LogRecord(context=set_span_in_context(SPAN), attributes=MINIMAL)
        stored = event_of(record)
        assert stored["trace_id"] == f"{0xABC:032x}"
        assert stored["span_id"] == f"{0xDEF:016x}"

    def test_attributes_and_event_are_each_other_s_inverse(self) -> None:
        event = compose(new_values={"a": 1}, old_values=[1], metadata={"m": 2}, source_ip="::1", outcome="unknown")
        record = AuditLogRecord(event, {})
        again = decode(EventValidator().compose(event_arguments_from(record)).body)
        assert again == decode(event.body) | {"event_name": "receiving.create_receiving"}

    @pytest.mark.parametrize(
        ("attribute", "value"),
        [("audit.target.id", "no uuid"), ("audit.outcome", "perhaps"), ("audit.action", 5), ("audit.metadata", "x")],
    )
    def test_a_record_with_nonsense_is_no_event_but_is_kept(self, attribute: str, value: Any) -> None:
        record = LogRecord(attributes=MINIMAL | {attribute: value})
        with pytest.raises(AuditEventError):
            event_of(record)
        body = raw_body(record, Encoder())
        assert json.loads(body)
        assert list(decode(body)) == list(FIELDS)
        assert value in decode(body).values()

    def test_what_is_kept_of_a_record_has_id_and_time(self) -> None:
        kept = decode(raw_body(LogRecord(attributes={"audit.action": "x"}), Encoder()))
        assert len(kept["record_id"]) == 36
        assert datetime.fromisoformat(kept["timestamp"]).tzinfo is not None
        assert orjson.loads(raw_body(LogRecord(attributes={"audit.action": b"\xff"}), Encoder()))
