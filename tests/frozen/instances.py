"""Instances that answer one request, are frozen (SIGSTOP) at once, and killed (SIGKILL) later."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from tests.stack import AuditTable, Stack
from tests.support.otlp_receiver import Receiver
from tests.support.servers import environment, to_table

SERVERS = ("uvicorn", "gunicorn", "lambda")
SINKS = ("supabase", "postgres", "otlp")
_FROZEN_AT_ONCE = 20
_ROOT = Path(__file__).parents[2]


def to_sink(sink: str, stack: Stack, table: AuditTable, receiver: Receiver) -> dict[str, str]:
    """Return the variables that send rows to one of the sinks."""
    if sink == "supabase":
        return to_table(stack, table)
    if sink == "otlp":
        return {"OTEL_AUDIT_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": receiver.endpoint}
    return {"OTEL_AUDIT_EXPORTER": "postgres", "OTEL_AUDIT_POSTGRES_DSN": stack.dsn(), "OTEL_AUDIT_TABLE": table.name}


def missing_after_freeze(
    server: str, sink: str, count: int, stack: Stack, table: AuditTable, receiver: Receiver, **settings: str
) -> int:
    """Invoke ``count`` instances, freeze each after its answer and kill it later; return how many events are lost."""
    environ = environment(_ROOT, **{**to_sink(sink, stack, table, receiver), **settings})
    said = invoke_and_freeze(server, count, environ)
    there = receiver.ids if sink == "otlp" else {str(row["id"]) for row in table.rows()}
    return len(said - there)


def invoke_and_freeze(server: str, count: int, environ: Mapping[str, str]) -> set[str]:
    """Return the ids of the events, each said by one instance that is frozen after the answer and killed later."""
    said: set[str] = set()
    frozen: list[int] = []
    with _nursery(server, environ) as nursery:
        for _ in range(count):
            record_id = str(uuid4())
            group, port = _start(nursery)
            try:
                assert b" 200 " in _ask(port, record_id)
            finally:
                frozen.append(group)
                os.killpg(group, signal.SIGSTOP)
            said.add(record_id)
            if len(frozen) == _FROZEN_AT_ONCE:
                _kill(frozen)
        _kill(frozen)
    return said


@contextmanager
def _nursery(server: str, environ: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.frozen.program", server]
    with subprocess.Popen(
        command, cwd=_ROOT, env=dict(environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as nursery:
        try:
            yield nursery
        finally:
            nursery.kill()


def _start(nursery: subprocess.Popen[str]) -> tuple[int, int]:
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write("\n")
    nursery.stdin.flush()
    group, port = nursery.stdout.readline().split()
    return int(group), int(port)


def _ask(port: int, record_id: str) -> bytes:
    """Return the whole answer, read to its end and not a moment longer."""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(f"GET /{record_id} HTTP/1.1\r\nhost: here\r\n\r\n".encode())
        answer = b""
        while not _is_whole(answer):
            piece = connection.recv(65_536)
            if not piece:
                break
            answer += piece
        return answer


def _is_whole(answer: bytes) -> bool:
    head, separator, body = answer.lower().partition(b"\r\n\r\n")
    length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
    return bool(separator) and len(body) >= int(length)


def _kill(groups: list[int]) -> None:
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    groups.clear()
