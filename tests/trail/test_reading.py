"""`read_events` and `count_events`: every field and every row, from every kind of table."""

from __future__ import annotations

import asyncio
import string
import tracemalloc
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import NonRecordingSpan, SpanContext, use_span

from otel_audit_exporter import (
    AuditConfigurationError,
    EventCount,
    audit_context,
    audit_event,
    configure_audit,
    count_events,
    read_events,
    read_events_async,
    shutdown_audit,
)
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.table.readers import reader
from otel_audit_exporter.table.readers.memory import MemorySource
from otel_audit_exporter.table.readers.query import uuid_range
from tests.stack import AuditTable, Stack
from tests.support.row_limit import row_limit
from tests.support.trail_events import PARTS, START, USERS, YACHTS, write
from tests.trail.conftest import RESERVED, Configure

FULL = {**DEFAULT_COLUMNS, **{name: name for name in ("outcome", "actor_type", "metadata", "signature")}}
ONE_DOCUMENT = {"key": "record_id", "what": "action", "at": "timestamp", "document": "new_values"}
NO_NEW_VALUES = {"id": "record_id", "who": "user_id", "created_at": "timestamp", "metadata": "metadata"}
SERVED = ("postgres", "supabase")


def ids(**asked: Any) -> list[str]:
    return [event.record_id for event in read_events(newest_first=False, **asked)]


def test_every_filter_finds_what_it_says(configured: Configure) -> None:
    pipeline = configured()
    written = write(
        pipeline,
        {},
        {"entity_id": PARTS[1]},
        {"user_id": USERS[1]},
        {"yacht_id": YACHTS[1]},
        {"action": "dispose", "outcome": "failure"},
        {"entity_type": "order"},
    )

    def found(**asked: Any) -> list[int]:
        assert count_events(**asked) == EventCount(len(ids(**asked)), exact=True)
        return [written.index(one) for one in ids(**asked)]

    assert found() == [0, 1, 2, 3, 4, 5]
    assert found(entity=("part", PARTS[1])) == [1]
    assert found(entity=("part", UUID(PARTS[1]))) == [1]
    assert found(user=USERS[1].upper()) == [2]
    assert found(tenant=f"{{{YACHTS[1]}}}") == [3]
    assert found(action="dispose") == [4]
    assert found(outcome="failure") == [4]
    assert found(outcome="success") == [0, 1, 2, 3, 5]
    assert found(outcome="unknown") == []
    assert found(since=START + timedelta(seconds=2), until=START + timedelta(seconds=4)) == [2, 3]
    assert found(text="disp") == [4]
    assert found(text="order") == [5]
    assert found(text="pose") == []
    assert found(text=PARTS[1][:13]) == [1]
    assert found(text=USERS[1].upper()) == [2]
    assert [event.record_id for event in read_events(limit=2)] == [written[5], written[4]]


def test_a_request_and_a_trace_are_found_where_they_were_folded(configured: Configure) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    pipeline = configured(surroundings="all")
    with audit_context(request_id="r-1"):
        written = write(pipeline, {})
    span = NonRecordingSpan(SpanContext(int(trace, 16), 1, is_remote=False))
    with use_span(span):
        written += write(pipeline, {})
    assert ids(request_id="r-1") == written[:1]
    assert ids(trace_id=trace.upper()) == written[1:]
    assert (ids(request_id="r-2"), ids(trace_id="0" * 32)) == ([], [])


def test_pages_join_in_both_directions_where_times_are_equal(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PAGE", 7)
    written = sorted(write(configured(), *({"timestamp": START} for _ in range(30))))
    assert ids() == written
    assert [event.record_id for event in read_events()] == written[::-1]
    page, after = [], None
    while batch := list(read_events(after=after, limit=4)):
        page += [event.record_id for event in batch]
        after = batch[-1].mark
    assert page == written[::-1]


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
def test_no_more_rows_are_read_than_were_asked_for(configured: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    read, limits = MemorySource.rows, []

    def rows(self: MemorySource, known: Any, conditions: Any, order: Any, limit: int) -> Any:
        limits.append(limit)
        return read(self, known, conditions, order, limit)

    monkeypatch.setattr(MemorySource, "rows", rows)
    write(configured(), *({} for _ in range(12)))
    assert len(list(read_events(limit=3))) == 3
    assert len(list(read_events())) == 12
    assert limits == [3, reader.PAGE, reader.PAGE]


@pytest.mark.parametrize("kind", ["supabase"], indirect=True)
def test_a_row_limit_of_the_server_is_no_end(stack: Stack, configured: Configure) -> None:
    written = write(configured(), *({} for _ in range(10)))
    with row_limit(stack, 3):
        assert ids() == written
        assert count_events() == EventCount(10, exact=True)


def test_what_surrounded_an_event_comes_back(configured: Configure) -> None:
    with audit_context(request_id="r-1", source_ip="10.0.0.1"):
        write(configured(), {"on_behalf_of": USERS[1], "metadata": {"why": ["x"]}, "signature": {"by": "k"}})
    (event,) = read_events()
    assert (event.on_behalf_of, event.metadata, event.signature) == (USERS[1], {"why": ["x"]}, {"by": "k"})
    assert (event.outcome, event.actor_type, event.new_values) == ("success", "user", None)
    assert event.timestamp == START
    assert (event.tenant_id, event.actor_id) == (YACHTS[0], USERS[0])


@pytest.mark.parametrize("kind", SERVED, indirect=True)
def test_columns_of_others_are_given_under_their_own_names(
    stack: Stack, audit_table: AuditTable, configured: Configure
) -> None:
    audit_table.alter("add received_at date default '2026-01-02', add tags jsonb default '[1, 2.5]'")
    stack.reload_schema_cache()
    write(configured(), {})
    (event,) = read_events()
    assert event.other == {"received_at": "2026-01-02", "tags": [1, 2.5]}
    assert event.document()["tags"] == [1, 2.5]


@pytest.mark.parametrize("kind", SERVED, indirect=True)
def test_older_rows_are_read_with_the_mapping_of_their_time(
    stack: Stack, audit_table: AuditTable, configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PAGE", 2)
    audit_table.alter("add actor uuid, alter created_by drop not null, add note jsonb")
    stack.reload_schema_cache()
    before = {name: field for name, field in DEFAULT_COLUMNS.items() if name != "created_by"} | {"actor": "user_id"}
    written = write(configured(columns=before), *({"user_id": USERS[1]} for _ in range(3)))
    change = START + timedelta(days=1)
    pipeline = configured(columns_before={change: before})
    later = [{"timestamp": change + timedelta(seconds=number), "user_id": USERS[1]} for number in range(3)]
    written += write(pipeline, *later, {"timestamp": change + timedelta(seconds=9)})
    assert ids() == written
    assert [event.record_id for event in read_events()] == written[::-1]
    assert ids(user=USERS[1]) == written[:-1]
    assert count_events(user=USERS[1]) == EventCount(6, exact=True)
    first = list(read_events(limit=2))
    assert [event.record_id for event in read_events(after=first[-1])] == written[-3::-1]
    assert {event.user_id for event in read_events(until=change)} == {USERS[1]}


@pytest.mark.parametrize("kind", SERVED, indirect=True)
def test_a_failed_action_is_found_whichever_column_says_so(
    stack: Stack, audit_table: AuditTable, configured: Configure
) -> None:
    written = write(configured(), {"outcome": "failure"}, {})
    audit_table.alter("add outcome text not null default 'success'")
    stack.reload_schema_cache()
    pipeline = configured(columns={**DEFAULT_COLUMNS, "outcome": "outcome"})
    written += write(pipeline, {"outcome": "failure", "timestamp": START + timedelta(hours=1)})
    assert ids(outcome="failure") == [written[0], written[2]]
    assert ids(outcome="success") == [written[1]]


def test_an_impossible_query_is_reported_at_the_call(configured: Configure) -> None:
    configured()
    wrong: list[dict[str, Any]] = [
        {"user": "x"},
        {"entity": ("part", "no-uuid")},
        {"entity": "part"},
        {"tenant": ""},
        {"outcome": "done"},
        {"since": datetime(2026, 1, 1)},  # a time without a zone is what is tried
        {"after": "no mark"},
        {"after": "WzksMSwyXQ"},
        {"limit": -1},
        {"trail": "ledger"},
        {"database": "acme"},
    ]
    for asked in wrong:
        with pytest.raises(AuditConfigurationError):
            read_events(**asked)
    with pytest.raises(AuditConfigurationError, match="is no UUID"):
        count_events(user="x")


@pytest.mark.parametrize("text", RESERVED)
def test_no_character_of_a_value_means_anything_to_a_filter(configured: Configure, text: str) -> None:
    written = write(configured(), {"action": text}, {"action": "other", "entity_type": text}, {"action": f"{text}+"})
    assert ids(action=text) == written[:1]
    assert ids(text=text) == written
    assert ids(text=f"{text}+") == written[2:]
    assert count_events(action=text).value == 1


@pytest.mark.parametrize("kind", SERVED, indirect=True)
def test_a_role_without_the_right_to_read_gets_a_clear_message(stack: Stack, configured: Configure, kind: str) -> None:
    write(configured(), {})
    configured(**({"dsn": stack.dsn("audit_writer")} if kind == "postgres" else {"token": stack.token("audit_writer")}))
    with pytest.raises(SinkError, match="may not read") as caught:
        list(read_events())
    assert "select" in caught.value.verdict.remedy


@pytest.mark.parametrize("kind", SERVED, indirect=True)
def test_a_role_that_may_read_the_mapped_columns_only_reads_them(
    stack: Stack, audit_table: AuditTable, configured: Configure, kind: str
) -> None:
    audit_table.alter("add secret text default 's'")
    stack.reload_schema_cache()
    written = write(configured(), {})
    stack.sql(f"grant select ({', '.join(DEFAULT_COLUMNS)}) on {audit_table.name} to audit_writer")
    configured(**({"dsn": stack.dsn("audit_writer")} if kind == "postgres" else {"token": stack.token("audit_writer")}))
    assert [(event.record_id, event.other) for event in read_events()] == [(written[0], {})]


@pytest.mark.parametrize("kind", ["sqlite", "memory"], indirect=True)
def test_ten_thousand_are_counted_and_more_are_ten_thousand_and_more(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(configured(), *({} for _ in range(5)))
    assert str(count_events()) == "5"
    assert str(EventCount(10_000, exact=False)) == "10,000+"
    assert list(read_events(limit=0)) == []


@pytest.mark.parametrize("kind", SERVED, indirect=True)
def test_more_than_ten_thousand_are_not_counted(stack: Stack, audit_table: AuditTable, configured: Configure) -> None:
    write(configured(), {})
    fill(stack, audit_table, 9_999)
    assert count_events() == EventCount(10_000, exact=True)
    fill(stack, audit_table, 1)
    assert count_events() == EventCount(10_000, exact=False)
    assert sum(1 for _ in read_events()) == 10_001


def fill(stack: Stack, audit_table: AuditTable, count: int) -> None:
    stack.sql(
        f"insert into {audit_table.name} select gen_random_uuid(), yacht_id, entity_type, 'filled', entity_id,"
        f" created_by, created_at + make_interval(secs => n) from {audit_table.name}, generate_series(1, {count}) n"
        " where action = 'receive'"
    )


@pytest.mark.parametrize("kind", ["postgres"], indirect=True)
def test_many_events_are_read_in_little_memory(stack: Stack, audit_table: AuditTable, configured: Configure) -> None:
    write(configured(), {})
    fill(stack, audit_table, 20_000)
    next(iter(read_events()))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_events()) == 20_001
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


async def _all(**asked: Any) -> list[str]:
    return [event.record_id async for event in read_events_async(**asked)]


def test_the_async_twin_gives_the_same(configured: Configure) -> None:
    written = write(configured(), {}, {"action": "dispose"})
    assert asyncio.run(_all()) == written[::-1]
    assert asyncio.run(_all(action="dispose", newest_first=False)) == written[1:]


def test_without_a_pipeline_the_environment_says_what_is_read(
    configured: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("OTEL_AUDIT_SQLITE_PATH", str(tmp_path / "other.db"))
    with pytest.raises(AuditConfigurationError, match="is not there"):
        list(read_events())


# What cannot be stored is made visible at the call, and comes back so.
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_before_the_first_event_there_is_nothing(configured: Configure) -> None:
    configured()
    assert list(read_events()) == []
    assert count_events() == EventCount(0, exact=True)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(characters, max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(characters, max_size=6), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.text(string.ascii_lowercase, min_size=1, max_size=6), json_values, max_size=3)
names = st.text(string.ascii_letters + " ,.*()\"'\\%_ü", min_size=1, max_size=10).filter(lambda text: text.strip())


@given(
    event=st.fixed_dictionaries(
        {"action": names, "entity_type": names, "outcome": st.sampled_from(["success", "failure", "unknown"])},
        optional={
            "old_values": documents,
            "new_values": documents,
            "actor_type": st.sampled_from(["user", "service", "system"]),
            "on_behalf_of": names,
            "metadata": documents.filter(bool),
            "signature": documents.filter(bool),
        },
    ),
    columns=st.sampled_from([DEFAULT_COLUMNS, FULL, ONE_DOCUMENT, NO_NEW_VALUES]),
)
@settings(max_examples=60)
def test_every_field_comes_back(event: dict[str, Any], columns: Mapping[str, str]) -> None:
    # Nothing is redacted: a key that is made up at random may be that of a secret.
    with configure_audit("memory", outbox="memory", columns=columns, redact_keys=()):
        receipt = audit_event(**event, entity_id=uuid4(), yacht_id=uuid4(), user_id=uuid4())
        receipt.result(10)
        (stored,) = read_events()
    shutdown_audit()
    for name, value in event.items():
        assert _alike(getattr(stored, name), value), name


def _alike(stored: Any, said: Any) -> bool:
    """Whether a value came back; an empty object beside something that was folded comes back as nothing."""
    return bool(stored == said) or (stored is None and said == {})


def test_uuids_that_begin_with_a_text_are_a_range() -> None:
    assert uuid_range("0192D3") == ("0192d300-0000-0000-0000-000000000000", "0192d3ff-ffff-ffff-ffff-ffffffffffff")
    assert uuid_range("0192d3a4-5") == ("0192d3a4-5000-0000-0000-000000000000", "0192d3a4-5fff-ffff-ffff-ffffffffffff")
    assert uuid_range("0192-d3") is None
    assert uuid_range("xyz") is None
    bounds = [uuid_range(text) for text in ("0", "01", "019")]
    assert all(outer[0] <= inner[0] <= inner[1] <= outer[1] for outer, inner in pairwise(bounds) if outer and inner)
