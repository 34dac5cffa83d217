"""What is printed, and what is switched off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ways_in.programs import PART, USER, YACHT, run

THREE = f"""
    from otel_audit_exporter import audit_context, audit_event, configure_audit, flush_audit, get_audit_stats

    configure_audit()
    with audit_context(user_id="{USER}", yacht_id="{YACHT}"):
        for number in range(3):
            audit_event(
                "order_part",
                entity_type="part",
                entity_id="{PART}",
                old_values={{"text": "one\\ntwo"}},
                new_values={{"number": number, "port": "Mahón", "password": "S3CRET"}},
                outcome="failure" if number == 2 else "success",
            )
    assert flush_audit(60_000)
    stats = get_audit_stats()
    assert (stats.submitted, stats.succeeded, stats.pending, stats.failed) == (3, 3, 0, 0), stats
"""


def test_console_prints_one_readable_line_for_each_event(tmp_path: Path) -> None:
    ran = run(tmp_path, THREE, OTEL_AUDIT_EXPORTER="console")
    lines = ran.out.splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines):
        parts = line.split("  ")
        assert parts[1:4] == ["order_part", f"part/{PART}", f"by {USER}"]
        assert ("FAILURE" in parts) == (number == 2)
        assert parts[-1] == (f'{{"text":"one\\ntwo"}} -> {{"number":{number},"port":"Mahón","password":"[REDACTED]"}}')
    assert ran.log == ""


def test_console_prints_one_json_document_for_each_event(tmp_path: Path) -> None:
    ran = run(tmp_path, THREE, OTEL_AUDIT_EXPORTER="console", OTEL_AUDIT_CONSOLE_FORMAT="json")
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert [event["new_values"]["number"] for event in events] == [0, 1, 2]
    for event in events:
        assert (event["action"], event["entity_type"], event["entity_id"]) == ("order_part", "part", PART)
        assert (event["user_id"], event["yacht_id"]) == (USER, YACHT)
        assert event["old_values"] == {"text": "one\ntwo"}
        assert event["new_values"]["password"] == "[REDACTED]"
        assert event["record_id"]
        assert event["timestamp"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_console_prints_to_a_terminal_that_knows_ascii_only(tmp_path: Path, form: str) -> None:
    ran = run(
        tmp_path,
        THREE,
        OTEL_AUDIT_EXPORTER="console",
        OTEL_AUDIT_CONSOLE_FORMAT=form,
        PYTHONIOENCODING="ascii",
        PYTHONUTF8="0",
    )
    assert len(ran.out.splitlines()) == 3
    assert "Mah\\" in ran.out


def test_console_keeps_to_one_line_for_any_event(tmp_path: Path) -> None:
    odd = "\\nsecond\\x1b[31m\\x9b31m\\u2028"
    said = THREE.replace('"part",', f'"part{odd}",').replace('"one', f'"{odd}one')
    ran = run(tmp_path, said, OTEL_AUDIT_EXPORTER="console")
    assert len(ran.out.splitlines()) == 3
    assert "\x1b" not in ran.out
    assert "\x9b" not in ran.out


@pytest.mark.parametrize("form", ["text", "json"])
def test_console_prints_numbers_and_depths_of_any_size(tmp_path: Path, form: str) -> None:
    said = THREE.replace('"port"', '"many": 2**70, "deep": json.loads("[" * 300 + "]" * 300), "port"')
    said = said.replace("    from otel", "    import json\n\n    from otel", 1)
    ran = run(tmp_path, said, OTEL_AUDIT_EXPORTER="console", OTEL_AUDIT_CONSOLE_FORMAT=form)
    assert ran.out.count('"many":1180591620717411303424') == 3
    assert ran.out.count("[" * 300 + "]" * 300) == 3


def test_none_says_so_in_one_log_line_and_counts_the_events(tmp_path: Path) -> None:
    ran = run(tmp_path, THREE, OTEL_AUDIT_EXPORTER="none")
    (line,) = ran.log.splitlines()
    assert "switched off on purpose" in line
    assert ran.out == ""
    assert list(tmp_path.rglob("*.db")) == []
