"""A process that can open no more files: the error says that, and blames neither certificates nor network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import Stack

PROGRAM = """
import os, resource, sys, time
from otel_audit_exporter.sinks.base import SinkError
kind, where = sys.argv[1:]
columns = ("id", "created_at")
if kind == "supabase":
    from otel_audit_exporter.sinks.supabase.sink import SupabaseSink
    sink = SupabaseSink(where, "key", columns=columns)
elif kind == "postgres":
    from otel_audit_exporter.sinks.postgres.sink import PostgresSink
    sink = PostgresSink(where, columns=columns)
else:
    from otel_audit_exporter.sinks.sqlite import SQLiteSink
    sink = SQLiteSink(where, columns=columns)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
full = []
try:
    while True:
        full.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
try:
    sink.insert([b'{"id":"1","created_at":"2026-01-01"}'], time.monotonic() + 10)
except SinkError as error:
    said = f"{error.verdict.fault.value}: {error}: {error.verdict.remedy}"
os.close(full.pop())
print(said)
"""


@pytest.mark.parametrize("kind", ["supabase", "postgres", "sqlite"])
def test_no_file_left_is_named_as_the_cause(stack: Stack, tmp_path: Path, kind: str) -> None:
    where = {"supabase": stack.url, "postgres": stack.dsn(), "sqlite": str(tmp_path / "audit.db")}[kind]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, where], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stderr == ""
    assert run.stdout.startswith("transient: too many files are open")
    assert "ulimit -n" in run.stdout
