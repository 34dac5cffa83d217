"""The page on faults says whose each fault is as the code does."""

from __future__ import annotations

import re

import pytest

from otel_audit_exporter.delivery import backoff
from otel_audit_exporter.sinks.http_rules import classify_http
from otel_audit_exporter.sinks.verdict import Fault
from tests.docs.pages import all_pages

PAGE = all_pages()["architecture/faults.md"]
TABLE = PAGE.partition("\n## Which fault is which\n")[2].partition("\n## ")[0]
# What tells apart two faults of one code.
MESSAGES = {
    "no partition for the row": 'no partition of relation "t" found for row',
    "the token's role is unknown": 'role "x" does not exist',
}
ROWS = [
    (
        what,
        [int(status) for status in re.findall(r"\b\d{3}\b", http)],
        re.findall(r"\b(?:PGRST\d{3}|[0-9A-Z]{5})\b", codes),
        kind,
    )
    for what, http, codes, kind in re.findall(r"^\| ([^|]+) \| ([^|]*) \| ([^|]*) \| ([^|]+) \|$", TABLE, re.MULTILINE)[
        2:
    ]
]
CODED = [(what, http[0], code, kind) for what, http, codes, kind in ROWS if http for code in codes if code != "23505"]
KINDS = {"record": Fault.RECORD, "transient": Fault.TRANSIENT, "configuration": Fault.CONFIGURATION}


@pytest.mark.parametrize(("what", "status", "code", "kind"), CODED, ids=[f"{one[2]}-{one[0]}" for one in CODED])
def test_a_code_has_the_fault_that_the_page_says(what: str, status: int, code: str, kind: str) -> None:
    verdict = classify_http(status, code, MESSAGES.get(what, ""))
    assert verdict.fault is KINDS[kind.split(",", maxsplit=1)[0].split(" ", maxsplit=1)[0]]


def test_the_page_names_codes_of_every_kind() -> None:
    assert len(CODED) >= 30
    assert {kind.split(",")[0] for _, _, _, kind in CODED} >= {"record", "transient", "configuration"}


def test_the_pauses_are_those_of_the_code() -> None:
    for first, longest in (
        (backoff.TRANSIENT_FIRST_SECONDS, backoff.TRANSIENT_MAX_SECONDS),
        (backoff.CONFIGURATION_FIRST_SECONDS, backoff.CONFIGURATION_MAX_SECONDS),
    ):
        assert f"({first:g} s to {longest:g} s)" in PAGE
    assert f"up to {backoff.REFUSED_MAX_SECONDS / 60:g} minutes apart" in PAGE


def test_the_codes_that_park_at_once_are_named() -> None:
    (named,) = re.findall(r"nearly always the value's \(([^)]+)\)", PAGE)
    codes = {code for _, _, codes, _ in ROWS for code in codes}
    at_once = {code for code in codes if classify_http(400, code, "").park_at_once}
    assert {*named.split(", ")} == at_once
