"""An answer proves the rows of its own request: one that is sent twice, or is somebody else's, proves nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.supabase.binding import is_answer_to, marks_of_requests
from otel_audit_exporter.sinks.supabase.rest_client import RestClient
from otel_audit_exporter.sinks.supabase.sink import SupabaseSink
from otel_audit_exporter.sinks.verdict import Fault
from tests.sinks.rows import COLUMNS, id_of, new_row, new_rows, refusal, soon
from tests.stack import AuditTable, Stack, faults
from tests.stack.faults import Answer, Rewrite, Twice
from tests.stack.messages import Reply, Request


@pytest.fixture
def sink(supabase_sink: SupabaseSink) -> SupabaseSink:
    return supabase_sink


def without_preferences(reply: Reply) -> Reply:
    """Give the reply as a gateway sends it on that knows nothing of preferences."""
    return Reply(
        reply.status, tuple(pair for pair in reply.headers if pair[0].lower() != "preference-applied"), reply.body
    )


@pytest.fixture(params=[True, False], ids=["repeated", "stripped"])
def preferences_repeated(request: pytest.FixtureRequest, stack: Stack) -> bool:
    """Whether the gateway lets the preferences through that PostgREST repeats."""
    if not request.param:
        stack.gateway.inject(Rewrite(without_preferences), times=None)
    return bool(request.param)


@pytest.mark.usefixtures("preferences_repeated")
@pytest.mark.parametrize("failure", [faults.unavailable_json, faults.bad_gateway_page, faults.internal_error])
def test_a_reply_sent_twice_stores_no_other_row(
    stack: Stack, sink: SupabaseSink, audit_table: AuditTable, failure: Callable[[], Answer]
) -> None:
    sink.insert([warm := new_row()], soon())
    twice = stack.gateway.inject(Twice(), when=is_insert)
    sink.insert([first := new_row()], soon())
    assert twice.hits == 1
    stack.gateway.inject(failure(), times=None, when=is_insert)
    second = new_row()
    assert refusal(sink, second).verdict.fault is Fault.TRANSIENT
    assert audit_table.ids() == sorted(map(id_of, (warm, first)))


@pytest.mark.usefixtures("preferences_repeated")
def test_after_a_reply_sent_twice_the_next_row_is_stored(
    stack: Stack, sink: SupabaseSink, audit_table: AuditTable
) -> None:
    rows = [new_row() for _ in range(6)]
    for row in rows:
        stack.gateway.inject(Twice())
        sink.insert([row], soon())
    assert audit_table.ids() == sorted(map(id_of, rows))


@pytest.mark.usefixtures("preferences_repeated")
def test_the_connection_of_an_answer_to_another_request_is_closed(stack: Stack, sink: SupabaseSink) -> None:
    sink.insert([new_row()], soon())
    before = stack.gateway.connections_accepted
    stack.gateway.inject(Twice(), when=is_insert)
    sink.insert([new_row()], soon())
    sink.insert([new_row()], soon())
    assert before < stack.gateway.connections_accepted <= before + 2


def test_an_error_sent_twice_refuses_no_other_row(stack: Stack, sink: SupabaseSink, audit_table: AuditTable) -> None:
    sink.insert([good := new_row()], soon())
    stack.gateway.inject(Twice())
    assert refusal(sink, new_row(id="no uuid")).code == "22P02"
    sink.insert([another := new_row()], soon())
    assert audit_table.ids() == sorted([id_of(good), id_of(another)])


def test_a_look_up_sent_twice_proves_no_other_row(stack: Stack, sink: SupabaseSink, audit_table: AuditTable) -> None:
    known = new_row()
    sink.insert([known], soon())
    stack.gateway.inject(Twice(), when=lambda request: request.method == "GET")
    sink.insert([known], soon())
    audit_table.run_before_insert("return null;")
    assert refusal(sink).message.startswith("the table took the row and did not store it")


@pytest.mark.usefixtures("preferences_repeated")
def test_rows_are_stored_once_whatever_the_gateway_repeats(
    stack: Stack, sink: SupabaseSink, audit_table: AuditTable
) -> None:
    batches = [new_rows(20) for _ in range(4)]
    stack.gateway.inject(Twice(), times=None)
    for batch in batches:
        insert_until_proved(sink, batch)
        insert_until_proved(sink, batch)
    assert audit_table.ids() == sorted(id_of(row) for batch in batches for row in batch)


def test_without_repeated_preferences_the_ids_prove_and_the_connection_is_kept(
    stack: Stack, sink: SupabaseSink
) -> None:
    stack.gateway.inject(Rewrite(without_preferences), times=None)
    sink.insert(new_rows(3), soon())
    stack.gateway.clear()
    stack.gateway.inject(Rewrite(without_preferences), times=None)
    before = stack.gateway.connections_accepted
    for _ in range(3):
        sink.insert(new_rows(3), soon())
    assert [request.query["select"] for request in stack.gateway.requests] == ['"id"'] * 3
    assert stack.gateway.connections_accepted == before


def test_once_preferences_are_repeated_the_short_answer_is_asked_for_again(stack: Stack, sink: SupabaseSink) -> None:
    stripped = stack.gateway.inject(Rewrite(without_preferences), times=None)
    sink.insert([new_row()], soon())
    stripped.remove()
    for _ in range(2):
        sink.insert([new_row()], soon())
    assert "return=minimal" in stack.gateway.requests[-1].headers["prefer"]


def test_ids_of_another_request_prove_nothing(stack: Stack, sink: SupabaseSink) -> None:
    def of_others(reply: Reply) -> Reply:
        return Reply(reply.status, without_preferences(reply).headers, b'[{"id":"%b"}]' % id_of(new_row()).encode())

    stack.gateway.inject(Rewrite(of_others), times=None)
    error = refusal(sink)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (Fault.TRANSIENT, True)


def test_no_two_requests_in_a_row_carry_the_same_marks() -> None:
    marks = marks_of_requests()
    row = [next(marks) for _ in range(9)]
    for before, after in itertools.pairwise(row):
        applied = {"preference-applied": "return=minimal, " + ", ".join(before)}
        assert is_answer_to(before, applied)
        assert is_answer_to(after, applied) is False


def test_columns_without_a_zone_are_unaffected_by_the_marks(
    stack: Stack, sink: SupabaseSink, audit_table: AuditTable
) -> None:
    audit_table.alter(
        "add column of_session text default current_setting('timezone'), add column local_at timestamp,"
        " add column made_at timestamp default now()"
    )
    stack.sql("alter role service_role set timezone = 'America/Lima'")
    try:
        with_local = SupabaseSink(stack.url, stack.service_key, table=audit_table.name, columns=(*COLUMNS, "local_at"))
        restart_postgrest(stack)
        for _ in range(4):
            with_local.insert([new_row(local_at="2026-03-04T05:06:07.123456+00:00")], soon())
        with_local.close()
    finally:
        stack.sql("alter role service_role reset timezone")
        restart_postgrest(stack)
    rows = audit_table.rows()
    assert {row["of_session"] for row in rows} == {"America/Lima"}
    assert {str(row["local_at"]) for row in rows} == {"2026-03-04 05:06:07.123456"}


def test_a_client_reads_its_own_answer(stack: Stack, sink: SupabaseSink, audit_table: AuditTable) -> None:
    rows = [new_row() for _ in range(3)]
    sink.insert(rows, soon())
    client = RestClient(stack.url, stack.service_key)
    stack.gateway.inject(Twice(), times=None)
    for row in rows:
        assert client.get(audit_table.name, {"select": "id", "id": f"eq.{id_of(row)}"}) == [{"id": id_of(row)}]
    client.close()


def insert_until_proved(sink: SupabaseSink, rows: list[bytes]) -> None:
    """Insert again, as delivery does, where it is only not known whether the rows are stored."""
    while not is_proved(sink, rows):
        pass


def is_proved(sink: SupabaseSink, rows: list[bytes]) -> bool:
    """Tell whether an insert is known to have stored the rows, after a doubt at most."""
    try:
        sink.insert(rows, soon())
        return True
    except SinkError as error:
        if not error.verdict.perhaps_stored:
            raise
        return False


def restart_postgrest(stack: Stack) -> None:
    """Have PostgREST read the settings of the roles."""
    stack.postgrest.stop()
    stack.postgrest.start()
    stack.wait_until_serving()


def is_insert(request: Request) -> bool:
    return request.method == "POST"
