"""An event's bytes: the row as it is where nobody said more, whether one by one or many at once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, use_span

from otel_audit_exporter.event.encoded_event import decode
from otel_audit_exporter.event.fields import SURROUNDINGS
from otel_audit_exporter.event.joined import SEPARATOR, Joined, json_array
from otel_audit_exporter.event.serialization import as_row, as_rows, split
from otel_audit_exporter.event.validation import EventValidator
from otel_audit_exporter.table.mapping import TableMapping
from tests.support.events import said

SPAN = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False))
HOSTILE = {"text": '},\n\n{"id":\n"x"\n', "list": ["]", "[{", {"success": ",\n"}], "nul": "\0", "empty": ""}


def plain(**more: Any) -> bytes:
    return EventValidator().compose(said(**more)).body


def traced(**more: Any) -> bytes:
    with use_span(SPAN):
        return plain(**more)


def joined(*bodies: bytes) -> Joined:
    return Joined(SEPARATOR.join(bodies), len(bodies))


def test_an_event_with_only_the_usual_fields_is_its_row() -> None:
    body = plain(new_values=HOSTILE)
    assert as_row(body, traces_too=False) == body
    assert orjson.loads(body)["new_values"]["text"] == HOSTILE["text"]


def test_a_traced_event_is_its_row_where_traces_may_be_lost() -> None:
    body = traced(new_values=HOSTILE)
    assert as_row(body, traces_too=False) is None
    row = as_row(body, traces_too=True)
    assert row is not None
    assert orjson.loads(row) == orjson.loads(TableMapping().row(body))


@pytest.mark.parametrize(
    "more",
    [{"outcome": "failure"}, {"metadata": {"a": 1}}, {"signature": {}}, {"source_ip": "::1"}, {"event_name": "x"}],
)
def test_an_event_with_more_fields_cannot_be_its_own_row(more: dict[str, Any]) -> None:
    for body in (plain(**more), traced(**more)):
        assert as_row(body, traces_too=True) is None
        assert as_rows(joined(plain(), body, plain()), traces_too=True) is None
        assert as_rows(joined(body), traces_too=True) is None


@pytest.mark.parametrize("bodies", [[plain], [traced], [plain, traced, plain], [traced, traced, plain]])
def test_many_events_give_the_same_rows_as_single_ones(bodies: list[Any]) -> None:
    made = [make(new_values=HOSTILE, old_values=number) for number, make in enumerate(bodies * 3)]
    rows = as_rows(joined(*made), traces_too=True)
    assert rows is not None
    assert list(rows) == [as_row(body, traces_too=True) for body in made]
    assert orjson.loads(json_array(rows)) == [orjson.loads(TableMapping().row(body)) for body in made]


def test_many_events_keep_their_traces_where_losses_are_reported() -> None:
    assert as_rows(joined(plain(), traced()), traces_too=False) is None
    assert as_rows(joined(plain(), plain()), traces_too=False) is not None


@pytest.mark.parametrize("odd", [b"", b"[]", b"{}", b"[1,\n2]", b"[\xff,\n]", b'["\n"'])
def test_what_is_no_event_is_never_taken_for_one(odd: bytes) -> None:
    assert as_row(odd, traces_too=True) is None
    for bodies in ([odd], [odd, plain()], [plain(), odd], [traced(), odd, traced()]):
        assert as_rows(joined(*bodies), traces_too=True) is None
    assert len(split(odd)) <= 2


def test_a_mapping_gives_many_events_the_rows_that_it_gives_each() -> None:
    bodies = joined(plain(), traced(), plain(outcome="failure"), plain(metadata={"a": [1]}))
    for mapping in (
        TableMapping(),
        TableMapping({"a": "action", "key": "record_id", "new_values": "new_values"}),
        TableMapping(defaults={"old_values": {}}),
        TableMapping(unmapped="drop"),
    ):
        assert list(mapping.rows(bodies)) == [mapping.row(body) for body in bodies]


def test_a_lost_trace_is_reported_once_for_many_events_too() -> None:
    reported: list[tuple[str, ...]] = []
    mapping = TableMapping()
    mapping.on_lost_surroundings(reported.append)
    for _ in range(2):
        assert [orjson.loads(row) for row in mapping.rows(joined(plain(), traced()))]
    assert reported == [SURROUNDINGS]


def test_the_values_are_found_in_either_form() -> None:
    assert decode(plain(old_values={"a": 1}))["old_values"] == {"a": 1}
    assert decode(plain())["outcome"] == decode(traced())["outcome"] == "success"
    assert decode(traced())["span_id"] == f"{0xDEF:016x}"


def test_what_an_earlier_version_left_is_read_all_the_same() -> None:
    for body in (plain(new_values=HOSTILE), traced(new_values=HOSTILE)):
        flat = b"[" + b",\n".join(split(body)) + b"]"
        assert decode(flat) == decode(body)
        assert orjson.loads(TableMapping().row(flat)) == orjson.loads(TableMapping().row(body))
        assert as_rows(joined(plain(), flat), traces_too=True) is None
