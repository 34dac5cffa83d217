"""From an event to a row: which column takes which field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

import orjson
import pytest

from otel_audit_exporter.errors import AuditConfigurationError, AuditEventError
from otel_audit_exporter.event.encoded_event import decode
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS, SURROUNDINGS
from otel_audit_exporter.event.joined import Joined, joined
from otel_audit_exporter.event.surroundings import Found
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
        mapping = TableMapping(
            {"key": "record_id", "what": "action", "who": "user_id", "how": "outcome"}, unmapped="drop"
        )
        assert mapping.columns == ("key", "what", "who", "how")
        assert mapping.key_column == "key"
        assert row(mapping, outcome="failure") == {
            "key": RECORD,
            "what": "create_receiving",
            "who": USER,
            "how": "failure",
        }

    def test_one_column_alone_is_a_row(self) -> None:
        assert row(TableMapping({"id": "record_id"}, unmapped="drop"), new_values={"a": 1}) == {"id": RECORD}

    def test_a_column_s_name_may_hold_any_character(self) -> None:
        names = {'a"b': "record_id", "50% of": "action", "ü\\": "entity_type"}
        assert row(TableMapping(names, unmapped="drop")) == {
            'a"b': RECORD,
            "50% of": "create_receiving",
            "ü\\": "receiving",
        }

    def test_the_full_schema_takes_everything(self) -> None:
        full = row(TableMapping(FULL), outcome="failure", actor_type="service", signature={"s": 1}, metadata={"m": 2})
        assert full["outcome"] == "failure"
        assert full["actor_type"] == "service"
        assert full["signature"] == {"s": 1}
        assert full["metadata"] == {"m": 2}
        assert full["new_values"] is None

    def test_an_event_name_column_gets_the_default_name_too(self) -> None:
        mapping = TableMapping({"id": "record_id", "name": "event_name"}, unmapped="drop")
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
        mapping = TableMapping({"id": "record_id", "who": "user_id", "what": "entity_type"}, {"what": "thing"}, "drop")
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

    def test_every_field_is_kept(self) -> None:
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
        "changes",
        [
            {},
            {"outcome": "success"},
            {"actor_type": "user"},
            {"source_ip": Found("10.0.0.1"), "request_id": Found("r")},
        ],
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
        expected |= {"source_ip", "request_id", "user_agent"}
        assert TableMapping(unmapped="error").refused == expected
        assert TableMapping(FULL, unmapped="error").refused == frozenset()
        assert TableMapping().refused == frozenset()


class TestLost:
    def reported(self, mapping: TableMapping, **given: Any) -> list[tuple[str, ...]]:
        calls: list[tuple[str, ...]] = []
        mapping.on_lost_surroundings(calls.append)
        for _ in range(2):
            row(mapping)
            row(mapping, **given)
        return calls

    def test_lost_surroundings_are_reported_once_with_all_their_names(self) -> None:
        assert self.reported(TableMapping(), user_agent=Found("curl")) == [SURROUNDINGS]
        assert self.reported(TableMapping(FULL), user_agent=Found("curl")) == []

    def test_what_a_caller_gave_is_folded_and_not_reported(self) -> None:
        assert self.reported(TableMapping(), outcome="failure", user_agent="curl") == []

    def test_the_settings_say_which_surroundings_are_lost(self) -> None:
        assert TableMapping(surroundings="ids").lost_surroundings == ("source_ip", "user_agent")
        assert TableMapping(surroundings="all").lost_surroundings == ()

    def test_dropped_fields_are_known_before_any_event(self) -> None:
        assert TableMapping(unmapped="drop").dropped == (
            "outcome", "actor_type", "on_behalf_of", "metadata", "signature", "source_ip", "request_id",
            "user_agent",
        )  # fmt: skip
        assert TableMapping().dropped == ()

    def test_error_refuses_what_a_caller_gives_and_not_what_was_found(self) -> None:
        validator = EventValidator(refused=TableMapping(unmapped="error").refused)
        validator.compose(said(user_agent=Found("curl")))
        with pytest.raises(AuditEventError, match="user_agent: no column takes it"):
            validator.compose(said(user_agent="curl"))

    def test_surroundings_cannot_be_kept_without_a_document_column(self) -> None:
        with pytest.raises(AuditConfigurationError, match="surroundings='ids'"):
            TableMapping({"id": "record_id", "action": "action"}, unmapped="drop", surroundings="ids")

    def test_surroundings_that_are_kept_are_not_dropped(self) -> None:
        mapping = TableMapping(unmapped="drop", surroundings="all")
        assert set(mapping.dropped).isdisjoint(SURROUNDINGS)
        made = row(mapping, outcome="failure", user_agent="curl", request_id=Found("r"))
        assert made["new_values"] == {"_audit": {"user_agent": "curl", "request_id": "r"}}

    def test_a_table_without_a_document_column_cannot_fold(self) -> None:
        with pytest.raises(AuditConfigurationError, match=r"no column takes .*outcome.*unmapped='drop'"):
            TableMapping({"id": "record_id", "action": "action"})


class TestOneColumnOfValues:
    DETAILS: ClassVar[dict[str, str]] = {"id": "record_id", "action": "action"}
    GIVEN: ClassVar[dict[str, Any]] = {
        "old_values": {"a": 1},
        "new_values": {"a": 2},
        "outcome": "failure",
        "on_behalf_of": "someone",
        "metadata": {"m": 1},
    }

    @pytest.mark.parametrize("target", ["new_values", "metadata", "old_values"])
    def test_it_keeps_everything_that_the_caller_gave(self, target: str) -> None:
        mapping = TableMapping({**self.DETAILS, "details": target})
        made = row(mapping, **self.GIVEN)
        assert made.keys() == {"id", "action", "details"}
        back = mapping.fields_of(made)
        assert {name: back[name] for name in self.GIVEN} == self.GIVEN
        assert (back["yacht_id"], back["user_id"], back["entity_id"]) == (YACHT, USER, ENTITY)
        assert back["timestamp"] is not None

    def test_new_values_go_before_metadata_and_old_values(self) -> None:
        mapping = TableMapping({**self.DETAILS, "o": "old_values", "m": "metadata", "n": "new_values"})
        made = row(mapping, outcome="failure")
        assert (made["o"], made["m"]) == (None, None)
        assert made["n"]["_audit"]["outcome"] == "failure"


class TestPaths:
    COLUMNS = dict(DEFAULT_COLUMNS) | {
        "severity": "metadata.severity",
        "total": "new_values.total",
        "dotted": 'metadata."b.c"',
        "deep": "metadata.a.b",
    }

    def test_a_column_takes_a_copy_and_the_field_is_still_folded(self) -> None:
        metadata = {"severity": "high", "b.c": [1], "a": {"b": 2**70}}
        made = row(TableMapping(self.COLUMNS), metadata=metadata, new_values={"total": 1.5})
        assert (made["severity"], made["total"], made["dotted"]) == ("high", 1.5, [1])
        assert made["new_values"]["_audit"]["metadata"].keys() == metadata.keys()
        assert made["new_values"]["total"] == 1.5

    def test_a_number_of_any_size_keeps_its_digits(self) -> None:
        body = EventValidator().compose(said(record_id=RECORD, metadata={"a": {"b": 2**70}})).body
        assert b'"deep":\n%d\n' % 2**70 in TableMapping(self.COLUMNS).row(body)

    @pytest.mark.parametrize("metadata", [None, {}, {"a": [1]}, {"a": {"c": 1}}])
    def test_a_path_that_leads_nowhere_is_null(self, metadata: Any) -> None:
        made = row(TableMapping(self.COLUMNS), metadata=metadata, new_values=[1])
        assert (made["severity"], made["total"], made["deep"]) == (None, None, None)

    def test_a_default_fills_a_path_without_a_value(self) -> None:
        mapping = TableMapping(self.COLUMNS, {"severity": "info"})
        assert row(mapping)["severity"] == "info"
        assert row(mapping, metadata={"severity": "high"})["severity"] == "high"

    def test_a_field_without_a_column_is_read_from_its_paths(self) -> None:
        mapping = TableMapping(self.COLUMNS, unmapped="drop")
        made = row(mapping, metadata={"severity": "high", "a": {"b": 1}, "lost": 2})
        assert mapping.fields_of(made)["metadata"] == {"severity": "high", "a": {"b": 1}}

    @pytest.mark.parametrize("source", ["action.x", "metadata.", "metadata..a", 'metadata."a', "nothing.a"])
    def test_a_path_that_cannot_be_is_refused(self, source: str) -> None:
        with pytest.raises(AuditConfigurationError, match="columns: "):
            TableMapping({"id": "record_id", "n": "new_values", "x": source})

    def test_default_columns_and_second_names_are_sources_too(self) -> None:
        mapping = TableMapping(
            {"k": "id", "t": "tenant_id", "a": "actor_id", "b": "created_by", "at": "created_at", "n": "new_values"}
        )
        made = row(mapping)
        assert (made["k"], made["t"], made["a"], made["b"]) == (RECORD, YACHT, USER, USER)
        assert made["at"] is not None


class TestReadBack:
    EVENTS: ClassVar[list[dict[str, Any]]] = [
        {},
        {"outcome": "failure", "new_values": {"a": 1}},
        {"outcome": "failure", "new_values": 5},
        {"outcome": "failure", "new_values": {"value": 5}},
        {"outcome": "failure", "new_values": {"_audit": {"outcome": "success"}}},
        {"new_values": {"_audit": {"outcome": "failure"}}},
        {"new_values": {"value": 1, "_audit": {}}},
        {"new_values": {"value": {"_audit": {}}, "_audit": {}}, "metadata": {"_audit": {"action": "x"}}},
        {"new_values": [1], "old_values": {"_audit": {"outcome": "failure"}}},
        {"metadata": {"m": 1, "request_id": "mine"}, "request_id": "r", "on_behalf_of": 7},
        {"metadata": {"metadata": {"a": 1}}, "on_behalf_of": "x"},
        {"source_ip": "10.0.0.1", "user_agent": "curl"},
        {"source_ip": "testclient", "signature": {"s": 1}, "actor_type": "service", "user_id": None},
    ]
    TABLES: ClassVar[list[dict[str, str]]] = [
        dict(DEFAULT_COLUMNS),
        FULL,
        FULL | {"ip": "source_ip"},
        {"id": "record_id", "details": "metadata"},
        {"id": "record_id", "details": "old_values", "ip": "source_ip", "ua": "user_agent"},
    ]

    @pytest.mark.parametrize("given", EVENTS)
    @pytest.mark.parametrize("columns", TABLES)
    def test_every_field_that_was_given_is_back_in_its_place(
        self, columns: dict[str, str], given: dict[str, Any]
    ) -> None:
        mapping = TableMapping(columns)
        body = EventValidator().compose(said(record_id=RECORD, **given)).body
        assert mapping.fields_of(orjson.loads(mapping.row(body))) == decode(body)

    def test_a_caller_cannot_forge_a_folded_field(self) -> None:
        for mapping in (TableMapping(), TableMapping(unmapped="drop")):
            made = row(mapping, new_values={"_audit": {"outcome": "failure"}})
            assert mapping.fields_of(made)["outcome"] in ("success", None)

    def test_a_column_added_later_does_not_hide_the_folded_field(self) -> None:
        later = TableMapping(FULL)
        old = {**row(outcome="failure"), "outcome": "success"}
        assert later.fields_of(old)["outcome"] == "failure"

    def test_documents_in_text_columns_are_read(self) -> None:
        made = row(outcome="failure", new_values={"a": 1})
        made["new_values"] = orjson.dumps(made["new_values"]).decode()
        back = TableMapping().fields_of(made)
        assert (back["outcome"], back["new_values"]) == ("failure", {"a": 1})


class TestSurroundings:
    FOUND: ClassVar[dict[str, Any]] = {
        "source_ip": Found("10.0.0.1"),
        "request_id": Found("r"),
        "user_agent": Found("curl"),
        "trace_id": "0" * 31 + "1",
        "span_id": "0" * 15 + "2",
    }

    @pytest.mark.parametrize(
        ("setting", "kept"),
        [("drop", set()), ("ids", {"request_id", "trace_id", "span_id"}), ("all", set(FOUND))],
    )
    def test_the_setting_says_what_is_folded(self, setting: Any, kept: set[str]) -> None:
        made = row(TableMapping(surroundings=setting), new_values={"a": 1}, **self.FOUND)
        expected = {"a": 1} | ({"_audit": {name: str(self.FOUND[name]) for name in kept}} if kept else {})
        assert made["new_values"] == expected

    def test_what_the_caller_gave_is_kept_whatever_the_setting(self) -> None:
        made = row(source_ip="10.0.0.1", request_id=Found("r"))
        assert made["new_values"] == {"_audit": {"source_ip": "10.0.0.1"}}

    def test_many_traced_events_keep_their_ids_where_these_are_folded(self) -> None:
        trace = {name: self.FOUND[name] for name in ("trace_id", "span_id")}
        bodies = [EventValidator().compose(said(**trace)).body for _ in range(2)]
        rows = TableMapping(surroundings="ids").rows(Joined(joined(bodies), 2))
        assert [orjson.loads(one)["new_values"] for one in rows] == [{"_audit": trace}] * 2

    @pytest.mark.parametrize("address", ["testclient", "unix:", "10.0.0.1:80", "fe80::1%eth0"])
    def test_what_is_no_address_never_reaches_its_column(self, address: str) -> None:
        mapping = TableMapping(dict(DEFAULT_COLUMNS) | {"ip": "source_ip"})
        assert row(mapping, source_ip=Found(address))["ip"] is None
        made = row(mapping, source_ip=address)
        assert (made["ip"], made["new_values"]) == (None, {"_audit": {"source_ip": address}})

    @pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.0/8", "::1"])
    def test_addresses_reach_their_column(self, address: str) -> None:
        assert row(TableMapping(dict(DEFAULT_COLUMNS) | {"ip": "source_ip"}), source_ip=address)["ip"] == address


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

    def test_fields_only_from_the_surroundings_are_left_out_elsewhere(self) -> None:
        assert TableMapping().lost_surroundings == SURROUNDINGS
        assert TableMapping(FULL).lost_surroundings == ()
        assert row(source_ip=Found("10.0.0.1"), trace_id="0" * 31 + "1")["new_values"] is None
