"""`otel-audit events`: every row and every field, chosen, and fit for a terminal and a spreadsheet."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from otel_audit_exporter.event.fields import FIELDS
from tests.cli.conftest import Workspace
from tests.cli.reading import ids, write
from tests.support.trail_events import PARTS, USERS, YACHTS


def test_nothing_is_left_out_in_a_pipe(workspace: Workspace, kind: str) -> None:
    written = write(*({} for _ in range(250)))
    for command in (["events"], ["history", "--user", USERS[0]]):
        assert ids(workspace.run(*command, "--format", "json").lines) == written
        assert len(workspace.run(*command, "--format", "csv").out.splitlines()) == 251
        assert workspace.run(*command).out.count("receive") == 250
    cut = workspace.run("tail", "--format", "csv")
    assert (len(cut.out.splitlines()), "20 of 250" in cut.err) == (21, True)
    assert workspace.run("tail", "--limit", 250).err == ""


def test_every_field_is_in_every_format(workspace: Workspace, kind: str) -> None:
    said = {"on_behalf_of": "b-1", "metadata": {"why": "m-1"}, "signature": {"by": "s-1"}, "actor_type": "service"}
    (written,) = write(said)
    (row,) = csv.DictReader(io.StringIO(workspace.run("events", "--format", "csv").out))
    (line,) = workspace.run("events", "--format", "json").lines
    table = workspace.run("events").out
    for name, value in said.items():
        assert line[name] == value
        assert row[name] == (value if isinstance(value, str) else orjson.dumps(value).decode())
    assert set(row) == set(line) == set(FIELDS)
    for word in ("b-1", "m-1", "s-1", "service", written):
        assert word in table


def test_columns_are_chosen(workspace: Workspace, kind: str) -> None:
    write({"new_values": {"qty": 1}})
    out = workspace.run("events", "--columns", "action,new_values", "--format", "csv").out
    assert list(csv.reader(io.StringIO(out))) == [["action", "new_values"], ["receive", '{"qty":1}']]
    assert workspace.run("events", "--columns", "tenant_id,action", "--format", "json").lines == [
        {"yacht_id": YACHTS[0], "action": "receive"}
    ]
    assert workspace.run("events", "--columns", "entity_type,action").out.split() == [
        *("entity_type", "action"),
        *("part", "receive"),
    ]
    done = workspace.run("events", "--columns", "nonsense")
    assert (done.code, "nonsense" in done.err) == (2, True)


def test_an_id_is_found_in_upper_case(workspace: Workspace, kind: str) -> None:
    written = write({})
    for question in (["--entity", "part", PARTS[0].upper()], ["--user", USERS[0].upper()], ["--tenant", YACHTS[0]]):
        assert ids(workspace.run("history", *question, "--format", "json").lines) == written


def test_all_questions_of_the_reader_can_be_asked(workspace: Workspace, kind: str) -> None:
    written = write({"outcome": "failure"}, {"action": "dispose"})
    asked = {("--outcome", "failure"): 0, ("--outcome", "success"): 1, ("--text", "disp"): 1}
    for question, found in asked.items():
        assert ids(workspace.run("events", *question, "--format", "json").lines) == [written[found]]
    for wrong in (["--trail", "ledger"], ["--outcome", "done"]):
        assert workspace.run("events", *wrong).code == 2


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_following_on_a_narrow_terminal_breaks_no_id(workspace: Workspace, kind: str) -> None:
    now = datetime.now(UTC)
    write({"timestamp": now})
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    command = [sys.executable, "-m", "otel_audit_exporter.cli", "tail", "--follow", "--interval", "0.05"]
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(command, stdout=theirs, env=environ | {"TERM": "xterm-256color"}) as process:
        os.close(theirs)
        with open(ours, "rb", buffering=0) as screen:
            shown = read_until(screen, b"record_id=")
            write({"timestamp": now + timedelta(seconds=1), "action": "dispose", "new_values": {"note": "z" * 70}})
            shown = read_until(screen, b"record_id=")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n").splitlines()
    assert max(map(len, lines)) <= 80
    for whole in ("dispose", f"part {PARTS[0]}", USERS[0], YACHTS[0]):
        assert any(whole in line for line in lines), whole


def read_until(screen: Any, mark: bytes) -> bytes:
    """What a terminal shows up to the end of the line that has ``mark`` in it."""
    shown = b""
    while mark not in shown or not shown.endswith(b"\n"):
        shown += screen.read(65536)
    return bytes(shown)


def test_tags_and_full_width_formulas_are_shown_and_not_obeyed(workspace: Workspace, kind: str) -> None:
    write({"action": "\uff1dcmd", "entity_type": "a\U000e0041b", "new_values": {"k": "\u200d\u061c\x85"}})
    (row,) = csv.DictReader(io.StringIO(workspace.run("events", "--format", "csv").out))
    assert (row["action"], row["entity_type"]) == ("'\uff1dcmd", "a\\U000e0041b")
    out = workspace.run("events", "--format", "json").out
    assert out.rstrip("\n").isprintable()
    assert orjson.loads(out)["new_values"] == {"k": "\u200d\u061c\x85"}
    assert orjson.loads(out)["entity_type"] == "a\U000e0041b"
