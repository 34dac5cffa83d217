"""`otel-audit events`, `tail` and `history`: every readable sink, every question, every format."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import pty
import re
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from otel_audit_exporter.cli.event_printers import changed_fields
from otel_audit_exporter.event.fields import DEFAULT_COLUMNS
from otel_audit_exporter.table.ddl import columns_text
from otel_audit_exporter.table.readers import reader as reading
from tests.cli.conftest import Workspace
from tests.cli.reading import ids, write
from tests.stack import AuditTable, Stack
from tests.support.trail_events import PARTS, START, USERS, YACHTS

Environment = Callable[[str, object], None]


def test_the_newest_events_come_last_and_whole(workspace: Workspace, kind: str) -> None:
    values = {"qty": 2**70, "name": "ü\u2028", "deep": [{"a": None}]}
    written = write({"old_values": {"qty": 1}, "new_values": values}, *({} for _ in range(24)))
    lines = workspace.run("tail", "--format", "json").lines
    assert ids(lines) == written[-20:]
    everything = workspace.run("tail", "--limit", 0, "--format", "json").out.splitlines()
    assert len(everything) == 25
    assert str(2**70) in everything[0]
    first = orjson.loads(everything[0].replace(str(2**70), "1"))
    assert first["new_values"] == values | {"qty": 1}
    assert first["old_values"] == {"qty": 1}
    assert datetime.fromisoformat(first["timestamp"]) == START


def test_history_answers_every_question(workspace: Workspace, kind: str) -> None:
    written = write(
        {},
        {"entity_id": PARTS[1]},
        {"user_id": USERS[1]},
        {"yacht_id": YACHTS[1]},
        {"action": "dispose"},
        {"entity_type": "order"},
    )

    def asked(*options: object) -> list[int]:
        done = workspace.run("history", *options, "--format", "json")
        assert done.code == 0, done.err
        return [written.index(found) for found in ids(done.lines)]

    assert asked("--entity", "part", PARTS[0]) == [0, 2, 3, 4]
    assert asked("--entity", "part", PARTS[1]) == [1]
    assert asked("--user", USERS[1]) == [2]
    assert asked("--yacht", YACHTS[1]) == [3]
    assert asked("--action", "dispose") == [4]
    assert asked("--entity", "part", PARTS[0], "--user", USERS[0], "--yacht", YACHTS[0]) == [0, 4]
    assert asked("--since", (START + timedelta(seconds=2)).isoformat()) == [2, 3, 4, 5]
    assert asked("--since", "2026-03-04T05:06", "--until", (START + timedelta(seconds=2)).isoformat()) == [0, 1]
    assert asked("--since", "2026-03-04", "--limit", 2) == [4, 5]
    assert asked("--since", "1h") == []
    done = workspace.run("history", "--entity", "part", "no-uuid-at-all")
    assert (done.code, "is no UUID" in done.err) == (2, True)


def test_pages_have_no_gap_and_no_double_at_equal_times(
    workspace: Workspace, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAGE", 7)
    written = sorted(write(*({"timestamp": START} for _ in range(30))))
    assert ids(workspace.run("tail", "--limit", 0, "--format", "json").lines) == written
    assert ids(workspace.run("tail", "--limit", 20, "--format", "json").lines) == written[-20:]


def test_an_existing_tables_columns_are_read_as_fields(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, environment: Environment, kind: str
) -> None:
    audit_table.alter('rename created_by to "who? %s (really)"')
    audit_table.alter("alter new_values type text")
    stack.reload_schema_cache()
    columns = (
        "id=record_id,yacht_id=yacht_id,entity_type=entity_type,action=action,entity_id=entity_id,"
        "who? %s (really)=user_id,created_at=timestamp,new_values=new_values"
    )
    environment("OTEL_AUDIT_COLUMNS", columns)
    write({"new_values": {"a": 1}}, {"user_id": USERS[1]})
    lines = workspace.run("history", "--user", USERS[0], "--format", "json").lines
    assert [(line["user_id"], line["new_values"]) for line in lines] == [(USERS[0], {"a": 1})]
    environment("OTEL_AUDIT_COLUMNS", "id=record_id,action=action")
    done = workspace.run("tail")
    assert (done.code, "timestamp" in done.err) == (2, True)


def test_what_was_folded_into_new_values_is_read_where_it_belongs(workspace: Workspace, kind: str) -> None:
    write(
        {"outcome": "failure", "new_values": {"a": 1}},
        {"outcome": "failure", "new_values": [1]},
        {"actor_type": "service", "metadata": {"job": "x"}},
        {"new_values": {"_audit": "the user's own"}},
    )
    lines = workspace.run("tail", "--format", "json").lines
    assert [line.get("outcome") for line in lines] == ["failure", "failure", "success", "success"]
    assert [line["new_values"] for line in lines] == [{"a": 1}, [1], None, {"_audit": "the user's own"}]
    assert lines[2]["metadata"] == {"job": "x"}
    assert "receive (failure)" in workspace.run("tail").out


def add_columns(stack: Stack, audit_table: AuditTable, workspace: Workspace, kind: str) -> None:
    """Give the table two columns of the full one."""
    if kind == "sqlite":
        with closing(sqlite3.connect(workspace.database)) as connection:
            connection.execute(f"alter table {audit_table.name} add outcome text not null default 'success'")
            connection.execute(f"alter table {audit_table.name} add metadata text")
    else:
        audit_table.alter("add outcome text not null default 'success', add metadata jsonb")
        stack.reload_schema_cache()


def test_a_failed_action_never_reads_as_success_in_a_later_column(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, environment: Environment, kind: str
) -> None:
    """The table got the column for the outcome after the row was written."""
    write({"outcome": "failure", "new_values": {"a": 1}, "metadata": {"m": 1}}, {"new_values": {"b": 1}})
    add_columns(stack, audit_table, workspace, kind)
    environment("OTEL_AUDIT_COLUMNS", columns_text({**DEFAULT_COLUMNS, "outcome": "outcome", "metadata": "metadata"}))
    own = {"_audit": {"by": "the caller", "outcome": "success"}}
    write(
        {"outcome": "failure", "new_values": own},
        {"outcome": "failure", "new_values": {"_audit": {"outcome": "success"}}},
    )
    lines = workspace.run("history", "--since", "2026-01-01", "--format", "json").lines
    said = {(line["outcome"], orjson.dumps(line["new_values"]), orjson.dumps(line["metadata"])) for line in lines}
    assert said == {
        ("failure", b'{"a":1}', b'{"m":1}'),
        ("success", b'{"b":1}', b"null"),
        ("failure", orjson.dumps(own), b"null"),
        ("failure", b'{"_audit":{"outcome":"success"}}', b"null"),
    }


def test_values_that_are_no_objects_are_read_unchanged(workspace: Workspace, kind: str) -> None:
    values = ["text", "5", "true", "", 5, 2.5, True, None, [1], {"a": 1}]
    write(*({"new_values": value} for value in values))
    assert [line["new_values"] for line in workspace.run("tail", "--format", "json").lines] == values


@pytest.mark.parametrize("type_", ["timestamp", "timestamptz"])
@pytest.mark.parametrize("kind", ["postgres", "supabase"], indirect=True)
def test_times_are_printed_in_utc_for_any_column_and_session(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, kind: str, type_: str
) -> None:
    audit_table.alter(f"alter created_at type {type_}")
    stack.sql(
        "alter role authenticator set timezone = 'America/New_York'; alter role postgres set timezone = 'Asia/Tokyo'"
    )
    stack.postgres.terminate_backends()
    try:
        stack.wait_until_serving()
        stack.reload_schema_cache()
        write({}, {"timestamp": START.replace(microsecond=0)})
        lines = workspace.run("tail", "--format", "json").lines
        asked = workspace.run("tail", "--since", START.isoformat(), "--format", "json").lines
    finally:
        stack.sql("alter role authenticator reset timezone; alter role postgres reset timezone")
        stack.postgres.terminate_backends()
        stack.wait_until_serving()
    assert [line["timestamp"] for line in lines] == ["2026-03-04T05:06:07.000000+00:00", START.isoformat()]
    assert ids(asked) == ids(lines)[1:]


@pytest.mark.parametrize("kind", ["postgres", "supabase"], indirect=True)
def test_foreign_rows_with_odd_or_missing_times_do_no_harm(
    stack: Stack, audit_table: AuditTable, workspace: Workspace, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAGE", 2)
    audit_table.alter("alter created_at drop not null")
    written = write({}, {})
    for time in ("'infinity'", "'-infinity'", "'0044-03-15 BC'", "'20000-01-01'", "null", "null"):
        stack.sql(
            f"insert into {audit_table.name} select gen_random_uuid(), yacht_id, entity_type, 'odd', entity_id,"
            f" created_by, {time} from {audit_table.name} limit 1"
        )
    lines = workspace.run("tail", "-n", 0, "--format", "json").lines
    assert [line["action"] for line in lines] == ["odd", "odd", "receive", "receive", "odd", "odd"]
    assert [line["timestamp"] for line in lines][::5] == ["-infinity", "infinity"]
    assert ids(workspace.run("tail", "-n", 4, "--format", "json").lines)[:2] == written
    assert "-infinity " in workspace.run("tail").out


def test_a_table_shows_the_fields_that_changed(workspace: Workspace, kind: str) -> None:
    write({"old_values": {"qty": 1, "same": 0, "gone": "x"}, "new_values": {"qty": 2, "same": 0, "made": [1]}})
    out = workspace.run("tail").out
    for words in ("2026-03-04 05:06:07Z", "receive", f"part {PARTS[0]}", USERS[0], YACHTS[0]):
        assert words in out
    for change in ("qty: 1 → 2", "-gone: x", "+made: [1]"):
        assert change in out
    assert "same" not in out


def on_a_terminal(columns: int, *arguments: str) -> str:
    """What the command shows on a terminal of this width, without its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-m", "otel_audit_exporter.cli", *arguments]
    with subprocess.Popen(command, stdout=theirs, env=environ | {"TERM": "xterm-256color"}) as process:
        os.close(theirs)
        shown = b""
        with open(ours, "rb", buffering=0) as screen, suppress(OSError):  # Linux's word for the end of a terminal
            while more := screen.read(65536):
                shown += more
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("columns", [80, 120, 240])
def test_a_terminal_shows_ids_unbroken_and_lines_that_fit(workspace: Workspace, kind: str, columns: int) -> None:
    write({"new_values": {"note": "x" * 79}}, {"actor_type": "service", "user_id": None})
    lines = on_a_terminal(columns, "tail").splitlines()
    assert max(map(len, lines)) <= columns
    for whole in (f"part {PARTS[0]}", USERS[0], YACHTS[0], "2026-03-04 05:06:08Z", "(service)"):
        assert any(whole in line for line in lines), whole
    assert "".join(lines).count("x") == 79


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_terminal_that_is_too_narrow_loses_nothing(workspace: Workspace, kind: str) -> None:
    write({"action": "a" * 200, "new_values": {"z": "z" * 70}})
    shown = on_a_terminal(40, "tail")
    assert (shown.count("z"), max(map(len, shown.splitlines()))) == (71, 40)
    assert shown.count("a") >= 200


def test_csv_has_a_heading_and_a_line_for_each_event(workspace: Workspace, kind: str) -> None:
    write({"new_values": {"note": 'a "b", c'}}, {"action": "dispose, finally"})
    rows = list(csv.DictReader(io.StringIO(workspace.run("tail", "--format", "csv").out)))
    assert [row["action"] for row in rows] == ["receive", "dispose, finally"]
    assert orjson.loads(rows[0]["new_values"]) == {"note": 'a "b", c'}
    assert (rows[1]["new_values"], rows[0]["user_id"]) == ("", USERS[0])


def test_no_cell_of_csv_is_a_formula_to_a_spreadsheet(
    workspace: Workspace, environment: Environment, kind: str
) -> None:
    write(
        {"action": "=1+2", "new_values": "@SUM(A1)"},
        {"action": "-5", "new_values": -5},
        {"action": "+x", "new_values": "\t=1"},
    )
    rows = list(csv.DictReader(io.StringIO(workspace.run("tail", "--format", "csv").out)))
    assert [(row["action"], row["new_values"]) for row in rows] == [
        ("'=1+2", "'@SUM(A1)"),
        ("-5", "-5"),
        ("'+x", "\\t=1"),
    ]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_nothing_in_a_row_can_steer_the_terminal(workspace: Workspace, kind: str, form: str) -> None:
    hostile = "\x1b[2J\x9b31m\u202e\r\x07\x08\u2028evil"
    write({"action": hostile, "entity_type": hostile, "old_values": {hostile: hostile}, "new_values": hostile})
    out = workspace.run("tail", "--format", form).out
    assert "evil" in out
    assert all(char.isprintable() or char == "\n" for char in out), ascii(out)
    if form == "json":
        assert orjson.loads(out)["action"] == hostile


def test_with_follow_what_comes_is_printed_once(workspace: Workspace, kind: str) -> None:
    now = datetime.now(UTC)
    before = write({"timestamp": now})
    command = [sys.executable, "-m", "otel_audit_exporter.cli", "tail", "--follow", "--interval", "0.05"]
    with subprocess.Popen([*command, "--format", "json"], stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        assert orjson.loads(process.stdout.readline())["record_id"] == before[0]
        after = write({"timestamp": now + timedelta(seconds=2)}, {"timestamp": now + timedelta(seconds=3)})
        assert [orjson.loads(process.stdout.readline())["record_id"] for _ in after] == after
        late = write({"timestamp": now + timedelta(seconds=1)})
        assert orjson.loads(process.stdout.readline())["record_id"] == late[0]
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b""
        assert process.wait(60) == 0


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_following_ends_when_nobody_reads_any_more(workspace: Workspace, kind: str) -> None:
    write({"timestamp": datetime.now(UTC)})
    command = [sys.executable, "-m", "otel_audit_exporter.cli", "tail", "--follow", "--interval", "0.05"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "--format", "json"], stdout=pipe, stderr=pipe, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")


@pytest.mark.parametrize("kind", ["supabase"], indirect=True)
def test_an_outage_is_waited_for_with_follow(stack: Stack, workspace: Workspace, kind: str) -> None:
    now = datetime.now(UTC)
    before = write({"timestamp": now})
    command = [sys.executable, "-m", "otel_audit_exporter.cli", "tail", "--follow", "--interval", "0.05"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "--format", "json"], env=os.environ, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert orjson.loads(process.stdout.readline())["record_id"] == before[0]
        with stack.gateway.refusing():
            assert b"trying again" in process.stderr.readline()
        after = write({"timestamp": now + timedelta(seconds=2)})
        assert orjson.loads(process.stdout.readline())["record_id"] == after[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read().count(b"trying again") == 0


@pytest.mark.parametrize("kind", ["supabase", "postgres"], indirect=True)
def test_a_role_that_may_not_read_gets_a_clear_message(
    stack: Stack, workspace: Workspace, environment: Environment, kind: str
) -> None:
    environment("OTEL_AUDIT_SUPABASE_TOKEN", stack.token("audit_writer"))
    environment("OTEL_AUDIT_POSTGRES_DSN", stack.dsn("audit_writer"))
    done = workspace.run("tail")
    assert (done.code, done.out) == (1, "")
    assert "may not read" in done.err
    assert "grant usage on its schema and select" in done.err


def test_an_unreadable_table_is_reported(workspace: Workspace, environment: Environment) -> None:
    assert workspace.run("tail").code == 2  # no file yet
    workspace.database.write_bytes(b"no database at all" * 100)
    assert workspace.run("tail").code == 1
    environment("OTEL_AUDIT_EXPORTER", "memory")
    assert "has no table" in workspace.run("tail").err
    environment("OTEL_AUDIT_EXPORTER", "postgres")
    environment("OTEL_AUDIT_POSTGRES_DSN", "postgresql://u:S3CRET@127.0.0.1:1/db")
    done = workspace.run("tail")
    assert done.code == 2
    assert "S3CRET" not in done.err


def test_history_needs_a_subject_and_reports_wrong_times(workspace: Workspace) -> None:
    assert workspace.run("history").code == 2
    for wrong in ("yesterday", "2026-13-01", "5M", "99999999w", "0001-01-01T00:00:00+14:00"):
        done = workspace.run("tail", "--since", wrong)
        assert (done.code, "ISO 8601" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (None, None, []),
        ({"a": 1}, {"a": 1}, []),
        (None, {"a": None}, ["+a: null"]),
        ({"a": {"b": 1}}, None, ['-a: {"b":1}']),
        ({"a": 1}, {"a": True}, ["a: 1 → true"]),
        ("x", "y", ["x → y"]),
        (None, [1, 2], ["[1,2]"]),
        ({"a\n": "b\tc"}, {}, ["-a\\n: b\\tc"]),
        ({}, {"a": "x" * 100}, [f"+a: {'x' * 79}…"]),
    ],
)
def test_changes_are_printed_field_by_field(old: Any, new: Any, said: list[str]) -> None:
    assert changed_fields(old, new) == said
