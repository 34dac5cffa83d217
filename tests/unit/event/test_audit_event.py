"""Events: what a call may say, and that it is frozen at the call."""

from __future__ import annotations

import enum
import json
import pickle
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from otel_audit_exporter.errors import AuditError, AuditEventError
from otel_audit_exporter.event.audit_event import AuditEvent
from otel_audit_exporter.event.encoded_event import EncodedEvent, decode
from otel_audit_exporter.event.fields import FIELDS
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.redaction import Redactor
from otel_audit_exporter.event.serialization import split
from otel_audit_exporter.event.validation import EventValidator
from tests.support.events import ENTITY, RECORD, USER, YACHT, said


class Kind(enum.Enum):
    PART = "part"


class Choice(enum.Enum):
    FAILURE = "failure"
    SERVICE = "service"
    USER = "user"
    OTHER = "other"


def compose(rules: EventValidator | None = None, /, **changes: Any) -> EncodedEvent:
    return (rules or EventValidator()).compose(said(**changes))


def problems(rules: EventValidator | None = None, /, **changes: Any) -> Mapping[str, str]:
    with pytest.raises(AuditEventError) as caught:
        compose(rules, **changes)
    return caught.value.problems


class TestChecks:
    @pytest.mark.parametrize("name", ["action", "entity_type", "entity_id", "yacht_id", "user_id"])
    def test_a_missing_field_is_named(self, name: str) -> None:
        assert problems(None, **{name: ...}) == {name: "is missing"}

    @pytest.mark.parametrize("name", ["action", "entity_type", "entity_id", "yacht_id", "user_id"])
    def test_none_is_missing(self, name: str) -> None:
        assert problems(None, **{name: None}) == {name: "is missing"}

    @pytest.mark.parametrize("name", ["action", "entity_type", "entity_id", "yacht_id", "user_id"])
    @pytest.mark.parametrize("text", ["", "  ", "\t\n"])
    def test_an_empty_field_is_named(self, name: str, text: str) -> None:
        assert problems(None, **{name: text}) == {name: "is empty"}

    @pytest.mark.parametrize("name", ["entity_id", "yacht_id", "user_id", "record_id"])
    @pytest.mark.parametrize("value", [5, 5.0, True, b"x", {}, object()])
    def test_an_id_of_another_type_is_named_with_its_type(self, name: str, value: object) -> None:
        remedy = " (where ids are numbers, set OTEL_AUDIT_IDS=text)" if value == 5 and type(value) is int else ""
        remedy = "" if name == "record_id" else remedy
        assert problems(None, **{name: value}) == {name: f"must be a UUID, not {type(value).__name__}{remedy}"}

    @pytest.mark.parametrize("name", ["entity_id", "yacht_id", "user_id", "record_id"])
    def test_an_id_that_is_no_uuid_is_named_and_not_repeated(self, name: str) -> None:
        with pytest.raises(AuditEventError) as caught:
            compose(None, **{name: "S3CRET-42"})
        assert caught.value.problems == {name: "must be a UUID, and these 9 characters are none"}
        assert "S3CRET" not in str(caught.value)

    @pytest.mark.parametrize("name", ["action", "entity_type"])
    @pytest.mark.parametrize("value", [5, b"x", ["a"], uuid.UUID(RECORD)])
    def test_a_name_that_is_no_string_is_named_with_its_type(self, name: str, value: object) -> None:
        assert problems(None, **{name: value}) == {name: f"must be a string, not {type(value).__name__}"}

    @pytest.mark.parametrize("value", ["ok", "", "SUCCESS", 1, ["success"], {}, None])
    def test_an_unknown_outcome_gives_the_choices(self, value: object) -> None:
        assert problems(outcome=value)["outcome"].startswith("must be one of success, failure, unknown, not ")

    @pytest.mark.parametrize("value", ["robot", 1, b"user"])
    def test_an_unknown_actor_type_gives_the_choices(self, value: object) -> None:
        assert problems(actor_type=value)["actor_type"].startswith("must be one of user, service, system, not ")

    def test_an_enum_stands_for_its_value_where_there_is_a_choice(self) -> None:
        event = decode(compose(outcome=Choice.FAILURE, actor_type=Choice.SERVICE, user_id=...).body)
        assert (event["outcome"], event["actor_type"]) == ("failure", "service")
        assert problems(actor_type=Choice.USER, user_id=...) == {"user_id": "is missing"}
        assert set(problems(outcome=Choice.OTHER, actor_type=Choice.OTHER)) == {"outcome", "actor_type"}

    def test_an_unknown_keyword_is_named(self) -> None:
        assert problems(entity_typ="x") == {"entity_typ": "is not an argument of an audit event"}

    @pytest.mark.parametrize("name", ["metadata", "signature"])
    @pytest.mark.parametrize("value", ["text", 5, [1], "[1]", True])
    def test_a_document_that_is_no_object_is_named(self, name: str, value: object) -> None:
        assert problems(None, **{name: value}) == {name: "must be a JSON object (a mapping, or the text of one)"}

    @pytest.mark.parametrize("value", ["2026-01-01T00:00:00Z", 5, datetime(2026, 1, 1).date()])
    def test_a_timestamp_of_another_type_is_named(self, value: object) -> None:
        assert problems(timestamp=value)["timestamp"].startswith("must be an aware datetime, not ")

    def test_a_naive_timestamp_is_named(self) -> None:
        wrong = problems(timestamp=datetime(2026, 1, 1))
        assert wrong == {"timestamp": "must be an aware datetime, and this one has no time zone"}

    def test_a_timestamp_beyond_utc_is_named(self) -> None:
        early = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))
        assert problems(timestamp=early) == {"timestamp": "is out of the range of UTC dates"}

    @pytest.mark.parametrize("value", ["", " ", "\t\n", 5, b"key"])
    def test_an_idempotency_key_is_a_string_with_something_in_it(self, value: object) -> None:
        assert problems(idempotency_key=value) == {"idempotency_key": "must be a non-empty string"}

    @pytest.mark.parametrize(("name", "digits"), [("trace_id", 32), ("span_id", 16)])
    @pytest.mark.parametrize("value", ["", "zz", "0" * 33, "G" * 16, "g" * 32, 5, b"0" * 32])
    def test_an_id_of_a_trace_is_hexadecimal(self, name: str, digits: int, value: object) -> None:
        assert problems(None, **{name: value}) == {name: f"must be {digits} hexadecimal digits"}
        compose(None, **{name: "0f" * (digits // 2)})

    def test_an_idempotency_key_excludes_a_record_id(self) -> None:
        assert list(problems(idempotency_key="k", record_id=RECORD)) == ["idempotency_key"]

    @pytest.mark.parametrize("name", ["on_behalf_of", "source_ip", "request_id", "user_agent"])
    def test_what_is_around_an_event_is_checked_too(self, name: str) -> None:
        assert problems(None, **{name: [1]})[name].startswith("must be a string")
        assert problems(None, **{name: " "}) == {name: "is empty"}

    @pytest.mark.parametrize("value", [5, uuid.UUID(RECORD), [1], b"x"])
    def test_an_event_name_is_a_string(self, value: object) -> None:
        assert list(problems(event_name=value)) == ["event_name"]

    def test_one_error_names_every_wrong_field(self) -> None:
        with pytest.raises(AuditEventError) as caught:
            EventValidator().compose(
                {
                    "entity_type": "",
                    "entity_id": "no uuid",
                    "yacht_id": 5,
                    "outcome": "maybe",
                    "actor_type": "robot",
                    "metadata": "text",
                    "signature": 1,
                    "timestamp": "now",
                    "record_id": "x",
                    "on_behalf_of": [],
                    "unknown": 1,
                    "also_unknown": 2,
                }
            )
        wrong = {
            "action", "entity_type", "entity_id", "yacht_id", "outcome", "actor_type", "metadata",
            "signature", "timestamp", "record_id", "on_behalf_of", "unknown", "also_unknown",
        }  # fmt: skip
        assert set(caught.value.problems) == wrong
        assert all(f"{name}: " in str(caught.value) for name in wrong)
        assert isinstance(caught.value, AuditError)
        assert isinstance(caught.value, ValueError)

    @pytest.mark.parametrize("actor_type", ["service", "system"])
    def test_only_a_user_has_to_say_who_it_is(self, actor_type: str) -> None:
        assert decode(compose(user_id=..., actor_type=actor_type).body)["user_id"] is None

    def test_a_field_that_is_not_required_may_be_left_out(self) -> None:
        rules = EventValidator(required=())
        event = rules.compose({"action": "tick"})
        assert decode(event.body)["entity_type"] is None
        assert event.action == "tick"

    def test_an_action_is_always_required(self) -> None:
        with pytest.raises(AuditEventError, match="action: is missing"):
            EventValidator(required=()).compose({})

    def test_a_refused_field_is_named_where_it_says_something(self) -> None:
        rules = EventValidator(refused=("outcome", "metadata"))
        assert set(problems(rules, outcome="failure", metadata={"a": 1})) == {"outcome", "metadata"}
        compose(rules, outcome="success")

    @pytest.mark.parametrize(
        "given", [uuid.UUID(ENTITY), ENTITY.upper(), f"{{{ENTITY}}}", f"urn:uuid:{ENTITY}", ENTITY.replace("-", "")]
    )
    def test_every_spelling_of_a_uuid_is_the_same_id(self, given: object) -> None:
        assert decode(compose(entity_id=given).body)["entity_id"] == ENTITY

    def test_an_enum_says_its_value(self) -> None:
        event = compose(entity_type=Kind.PART)
        assert decode(event.body)["entity_type"] == "part"
        assert event.event_name == "part.create_receiving"


class TestTextIds:
    @pytest.mark.parametrize("value", ["PO-17", 17, 2**70, "ü ", uuid.UUID(ENTITY)])
    def test_ids_may_be_any_text_or_integer(self, value: Any) -> None:
        expected = str(value) if isinstance(value, uuid.UUID) else value
        assert decode(compose(EventValidator(ids="text"), entity_id=value).body)["entity_id"] == expected

    @pytest.mark.parametrize("value", [True, 1.5, b"x", [1], {}])
    def test_an_id_of_another_type_is_named(self, value: object) -> None:
        wrong = problems(EventValidator(ids="text"), entity_id=value)
        assert wrong == {"entity_id": f"must be a string, an integer or a UUID, not {type(value).__name__}"}

    @pytest.mark.parametrize("value", ["", "   "])
    def test_an_empty_id_is_named(self, value: str) -> None:
        assert problems(EventValidator(ids="text"), yacht_id=value) == {"yacht_id": "is empty"}

    def test_the_record_s_own_id_is_a_uuid_all_the_same(self) -> None:
        assert list(problems(EventValidator(ids="text"), record_id="PO-17")) == ["record_id"]


class TestRecordIds:
    def test_a_generated_id_is_a_uuid_of_version_7(self) -> None:
        before = time.time_ns() // 1_000_000
        made = uuid.UUID(compose().record_id)
        after = time.time_ns() // 1_000_000
        assert made.version == 7
        assert made.variant == uuid.RFC_4122
        assert before <= made.int >> 80 <= after

    def test_generated_ids_grow_and_never_repeat(self) -> None:
        rules = EventValidator()
        made = [compose(rules).record_id for _ in range(5000)]
        assert len(set(made)) == len(made)
        assert made == sorted(made)

    def test_threads_never_make_the_same_id(self) -> None:
        made: list[str] = []

        def make() -> None:
            made.extend([compose().record_id for _ in range(1000)])

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(made)) == 4000

    def test_a_given_id_is_kept_in_its_canonical_form(self) -> None:
        assert compose(record_id=uuid.UUID(RECORD)).record_id == RECORD
        assert compose(record_id=RECORD.upper()).record_id == RECORD

    def test_the_same_key_within_a_yacht_gives_the_same_id(self) -> None:
        first = compose(idempotency_key="order-1")
        assert compose(idempotency_key="order-1", action="other", yacht_id=YACHT.upper()).record_id == first.record_id
        assert compose(idempotency_key="order-2").record_id != first.record_id
        assert compose(idempotency_key="order-1", yacht_id=USER).record_id != first.record_id

    def test_the_same_key_gives_the_same_id_in_another_process(self) -> None:
        program = (
            "from otel_audit_exporter.event.validation import EventValidator; import sys; "
            f"print(EventValidator().compose({said(idempotency_key='ö-1')!r}).record_id)"
        )
        run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        assert run.stdout.strip() == compose(idempotency_key="ö-1").record_id

    def test_a_key_with_a_lone_surrogate_makes_an_id(self) -> None:
        assert compose(idempotency_key="\ud800").record_id != compose(idempotency_key="\ud801").record_id

    def test_only_an_id_that_can_come_again_costs_a_digest(self) -> None:
        assert compose().digest is None
        assert compose(idempotency_key="k").digest == compose(idempotency_key="k").digest
        assert compose(idempotency_key="k").digest != compose(idempotency_key="k", new_values={"a": 1}).digest


class TestTimestamps:
    def test_now_is_utc_with_microseconds(self) -> None:
        before = datetime.now(UTC)
        event = compose()
        after = datetime.now(UTC)
        at = datetime.fromisoformat(decode(event.body)["timestamp"])
        assert at.utcoffset() == timedelta(0)
        assert before <= at <= after
        assert event.timestamp_ns == (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000

    @pytest.mark.parametrize(
        ("nanoseconds", "text"),
        [
            (1_767_225_599_999_999_999, "2025-12-31T23:59:59.999999+00:00"),
            (1_767_225_600_000_000_000, "2026-01-01T00:00:00.000000+00:00"),
            (1_767_225_600_000_001_500, "2026-01-01T00:00:00.000001+00:00"),
            (1_767_225_599_000_000_000, "2025-12-31T23:59:59.000000+00:00"),
        ],
    )
    def test_a_second_rolls_over(self, monkeypatch: pytest.MonkeyPatch, nanoseconds: int, text: str) -> None:
        for second in (1_767_225_599, 1_767_225_600):  # whichever was formatted last
            monkeypatch.setattr(time, "time_ns", lambda second=second: second * 10**9)
            compose()
            monkeypatch.setattr(time, "time_ns", lambda: nanoseconds)
            event = compose()
            assert decode(event.body)["timestamp"] == text
            assert event.timestamp_ns == nanoseconds // 1000 * 1000

    def test_a_given_time_is_recorded_in_utc(self) -> None:
        given = datetime(2026, 7, 1, 1, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45)))
        event = compose(timestamp=given)
        assert decode(event.body)["timestamp"] == "2026-06-30T19:45:00.123456+00:00"
        assert event.timestamp_ns == int(given.timestamp()) * 10**9 + 123_456_000

    def test_a_time_before_1970_is_recorded_too(self) -> None:
        event = compose(timestamp=datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC))
        assert event.timestamp_ns == -1000


class TestSnapshot:
    def test_a_later_change_of_the_caller_s_values_changes_nothing(self) -> None:
        new: dict[str, Any] = {"lines": [{"qty": 1}]}
        metadata = {"tags": ["a"]}
        event = compose(new_values=new, old_values=new, metadata=metadata)
        new["lines"][0]["qty"] = 2
        new["more"] = True
        metadata["tags"].append("b")
        stored = decode(event.body)
        assert stored["new_values"] == stored["old_values"] == {"lines": [{"qty": 1}]}
        assert stored["metadata"] == {"tags": ["a"]}

    def test_an_event_is_json_with_one_field_on_each_line(self) -> None:
        for more in ({}, {"metadata": {"x": ",\n"}}):
            body = compose(new_values={"text": "a,\nb\n"}, **more).body
            said = json.loads(body)
            row, *beyond = said if isinstance(said, list) else [said]
            assert len(split(body)) == len(FIELDS)
            assert [*row.values(), *beyond] == list(decode(body).values())[: len(row) + len(beyond)]

    def test_a_text_of_json_is_stored_as_json(self) -> None:
        assert decode(compose(new_values='{"a": [1, 2.50]}').body)["new_values"] == {"a": [1, 2.5]}
        assert decode(compose(new_values="plain").body)["new_values"] == "plain"

    def test_no_value_is_null(self) -> None:
        stored = decode(compose().body)
        assert [name for name, value in stored.items() if value is not None] == [
            "record_id", "yacht_id", "entity_type", "action", "entity_id", "user_id", "timestamp", "outcome",
            "actor_type",
        ]  # fmt: skip


class TestAuditEvent:
    def test_an_event_object_names_every_wrong_field_at_once(self) -> None:
        with pytest.raises(AuditEventError) as caught:
            AuditEvent(action="", entity_type=5, outcome="maybe", timestamp="now")  # type: ignore[arg-type]
        assert set(caught.value.problems) == {"action", "entity_type", "outcome", "timestamp"}

    def test_an_event_object_checks_its_documents_too(self) -> None:
        with pytest.raises(AuditEventError) as caught:
            AuditEvent(action="a", metadata="text", signature=[1])
        assert set(caught.value.problems) == {"metadata", "signature"}

    def test_the_action_may_come_first_as_in_a_call(self) -> None:
        assert AuditEvent("a", entity_type="t") == AuditEvent(action="a", entity_type="t")

    def test_an_event_object_is_frozen(self) -> None:
        event = AuditEvent(action="a")
        with pytest.raises(AttributeError):
            event.action = "b"  # type: ignore[misc]

    def test_an_event_object_has_only_the_given_fields(self) -> None:
        assert AuditEvent(action="a", user_id=USER).arguments() == {
            "action": "a",
            "user_id": USER,
            "outcome": "success",
        }
        assert AuditEvent(action="a", actor_type="user").arguments()["actor_type"] == "user"

    def test_an_event_objects_actor_is_a_user_by_default(self) -> None:
        event = AuditEvent(action="a")
        assert event.actor_type == "user"
        assert event == AuditEvent(action="a", actor_type="user") == replace(event) == pickle.loads(pickle.dumps(event))

    def test_the_repr_of_an_event_shows_nothing_that_is_redacted(self) -> None:
        secret = {"password": "hunter2"}
        event = AuditEvent(
            action="a", entity_type="t", old_values=secret, new_values=secret, metadata=secret, signature=secret
        )
        assert "hunter2" not in repr(event)
        assert "entity_type='t'" in repr(event)

    def test_an_event_comes_back_from_its_bytes(self) -> None:
        event = compose(new_values={"a": 1}, metadata={"b": 2}, outcome="failure", on_behalf_of="someone")
        again = AuditEvent.from_bytes(event.body)
        assert EventValidator().compose(again.arguments()).body == event.body


def test_a_signatures_secrets_are_redacted_like_others() -> None:
    body = EventValidator(encoder=Encoder(Redactor())).compose(said(signature={"by": "x", "token": "S3CRET"})).body
    assert decode(body)["signature"] == {"by": "x", "token": "[REDACTED]"}


@pytest.mark.parametrize(("ip", "recorded"), [("full", "10.1.2.3:80"), ("truncated", "10.1.2.0"), ("off", None)])
def test_as_much_of_an_address_is_recorded_as_is_set(ip: Any, recorded: str | None) -> None:
    assert decode(EventValidator(ip=ip).compose(said(source_ip="10.1.2.3:80")).body)["source_ip"] == recorded
