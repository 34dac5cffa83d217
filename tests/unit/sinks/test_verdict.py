"""Whose fault a refused insert is: the tables, by plain calls."""

from __future__ import annotations

import email.utils

import pytest

from otel_audit_exporter.sinks import verdict as faults
from otel_audit_exporter.sinks.http_rules import classify_http, describe_http, parse_retry_after
from otel_audit_exporter.sinks.sqlstate_rules import classify_sqlstate, describe_sqlstate
from otel_audit_exporter.sinks.verdict import Fault

TRANSIENT, RECORD, CONFIGURATION = Fault.TRANSIENT, Fault.RECORD, Fault.CONFIGURATION

SQLSTATES = {
    "22P02": RECORD,
    "22007": RECORD,
    "22008": RECORD,
    "22001": RECORD,
    "22003": RECORD,
    "22P05": RECORD,
    "23502": RECORD,
    "23503": RECORD,
    "23505": RECORD,
    "23514": RECORD,
    "P0001": RECORD,
    "54001": RECORD,
    "42703": CONFIGURATION,
    "42P01": CONFIGURATION,
    "42P10": CONFIGURATION,
    "42501": CONFIGURATION,
    "28P01": CONFIGURATION,
    "3D000": CONFIGURATION,
    "3F000": CONFIGURATION,
    "25006": TRANSIENT,
    "40P01": TRANSIENT,
    "40001": TRANSIENT,
    "55P03": TRANSIENT,
    "57014": TRANSIENT,
    "57P01": TRANSIENT,
    "53300": TRANSIENT,
    "53100": TRANSIENT,
    "08006": TRANSIENT,
    "XX000": TRANSIENT,
}
CLASSES = {
    "08Z99": TRANSIENT,
    "53Z99": TRANSIENT,
    "57Z99": TRANSIENT,
    "40Z99": TRANSIENT,
    "XXZ99": TRANSIENT,
    "58Z99": TRANSIENT,
    "22Z99": RECORD,
    "23Z99": RECORD,
    "P0Z99": RECORD,
    "42Z99": CONFIGURATION,
    "28Z99": CONFIGURATION,
    "3DZ99": CONFIGURATION,
    "3FZ99": CONFIGURATION,
}
STATUSES = {
    200: CONFIGURATION,
    201: CONFIGURATION,
    204: CONFIGURATION,
    301: CONFIGURATION,
    302: CONFIGURATION,
    307: CONFIGURATION,
    401: CONFIGURATION,
    404: CONFIGURATION,
    540: CONFIGURATION,
    400: RECORD,
    403: RECORD,
    413: RECORD,
    418: RECORD,
    408: TRANSIENT,
    429: TRANSIENT,
    500: TRANSIENT,
    502: TRANSIENT,
    503: TRANSIENT,
    520: TRANSIENT,
    530: TRANSIENT,
}
POSTGREST = {
    (503, "PGRST000"): TRANSIENT,
    (503, "PGRST001"): TRANSIENT,
    (503, "PGRST002"): TRANSIENT,
    (504, "PGRST003"): TRANSIENT,
    (400, "PGRST102"): RECORD,
    (400, "PGRST100"): CONFIGURATION,
    (406, "PGRST106"): CONFIGURATION,
    (400, "PGRST204"): CONFIGURATION,
    (404, "PGRST205"): CONFIGURATION,
    (401, "PGRST301"): CONFIGURATION,
    (401, "PGRST303"): CONFIGURATION,
    (500, "PGRST300"): CONFIGURATION,
    (500, "PGRSTX00"): TRANSIENT,
}


@pytest.mark.parametrize(("code", "fault"), [*SQLSTATES.items(), *CLASSES.items()])
def test_a_sqlstate_says_whose_fault_it_is_whatever_carries_it(code: str, fault: Fault) -> None:
    assert classify_sqlstate(code).fault is fault
    assert classify_http(400, code).fault is fault
    assert classify_http(500, code).fault is fault


@pytest.mark.parametrize(("status", "fault"), STATUSES.items())
def test_a_status_without_a_code_says_whose_fault_it_is(status: int, fault: Fault) -> None:
    assert classify_http(status).fault is fault


@pytest.mark.parametrize(("answer", "fault"), POSTGREST.items())
def test_a_code_of_postgrest_says_whose_fault_it_is(answer: tuple[int, str], fault: Fault) -> None:
    assert classify_http(*answer).fault is fault


@pytest.mark.parametrize("code", ["too_many_requests", "429", "1015", "", "over-quota"])
def test_a_gateways_own_code_leaves_it_to_the_status(code: str) -> None:
    assert classify_http(429, code) == classify_http(429)


def test_a_code_in_an_answer_that_is_no_error_proves_nothing() -> None:
    assert classify_http(200, "22P02").fault is CONFIGURATION


def test_no_sqlstate_means_a_broken_connection() -> None:
    assert classify_sqlstate(None) == faults.CUT_OFF
    assert classify_sqlstate("").perhaps_stored


def test_a_code_of_the_applications_own_is_the_records() -> None:
    assert classify_sqlstate("AU001").fault is RECORD
    assert classify_sqlstate("PT403").fault is RECORD


def test_codes_that_are_nearly_always_the_values_park_at_once() -> None:
    parked = {code for code in SQLSTATES if classify_sqlstate(code).park_at_once}
    assert parked == {"22P02", "22P05", "22001", "22003", "22007", "22008", "54001"}


def test_a_slow_statement_and_a_large_request_are_halved() -> None:
    assert classify_sqlstate("57014").halve
    assert classify_http(413).halve
    assert not classify_http(413, "54001").halve


def test_only_a_foreign_key_waits_for_its_parent() -> None:
    assert [code for code in SQLSTATES if classify_sqlstate(code).foreign_key] == ["23503"]


def test_after_a_gateways_error_rows_are_perhaps_stored() -> None:
    """After a refused statement they are surely not."""
    assert not classify_sqlstate("23505").perhaps_stored
    assert classify_http(502).perhaps_stored
    assert not classify_http(429).perhaps_stored
    assert not faults.UNREACHABLE.perhaps_stored


@pytest.mark.parametrize(
    ("code", "message", "fault", "named"),
    [
        ("23514", 'no partition of relation "audit" found for row', CONFIGURATION, '"audit"'),
        ("23514", 'new row for relation "a" violates check constraint "c"', RECORD, '"c"'),
        ("22023", 'role "wat" does not exist', CONFIGURATION, '"wat"'),
        ("22023", "invalid parameter value", RECORD, "row"),
        ("XX000", "Tenant or user not found", CONFIGURATION, "user name"),
        ("42501", "permission denied for table audit", CONFIGURATION, '"audit"'),
        ("42501", 'new row violates row-level security policy for table "audit"', CONFIGURATION, '"audit"'),
        ("42501", 'permission denied to set role "writer"', CONFIGURATION, '"writer"'),
        ("42703", 'column "x" does not exist', CONFIGURATION, '"x"'),
        ("23502", 'null value in column "x" of relation "a" violates not-null constraint', RECORD, '"x"'),
        ("28P01", 'password authentication failed for user "bob"', CONFIGURATION, '"bob"'),
        ("PGRST204", "Column 'x' of relation 'a' does not exist", CONFIGURATION, '"x"'),
        ("PGRST204", "Could not find the 'x' column of 'a' in the schema cache", CONFIGURATION, '"x"'),
        ("PGRST205", "Could not find the table 'public.a' in the schema cache", CONFIGURATION, "public.a"),
        ("PGRST106", "The schema must be one of the following: public, audit", CONFIGURATION, "public, audit"),
        ("PGRST301", "JWT expired", CONFIGURATION, "new token"),
    ],
)
def test_the_remedy_names_what_the_server_named(code: str, message: str, fault: Fault, named: str) -> None:
    verdict = classify_http(400, code, message)
    assert verdict.fault is fault
    assert named in verdict.remedy


def test_the_anonymous_role_is_pointed_out() -> None:
    assert "anonymous role" in classify_http(401, "42501", "permission denied for table a").remedy


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("22P02", 'invalid input syntax for type uuid: "S3CRET"'),
        ("22P02", 'invalid input value for enum mood: "S3CRET"'),
        ("22007", 'invalid input syntax for type timestamp with time zone: "S3CRET"'),
        ("22003", 'value "S3CRET" is out of range for type integer'),
        ("P0001", 'column "S3CRET" does not exist'),
        ("23505", "S3CRET"),
        ("42501", "permission denied for S3CRET because of reasons"),
        ("AU001", 'relation "S3CRET" does not exist'),
        ("PGRST102", "S3CRET"),
        (None, "S3CRET"),
    ],
)
def test_a_value_in_the_servers_words_is_never_repeated(code: str | None, message: str) -> None:
    said = [describe_http(400, code, message), classify_http(400, code, message).remedy]
    if not (code or "").startswith("PGRST"):
        said += [describe_sqlstate(code, message), classify_sqlstate(code, message).remedy]
    assert not any("S3CRET" in part for part in said)


def test_a_name_with_braces_is_only_a_name() -> None:
    message = 'null value in column "{0}{x}" of relation "a" violates not-null constraint'
    assert '"{0}{x}"' in describe_sqlstate("23502", message)


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        (" 3 ", 3.0),
        ("0", 0.0),
        ("2.5", 2.5),
        ("86400", 300.0),
        ("9" * 400, 300.0),
        (email.utils.formatdate(NOW + 30, usegmt=True), 30.0),
        (email.utils.formatdate(NOW - 30, usegmt=True), 0.0),
        (email.utils.formatdate(NOW + 86_400, usegmt=True), 300.0),
        (email.utils.formatdate(NOW + 30), 30.0),
        (None, None),
        ("", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("٣", None),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_never_absurd(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds
