"""From an event to a row: which column takes which field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

import orjson
import pytest

from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS
from otel_audit_exporter.event.validation import EventValidator
from otel_audit_exporter.table.mapping import TableMapping
from tests.support.events import ENTITY, RECORD, USER, YACHT, said

FULL = dict(DEFAULT_COLUMNS) | {
    "outcome": "outcome",
    "actor_type": "actor_type",
    "metadata": "metadata",
    "signature": "signature",
    "trace_id": "trace_id",
    "span_id": "span_id",
}


def row(mapping: TableMapping | None = None, **changes: Any) -> dict[str, Any]:
    body = EventValidator().compose(said(record_id=RECORD, **changes)).body
    made = orjson.loads((mapping or TableMapping()).row(body))
    assert isinstance(made, dict)
    return made


class TestColumns:
    def test_the_default_table_gets_its_nine_columns(self) -> None:
        at = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
        assert row(timestamp=at, old_values={"a": 1}, new_values=["b"]) == {
            "id": RECORD,
            "yacht_id": YACHT,
            "entity_type": "receiving",
            "action": "create_receiving",
            "entity_id": ENTITY,
            "created_by": USER,
            "created_at": "2026-03-04T05:06:07.000089+00:00",
            "old_values": {"a": 1},
            "new_values": ["b"],
        }

    def test_other_columns_replace_the_default(self) -> None:
        mapping = TableMapping({"key": "record_id", "what": "action", "who": "user_id", "how": "outcome"})
        assert mapping.columns == ("key", "what", "who", "how")
        assert mapping.key_column == "key"
        assert row(mapping, outcome="failure") == {
            "key": RECORD,
            "what": "create_receiving",
            "who": USER,
            "how": "failure",
        }

    def test_one_column_alone_is_a_row(self) -> None:
        assert row(TableMapping({"id": "record_id"}), new_values={"a": 1}) == {"id": RECORD}

    def test_a_column_s_name_may_hold_any_character(self) -> None:
        names = {'a"b': "record_id", "50% of": "action", "ü\\": "entity_type"}
        assert row(TableMapping(names)) == {'a"b': RECORD, "50% of": "create_receiving", "ü\\": "receiving"}

    def test_the_full_schema_takes_everything(self) -> None:
        full = row(TableMapping(FULL), outcome="failure", actor_type="service", signature={"s": 1}, metadata={"m": 2})
        assert full["outcome"] == "failure"
        assert full["actor_type"] == "service"
        assert full["signature"] == {"s": 1}
        assert full["metadata"] == {"m": 2}
        assert full["new_values"] is None

    def test_an_event_name_column_gets_the_default_name_too(self) -> None:
        mapping = TableMapping({"id": "record_id", "name": "event_name"})
        assert row(mapping)["name"] == "receiving.create_receiving"
        assert row(mapping, event_name="other")["name"] == "other"

    def test_an_unknown_field_is_named_with_the_known_ones(self) -> None:
        with pytest.raises(AuditConfigurationError, match=r"no field is called usr_id; fields are record_id, "):
            TableMapping({"id": "record_id", "who": "usr_id"})

    @pytest.mark.parametrize("columns", [{"a": "action"}, {"id": "record_id", "key": "record_id"}])
    def test_exactly_one_column_takes_the_record_id(self, columns: dict[str, str]) -> None:
        with pytest.raises(AuditConfigurationError, match="exactly one column must take record_id"):
            TableMapping(columns)

    def test_only_fields_that_a_column_takes_are_required(self) -> None:
        mapping = TableMapping({"id": "record_id", "who": "user_id", "what": "entity_type"}, {"what": "thing"})
        assert mapping.required == {"action", "user_id"}
        assert TableMapping().required == {"action", "entity_type", "entity_id", "yacht_id", "user_id"}

    def test_columns_of_documents_are_known(self) -> None:
        assert TableMapping().json_columns == {"old_values", "new_values"}
        assert TableMapping({"id": "record_id", "m": "metadata"}).json_columns == {"m"}


class TestDefaults:
    def test_a_default_fills_a_column_without_a_value(self) -> None:
        mapping = TableMapping(defaults={"new_values": {}, "old_values": []})
        assert row(mapping, old_values={"a": 1})["old_values"] == {"a": 1}
        assert row(mapping)["old_values"] == []
        assert row(mapping)["new_values"] == {}

    def test_a_default_for_another_column_is_always_written(self) -> None:
        mapping = TableMapping(defaults={"source": "api", "version": 3})
        assert mapping.columns[-2:] == ("source", "version")
        assert row(mapping)["source"] == "api"
        assert row(mapping)["version"] == 3

    def test_a_value_that_is_false_is_a_value(self) -> None:
        mapping = TableMapping(defaults={"new_values": {"d": 1}})
        assert row(mapping, new_values=False)["new_values"] is False
        assert row(mapping, new_values={})["new_values"] == {}
        assert row(mapping, new_values=0)["new_values"] == 0

    def test_what_is_folded_counts_as_a_value(self) -> None:
        assert row(TableMapping(defaults={"new_values": {}}), outcome="failure")["new_values"] == {
            "_audit": {"outcome": "failure"}
        }


class TestFold:
    def test_a_failed_action_never_reads_as_a_done_one(self) -> None:
        assert row(new_values={"qty": 1}, outcome="failure")["new_values"] == {
            "qty": 1,
            "_audit": {"outcome": "failure"},
        }

    def test_everything_that_was_said_is_kept(self) -> None:
        folded = row(
            outcome="unknown",
            actor_type="system",
            on_behalf_of="someone",
            metadata={"m": [1]},
            signature={"s": "x"},
        )["new_values"]
        assert folded == {
            "_audit": {
                "outcome": "unknown",
                "actor_type": "system",
                "on_behalf_of": "someone",
                "metadata": {"m": [1]},
                "signature": {"s": "x"},
            }
        }

    @pytest.mark.parametrize(
        "changes", [{}, {"outcome": "success"}, {"actor_type": "user"}, {"source_ip": "10.0.0.1", "request_id": "r"}]
    )
    def test_what_goes_without_saying_is_not_folded(self, changes: dict[str, Any]) -> None:
        assert row(new_values={"qty": 1}, **changes)["new_values"] == {"qty": 1}
        assert row(**changes)["new_values"] is None

    @pytest.mark.parametrize("value", ["text", 5, [1, 2], False, 0.5])
    def test_new_values_that_are_no_object_are_kept_as_value(self, value: Any) -> None:
        assert row(new_values=value, outcome="failure")["new_values"] == {
            "value": value,
            "_audit": {"outcome": "failure"},
        }

    def test_an_empty_object_takes_the_key_too(self) -> None:
        assert row(new_values={}, outcome="failure")["new_values"] == {"_audit": {"outcome": "failure"}}

    def test_a_caller_s_own_key_of_that_name_is_not_overwritten(self) -> None:
        assert row(new_values={"_audit": 1}, outcome="failure")["new_values"] == {
            "value": {"_audit": 1},
            "_audit": {"outcome": "failure"},
        }

    def test_that_name_deeper_down_is_in_nobody_s_way(self) -> None:
        assert row(new_values={"a": {"_audit": 1}}, outcome="failure")["new_values"] == {
            "a": {"_audit": 1},
            "_audit": {"outcome": "failure"},
        }

    def test_new_values_without_folding_may_hold_that_key(self) -> None:
        assert row(new_values={"_audit": 1})["new_values"] == {"_audit": 1}

    def test_old_values_are_never_touched(self) -> None:
        assert row(old_values=[1], outcome="failure")["old_values"] == [1]

    def test_what_a_column_takes_is_not_folded(self) -> None:
        assert row(TableMapping(FULL), new_values={"a": 1}, outcome="failure", metadata={"m": 1})["new_values"] == {
            "a": 1
        }
        mapping = TableMapping(dict(DEFAULT_COLUMNS) | {"outcome": "outcome"})
        assert row(mapping, outcome="failure", metadata={"m": 1})["new_values"] == {"_audit": {"metadata": {"m": 1}}}


class TestDropAndError:
    def test_drop_leaves_out_what_no_column_takes(self) -> None:
        mapping = TableMapping(unmapped="drop")
        assert row(mapping, new_values={"a": 1}, outcome="failure", metadata={"m": 1})["new_values"] == {"a": 1}
        assert mapping.refused == frozenset()

    def test_error_refuses_what_no_column_takes(self) -> None:
        expected = {"outcome", "actor_type", "on_behalf_of", "metadata", "signature"}
        assert TableMapping(unmapped="error").refused == expected
        assert TableMapping(FULL, unmapped="error").refused == frozenset()
        assert TableMapping().refused == frozenset()


class TestLost:
    ODD: ClassVar[dict[str, Any]] = {"outcome": "failure", "actor_type": "service", "signature": {"s": 1}}

    def told(self, mapping: TableMapping, **said: Any) -> list[str]:
        fields: list[str] = []
        mapping.tell_left_out(fields.append)
        for _ in range(2):
            row(mapping)
            row(mapping, **said)
        return sorted(fields)

    def test_what_cannot_be_folded_is_told_once(self) -> None:
        mapping = TableMapping({name: field for name, field in DEFAULT_COLUMNS.items() if field != "new_values"})
        assert self.told(mapping, **self.ODD, new_values=[1]) == ["actor_type", "new_values", "outcome", "signature"]
        assert mapping.lost >= {"outcome", "new_values"}

    def test_what_was_said_and_no_column_takes_is_told_once(self) -> None:
        mapping = TableMapping({"id": "record_id", "action": "action", "more": "new_values"})
        told = ["entity_id", "entity_type", "old_values", "timestamp", "user_id", "yacht_id"]
        assert self.told(mapping, **self.ODD, old_values=[1]) == told
        assert "timestamp" not in mapping.lost

    def test_what_the_settings_drop_or_fold_is_not_told(self) -> None:
        assert self.told(TableMapping({"id": "record_id", "at": "timestamp"}, unmapped="drop"), **self.ODD) == []
        assert self.told(TableMapping(), **self.ODD) == []


class TestMetadataColumn:
    def test_it_gathers_what_has_no_column_of_its_own(self) -> None:
        made = row(
            TableMapping(FULL),
            metadata={"m": 1},
            on_behalf_of="someone",
            source_ip="10.0.0.1",
            request_id="req-1",
            user_agent="curl",
        )
        assert made["metadata"] == {
            "m": 1,
            "on_behalf_of": "someone",
            "source_ip": "10.0.0.1",
            "request_id": "req-1",
            "user_agent": "curl",
        }
        assert made["new_values"] is None

    def test_it_is_made_where_the_event_has_no_metadata(self) -> None:
        assert row(TableMapping(FULL), request_id="r")["metadata"] == {"request_id": "r"}
        assert row(TableMapping(FULL), request_id="r", metadata={})["metadata"] == {"request_id": "r"}
        assert row(TableMapping(FULL))["metadata"] is None

    def test_a_column_of_its_own_goes_before(self) -> None:
        mapping = TableMapping(FULL | {"ip": "source_ip"})
        made = row(mapping, source_ip="10.0.0.1", request_id="r")
        assert made["ip"] == "10.0.0.1"
        assert made["metadata"] == {"request_id": "r"}

    def test_a_key_of_the_caller_s_passes_for_no_field(self) -> None:
        made = row(TableMapping(FULL), metadata={"source_ip": "6.6.6.6", "m": 1}, source_ip="10.0.0.1", request_id="r")
        assert made["metadata"] == {
            "metadata": {"source_ip": "6.6.6.6", "m": 1},
            "source_ip": "10.0.0.1",
            "request_id": "r",
        }
        deeper = {"m": {"source_ip": "6.6.6.6"}}
        made = row(TableMapping(FULL), metadata=deeper, source_ip="10.0.0.1")
        assert made["metadata"] == {**deeper, "source_ip": "10.0.0.1"}
        assert row(TableMapping(FULL), metadata={"source_ip": "6.6.6.6"})["metadata"] == {"source_ip": "6.6.6.6"}

    def test_what_only_the_surroundings_said_is_left_out_elsewhere(self) -> None:
        assert TableMapping().left_out == {"source_ip", "request_id", "user_agent", "trace_id", "span_id"}
        assert TableMapping(FULL).left_out == frozenset()
        assert row(source_ip="10.0.0.1", trace_id="0" * 31 + "1")["new_values"] is None
