"""A proxy that says 413: a row that fits is held, and only one that is larger than what was accepted may be parked."""

from __future__ import annotations

import pytest

from otel_audit_exporter.sinks.accepted_size import AcceptedSize
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.http_rules import classify_http
from otel_audit_exporter.sinks.supabase.sink import SupabaseSink
from otel_audit_exporter.sinks.verdict import Fault
from tests.sinks.rows import new_row, new_rows, refusal, soon
from tests.stack import AuditTable, Stack, faults
from tests.stack.faults import Answer
from tests.stack.messages import Reply


def too_large(code: str | None = None) -> SinkError:
    return SinkError(classify_http(413, code), "too large", status=413, code=code)


@pytest.mark.parametrize(
    ("accepted", "rows", "size", "fault"),
    [
        (0, 1, 10, Fault.RECORD),
        (9, 1, 10, Fault.RECORD),
        (10, 1, 10, Fault.TRANSIENT),
        (500, 1, 10, Fault.TRANSIENT),
        (500, 2, 10, Fault.RECORD),  # halved anyway
    ],
)
def test_only_a_row_that_may_be_too_large_is_at_fault(accepted: int, rows: int, size: int, fault: Fault) -> None:
    known = AcceptedSize()
    known.note(accepted)
    verdict = known.judged(too_large(), rows, size).verdict
    assert (verdict.fault, verdict.halve) == (fault, True)


def test_a_code_of_postgresql_is_believed_at_any_size() -> None:
    known = AcceptedSize()
    known.note(500)
    assert known.judged(too_large("54001"), 1, 10).verdict.park_at_once


def test_a_row_that_fits_is_held_after_a_413(
    stack: Stack, supabase_sink: SupabaseSink, audit_table: AuditTable
) -> None:
    assert refuse_once(stack, supabase_sink, new_row()) is Fault.RECORD  # nothing is known yet
    supabase_sink.insert(new_rows(10), soon())
    row = new_row()
    assert refuse_once(stack, supabase_sink, row) is Fault.TRANSIENT
    assert refuse_once(stack, supabase_sink, new_row(new_values="x" * 50_000)) is Fault.RECORD
    supabase_sink.insert([row], soon())
    assert audit_table.count() == 11


def refuse_once(stack: Stack, sink: SupabaseSink, row: bytes) -> Fault:
    stack.gateway.inject(faults.payload_too_large())
    return refusal(sink, row).verdict.fault


@pytest.mark.parametrize("code", ["22P02\nCRITICAL forged", "x" * 5000, "a\x1b[2Jb", "\u202eabc\u2028"])
def test_what_a_server_says_stays_one_short_line(stack: Stack, supabase_sink: SupabaseSink, code: str) -> None:
    body = f'{{"code": {_json(code)}, "message": "column {_json(chr(10))[1:-1]} x"}}'
    stack.gateway.inject(Answer(Reply(400, (("content-type", "application/json"),), body.encode())))
    said = str(refusal(supabase_sink))
    assert said.isprintable()
    assert len(said) < 200


def test_names_out_of_a_servers_sentence_stay_one_line() -> None:
    verdict = classify_http(400, "42703", 'column "a\nCRITICAL b" does not exist')
    assert verdict.remedy.isprintable()


def _json(text: str) -> str:
    import json

    return json.dumps(text)
