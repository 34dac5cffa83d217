"""`otel-audit emit`: JSON lines to rows."""

from __future__ import annotations

import itertools
import os
import pty
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any

import orjson
import pytest

from otel_audit_exporter.cli.json_lines import LineError, parse_arguments, read_lines
from tests.cli.conftest import Workspace

Put = Callable[[str, object], None]


def test_every_line_becomes_a_row_that_says_what_the_line_says(workspace: Workspace) -> None:
    said = [
        workspace.event(
            "update_part",
            old_values={"stock": 2},
            new_values={"stock": 14, "note": "Größe Ø 3 € ok", "tags": [1, None]},
        ),
        workspace.event("attach_document", new_values='{"text": "of JSON"}'),
        workspace.event("create_receiving"),
    ]
    done = workspace.run("emit", workspace.write_lines(*said))
    assert (done.code, done.out) == (0, "")
    assert "3 events written, 3 in the table" in done.err
    rows = workspace.rows()
    assert [row["action"] for row in rows] == ["update_part", "attach_document", "create_receiving"]
    assert [row["entity_id"] for row in rows] == [line["entity_id"] for line in said]
    assert orjson.loads(rows[0]["new_values"]) == said[0]["new_values"]
    assert orjson.loads(rows[1]["new_values"]) == {"text": "of JSON"}
    assert rows[2]["new_values"] is None


def test_a_timestamp_with_a_zone_is_when_it_happened(workspace: Workspace) -> None:
    times = ["2026-03-01T14:00:00.123456+02:00", "2026-03-02T00:00:00Z"]
    done = workspace.run("emit", workspace.write_lines(*(workspace.event(timestamp=time) for time in times)))
    assert done.code == 0
    assert [row["created_at"] for row in workspace.rows()] == [
        "2026-03-01T12:00:00.123456+00:00",
        "2026-03-02T00:00:00.000000+00:00",
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"action": ', "is not JSON: Expecting value (column 11)"),
        ('["action"]', "must be a JSON object, not an array"),
        ("42", "must be a JSON object, not a number"),
        ('{"action": NaN}', "NaN and Infinity are none"),
        ('{"action": "a", "action": "b"}', "says a key twice"),
        ({"timestamp": "yesterday"}, "timestamp: must be ISO 8601"),
        ({"timestamp": "2026-03-01T12:00:00"}, "timestamp: must be an aware datetime"),
        ({"timestamp": 1772366400}, "timestamp: must be an aware datetime, not int"),
        ({"entity_id": "B-17"}, "entity_id: must be a UUID"),
        ({"action": None}, "action: is missing"),
        ({"actoin": "x"}, "actoin: is not an argument"),
    ],
)
def test_a_bad_line_is_reported_by_number_and_others_are_written(
    workspace: Workspace, line: str | dict[str, Any], fault: str
) -> None:
    bad = line if isinstance(line, str) else {**workspace.event(), **line}
    done = workspace.run("emit", workspace.write_lines(workspace.event("before"), bad, workspace.event("after")))
    assert done.code == 1
    assert f"line 2: {fault}" in done.err or ("line 2: " in done.err and fault in done.err)
    assert "2 events written, 2 in the table, 1 bad line" in done.err
    assert [row["action"] for row in workspace.rows()] == ["before", "after"]


def test_one_report_names_every_wrong_field_of_a_line(workspace: Workspace) -> None:
    done = workspace.run("emit", workspace.write_lines(workspace.event(entity_id="x", outcome="maybe", extra=1)))
    [report] = [line for line in done.err.splitlines() if "line 1" in line]
    assert all(name in report for name in ("entity_id: ", "outcome: ", "extra: "))


def test_a_line_that_is_not_utf8_is_reported(workspace: Workspace) -> None:
    content = b'{"action": "caf\xe9"}\n' + orjson.dumps(workspace.event("after"))
    done = workspace.run("emit", "-", stdin=content)
    assert done.code == 1
    assert "line 1: is not UTF-8 (byte 16)" in done.err
    assert [row["action"] for row in workspace.rows()] == ["after"]


def test_a_closed_stdin_gives_a_clear_message(workspace: Workspace) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m otel_audit_exporter.cli emit - <&-"
    done = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True, cwd=workspace.directory)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "otel-audit: stdin is closed: there is nothing to read\n"


def test_a_dash_reads_stdin_and_skips_blank_lines(workspace: Workspace) -> None:
    """A byte order mark is skipped too."""
    lines = [orjson.dumps(workspace.event(action)) for action in ("first", "second")]
    done = workspace.run("emit", "-", stdin=b"\xef\xbb\xbf" + b"\n\n \r\n".join(lines))
    assert done.code == 0
    assert [row["action"] for row in workspace.rows()] == ["first", "second"]


def test_lines_with_an_idempotency_key_written_again_add_no_rows(workspace: Workspace) -> None:
    file = workspace.write_lines(*(workspace.event(idempotency_key=f"import-{number}") for number in range(3)))
    assert [workspace.run("emit", file).code for _ in range(2)] == [0, 0]
    assert len(workspace.rows()) == 3


def test_options_say_where_rows_go_and_win_over_the_environment(workspace: Workspace, environment: Put) -> None:
    environment("OTEL_AUDIT_IDS", "uuid")
    other = workspace.directory / "other.db"
    file = workspace.write_lines({**workspace.event(), "entity_id": "B-17"})
    assert workspace.run("emit", file, "--path", other, "--ids", "text").code == 0
    assert [row["entity_id"] for row in workspace.rows(other)] == ["B-17"]
    assert not workspace.database.exists()


def test_a_file_larger_than_the_outbox_is_written_all_the_same(workspace: Workspace, environment: Put) -> None:
    environment("OTEL_AUDIT_OUTBOX_MAX_BYTES", 1)  # as few pages as there can be
    lines = (workspace.event(new_values={"number": number, "text": "x" * 2000}) for number in range(600))
    done = workspace.run("emit", workspace.write_lines(*lines))
    assert (done.code, len(workspace.rows())) == (0, 600)


def test_a_full_outbox_ends_the_run_and_says_before_which_line(workspace: Workspace, environment: Put) -> None:
    environment("OTEL_AUDIT_OUTBOX_MAX_BYTES", 1)
    lines = (workspace.event(new_values={"text": "x" * 2000}) for _ in range(600))
    done = workspace.run("emit", workspace.write_lines(*lines), "--path", "nowhere/audit.db", "--timeout", 0)
    assert done.code == 1
    assert "the outbox is full, and the sink takes nothing" in done.err


def test_events_not_taken_in_time_stay_in_the_outbox(workspace: Workspace) -> None:
    late = workspace.directory / "late" / "audit.db"
    done = workspace.run("emit", workspace.write_lines(workspace.event()), "--path", late, "--timeout", 0.1)
    assert done.code == 1
    assert "1 event not delivered within 0.1 s" in done.err
    assert "kept in the outbox" in done.err
    late.parent.mkdir()
    assert workspace.run("outbox", "drain", "--path", late).code == 0
    assert len(workspace.rows(late)) == 1


def test_a_failed_run_with_an_outbox_in_memory_reports_the_loss(workspace: Workspace, environment: Put) -> None:
    environment("OTEL_AUDIT_OUTBOX", "memory")
    file = workspace.write_lines(workspace.event())
    done = workspace.run("emit", file, "--path", "nowhere/audit.db", "--timeout", 0.1)
    assert done.code == 1
    assert "lost, as the outbox is in memory" in done.err


def test_a_row_refused_by_the_table_is_reported_and_others_land(workspace: Workspace) -> None:
    workspace.create_table("action <> 'refused'")
    file = workspace.write_lines(workspace.event("good"), workspace.event("refused"), workspace.event("better"))
    done = workspace.run("emit", file)
    assert done.code == 1
    assert "1 event parked, refused by the table" in done.err
    assert [row["action"] for row in workspace.rows()] == ["good", "better"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("emit", "missing.jsonl"), "missing.jsonl cannot be read"),
        (("emit", "-", "--exporter", "mongo"), "must be one of sqlite"),
        (("emit", "-", "--exporter", "supabase"), "SUPABASE_URL"),
        (("emit", "-", "--ids", "numbers"), "must be one of uuid, text"),
    ],
)
def test_a_wrong_setting_is_reported_with_exit_code_2(
    workspace: Workspace, arguments: tuple[str, ...], fault: str
) -> None:
    done = workspace.run(*arguments, stdin="")
    assert done.code == 2
    assert fault in done.err


def test_a_wrong_variable_is_reported_with_exit_code_2(workspace: Workspace, environment: Put) -> None:
    environment("OTEL_AUDIT_MODE", "later")
    done = workspace.run("emit", "-", stdin="")
    assert done.code == 2
    assert "OTEL_AUDIT_MODE='later': must be one of batch, sync" in done.err


def test_no_key_is_in_the_output_of_a_delivery_that_fails(workspace: Workspace, environment: Put) -> None:
    environment("SUPABASE_URL", "http://127.0.0.1:9")
    environment("SUPABASE_SERVICE_ROLE_KEY", "sb_secret_do_not_show_me")
    file = workspace.write_lines(workspace.event())
    done = workspace.run("emit", file, "--exporter", "supabase", "--timeout", 1)
    assert done.code == 1
    assert "not delivered" in done.err
    assert "do_not_show_me" not in done.err + done.out


def test_a_terminal_gets_a_progress_bar_and_a_pipe_does_not(workspace: Workspace) -> None:
    file = workspace.write_lines(*(workspace.event() for _ in range(1000)))
    assert "\x1b" not in workspace.run("emit", file).err
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "otel_audit_exporter.cli", "emit", str(file)]
    terminal = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=terminal) as process:
        os.close(theirs)
        seen = _read_all(ours)
        assert process.stdout is not None
        assert process.stdout.read() == b""
    assert process.returncode == 0
    assert b"in the table" in seen
    assert b"\x1b[" in seen


def test_an_interrupted_run_reports_its_progress_and_loses_no_written_event(workspace: Workspace) -> None:
    command = [sys.executable, "-m", "otel_audit_exporter.cli", "emit", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(orjson.dumps(workspace.event()) + b"\n[]\n")
        process.stdin.flush()
        assert process.stderr.readline().startswith(b"otel-audit: line 2: ")
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
    assert process.returncode == 130
    assert "1 event written" in said
    assert "interrupted at line 2" in said
    assert len(workspace.rows()) == 1


def _read_all(descriptor: int) -> bytes:
    seen = b""
    try:
        while block := os.read(descriptor, 65536):
            seen += block
    except OSError:  # how Linux tells that the other end is closed
        pass
    finally:
        os.close(descriptor)
    return seen


# --- reading lines ----------------------------------------------------------------------------------------------


class _Endless(BytesIO):
    """A file that never ends."""

    def readline(self, size: int | None = -1) -> bytes:
        return b"{}\n"


def test_lines_are_read_as_they_are_asked_for() -> None:
    lines = itertools.islice(read_lines(_Endless()), 3)
    assert [(line.number, line.end) for line in lines] == [(1, 3), (2, 6), (3, 9)]


def test_a_line_that_is_too_long_does_not_spoil_the_next() -> None:
    """Only the beginning of the long line is kept."""
    file = BytesIO(b'{"a": 1}\n' + b"x" * 95 + b'\n{"b": 2}')
    first, long, last = read_lines(file, max_bytes=10)
    assert first.arguments() == {"a": 1}
    assert len(long.content) == 10
    with pytest.raises(LineError, match="is longer than"):
        long.arguments()
    assert (last.number, last.arguments(), last.end) == (3, {"b": 2}, 113)


def test_null_means_absent_and_numbers_keep_their_digits() -> None:
    """A null inside a value stays."""
    said = parse_arguments(b'{"user_id": null, "new_values": {"big": 123456789012345678, "none": null}}')
    assert said == {"new_values": {"big": 123456789012345678, "none": None}}


def test_a_line_may_use_the_second_names_of_tenant_and_actor(workspace: Workspace) -> None:
    line = workspace.event()
    line["tenant_id"], line["actor_id"] = line.pop("yacht_id"), line.pop("user_id")
    assert workspace.run("emit", workspace.write_lines(line)).code == 0
    (row,) = workspace.rows()
    assert (row["yacht_id"], row["created_by"]) == (line["tenant_id"], line["actor_id"])
