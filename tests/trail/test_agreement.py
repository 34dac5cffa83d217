"""Reader, page, CSV, JSON and JSON lines say what the table says: every row, every field."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import timedelta
from html import unescape
from typing import Any

import orjson
import pytest

from otel_audit_exporter import read_events
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS
from otel_audit_exporter.trail import ALL, Reader
from otel_audit_exporter.trail.handler import PAGE
from tests.stack import AuditTable
from tests.support.trail_events import PARTS, START, USERS, YACHTS, write
from tests.trail.asking import AppClient, client_of
from tests.trail.conftest import RESERVED, Configure

AUDITOR = Reader(USERS[1], tenants=ALL, sees_source=True)
PLAIN = ("id", "yacht_id", "entity_type", "action", "entity_id", "created_by")


def events() -> list[dict[str, Any]]:
    """More than two pages of events, a second and sometimes less apart, with whatever a value can hold."""
    return [
        {
            "action": RESERVED[number % len(RESERVED)],
            "entity_type": f"kind {number % 3}",
            "entity_id": PARTS[number % 3],
            "user_id": USERS[number % 2],
            "yacht_id": YACHTS[number % 2],
            "timestamp": START + timedelta(seconds=number // 3),
            "old_values": None if number % 4 else {"n": number, "text": RESERVED[-1 - number % len(RESERVED)]},
            "new_values": {"n": number + 0.5, "list": [None, True, {"deep": "ü"}], "big": 10**20},
        }
        for number in range(2 * PAGE + 7)
    ]


@pytest.mark.parametrize("kind", ["postgres", "supabase"], indirect=True)
def test_no_row_and_no_field_differs_from_the_table(configured: Configure, audit_table: AuditTable) -> None:
    write(configured(), *events())
    read = {event.record_id: event.document() for event in read_events()}
    rows = {str(row["id"]): row for row in audit_table.rows()}
    assert read.keys() == rows.keys()
    for record_id, row in rows.items():
        said = read[record_id]
        assert [said[DEFAULT_COLUMNS[name]] for name in PLAIN] == [str(row[name]) for name in PLAIN]
        assert said["timestamp"] == row["created_at"].isoformat(timespec="microseconds")
        assert (said["old_values"], said["new_values"]) == (row["old_values"], row["new_values"])
    client = client_of(AUDITOR)
    lines = [orjson.loads(line) for line in client.get("/trail/export.jsonl").text.splitlines()]
    listed = client.get("/trail/events?limit=1000").json()["events"]
    documents = list(read.values())
    assert as_json(lines) == as_json(documents)
    assert as_json([{name: value for name, value in event.items() if name != "mark"} for event in listed]) == as_json(
        documents
    )
    check_csv(client, documents)
    check_pages(client, documents)


def as_json(documents: list[dict[str, Any]]) -> Any:
    """Return documents as a reader of JSON in Python has them."""
    return json.loads(json.dumps(documents))


def check_csv(client: AppClient, documents: list[dict[str, Any]]) -> None:
    rows = list(csv.DictReader(io.StringIO(client.get("/trail/export.csv").text)))
    assert [row["record_id"] for row in rows] == [document["record_id"] for document in documents]
    for row, document in zip(rows, documents, strict=True):
        assert row.keys() == document.keys()
        for name, value in document.items():
            if value is None or isinstance(value, str):
                assert row[name].removeprefix("'") == (value or "").removeprefix("'")  # no formula for a spreadsheet
            else:
                assert as_json([{"": value}]) == as_json([{"": json.loads(row[name])}])


def check_pages(client: AppClient, documents: list[dict[str, Any]]) -> None:
    """Walk the pages by their links; each shows its events in order, with every field."""
    address, shown = "/trail/", []
    while True:
        html = client.get(address).text
        shown += re.split(r'<li class="event', html)[1:]
        more = re.search(r'href="\.(\?[^"]*)" class="next"', html)
        if more is None:
            break
        address = f"/trail/{unescape(more[1])}"
    assert len(shown) == len(documents)
    for item, document in zip(shown, documents, strict=True):
        text = unescape(re.sub(r"<[^>]*>", "", item))
        for name in ("record_id", "action", "entity_type", "entity_id", "user_id", "yacht_id", "timestamp"):
            assert document[name] in text, name
        assert f'"n": {document["new_values"]["n"]}' in text
