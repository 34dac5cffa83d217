"""Processes in unusual surroundings: no home, another directory, the first of a container, no threads, no output."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from otel_audit_exporter import audit_event, configure_audit, flush_audit, shutdown_audit
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.console import ConsoleSink
from tests.support.events import arguments
from tests.support.rows import sqlite_rows
from tests.support.running import run_in_child, run_python

ENTITY = str(uuid4())
EVENT = f'audit.audit_event("x", entity_type="t", entity_id="{ENTITY}", yacht_id="{ENTITY}", user_id="{ENTITY}")'
# A user without an entry in the password database, as in containers that run with any uid.
AS_NOBODY = f"""
import os, pwd, sys
import otel_audit_exporter as audit
def no_entry(uid):
    raise KeyError(uid)
pwd.getpwuid = no_entry
for name in ("HOME", "STATE_DIRECTORY", "XDG_STATE_HOME", "OTEL_AUDIT_OUTBOX_DIR"):
    os.environ.pop(name, None)
try:
    audit.configure_audit("postgres", dsn="postgresql://127.0.0.1:1/x")
except audit.AuditConfigurationError as error:
    print("OTEL_AUDIT_OUTBOX_DIR" in str(error))
exporter = audit.PostgresAuditExporter(dsn="postgresql://127.0.0.1:1/x")  # as the SDK builds it
{EVENT}
print(audit.get_audit_stats().pending)
audit.shutdown_audit(0)
"""


def test_without_a_home_directory_the_error_names_the_setting() -> None:
    """An exporter holds its events."""
    assert run_python(AS_NOBODY).split() == ["True", "1"]


def test_a_relative_outbox_directory_stays_where_it_was(tmp_path: Path, bare_environment: None) -> None:
    pipeline = configure_audit("sqlite", path=str(tmp_path / "audit.db"), outbox_dir="outbox", mode="sync")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def emit_elsewhere() -> None:
        os.chdir(elsewhere)
        audit_event(**arguments(action="in_the_child"))
        assert shutdown_audit(30_000)

    assert run_in_child(emit_elsewhere, 60)
    os.chdir(elsewhere)
    audit_event(**arguments())
    assert flush_audit(30_000)
    assert pipeline.stats().failed == 0
    assert len(sqlite_rows(tmp_path / "audit.db")) == 2
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("away", [False, True])
def test_the_first_process_of_a_container_ends_on_sigterm(tmp_path: Path, away: bool) -> None:
    table = tmp_path / ("missing/audit.db" if away else "audit.db")
    program = f"""
import os, signal
import otel_audit_exporter as audit
assert os.getpid() == 1
outbox = {str(tmp_path / "outbox")!r}
audit.configure_audit("sqlite", path={str(table)!r}, outbox_dir=outbox, schedule_delay_millis=60_000)
{EVENT}
os.kill(1, signal.SIGTERM)
while True:
    signal.pause()
"""
    command = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--pid", "--fork"]
    ended = subprocess.run([*command, sys.executable, "-c", program], check=False, timeout=60, capture_output=True)
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    assert len(sqlite_rows(table)) == (0 if away else 1)


def test_after_the_end_of_the_main_thread_nothing_is_made(tmp_path: Path) -> None:
    program = f"""
import threading
import otel_audit_exporter as audit
configure = audit.configure_audit
def late():
    threading.main_thread().join()
    try:
        configure("sqlite", path={str(tmp_path / "audit.db")!r}, outbox_dir={str(tmp_path / "outbox")!r})
    except audit.AuditConfigurationError as error:
        print("no thread can be started" in str(error))
threading.Thread(target=late).start()
"""
    assert run_python(program).split() == ["True"]
    assert not (tmp_path / "outbox").exists()


def test_in_a_sub_interpreter_that_may_start_threads_events_are_delivered(tmp_path: Path) -> None:
    inside = f"""
import os
import otel_audit_exporter as audit
audit.configure_audit("sqlite", path={str(tmp_path / "audit.db")!r}, outbox_dir={str(tmp_path / "outbox")!r})
{EVENT}
assert audit.shutdown_audit(30_000)
os._exit(0)  # Python cannot end a sub-interpreter in which a daemon thread runs
"""
    program = f"""
try:
    import _interpreters as sub
    interpreter = sub.create("legacy")
except ImportError:
    import _xxsubinterpreters as sub
    interpreter = sub.create(isolated=False)
sub.run_string(interpreter, {inside!r})
"""
    run_python(program)
    assert len(sqlite_rows(tmp_path / "audit.db")) == 1


@pytest.mark.parametrize("close", ["sys.stdout.close()", "sys.stdout = None"])
def test_with_standard_output_closed_the_console_is_refused(close: str) -> None:
    program = f"""
import sys
import otel_audit_exporter as audit
{close}
try:
    audit.configure_audit("console")
except audit.AuditConfigurationError as error:
    assert "standard output is closed" in str(error)
else:
    sys.exit("it was taken")
"""
    run_python(program)


def test_standard_output_that_is_closed_later_is_named_as_the_cause() -> None:
    out = io.StringIO()
    out.close()
    with pytest.raises(SinkError, match="standard output is closed") as caught:
        ConsoleSink(out=out).insert([], 0.0)
    assert "another exporter" in (caught.value.verdict.remedy or "")
