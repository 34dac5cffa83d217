"""How fast the same rows get there without this library: what the machine can do, and what was done before.

Everything is prepared before the clock starts: bodies are joined, COPY's text is written, connections are open.
"""

from __future__ import annotations

import http.client
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
import psycopg
from psycopg.types.json import Jsonb, set_json_dumps

from tests.benchmarks.apart import Result
from tests.benchmarks.bare import bare_emit_of
from tests.benchmarks.events import table_row

COLUMNS: Final = (
    "id", "yacht_id", "entity_type", "action", "entity_id", "created_by", "created_at", "old_values", "new_values",
)  # fmt: skip
_PATH: Final = "/rest/v1/pms_audit_log?on_conflict=id&columns=" + ",".join(COLUMNS)
_COPY: Final = f"COPY public.pms_audit_log ({', '.join(COLUMNS)}) FROM STDIN"
_INSERT_MANY: Final = (
    f"INSERT INTO public.pms_audit_log ({', '.join(COLUMNS)}) SELECT {', '.join(COLUMNS)}"
    " FROM jsonb_to_recordset(%s::jsonb) AS r (id uuid, yacht_id uuid, entity_type text, action text, entity_id uuid,"
    " created_by uuid, created_at timestamptz, old_values jsonb, new_values jsonb) ON CONFLICT (id) DO NOTHING"
)
_COPY_CHUNK_ROWS: Final = 500
_CREATE: Final = f"CREATE TABLE t ({', '.join(f'{name} TEXT' for name in COLUMNS)}, PRIMARY KEY (id))"
_INSERT: Final = f"INSERT INTO t VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (id) DO NOTHING"


def posted(directory: Path, *, url: str, key: str, rows: str, connections: int, batch: int) -> Result:
    """POST ``batch`` rows a request over so many connections at once, with the standard library's client."""
    lines = Path(rows).read_bytes().split(b"\n")
    bodies = [b"[" + b",".join(lines[at : at + batch]) + b"]" for at in range(0, len(lines), batch)]
    clients = [_client(url) for _ in range(connections)]
    waiting, lock = iter(bodies), threading.Lock()

    def work(client: http.client.HTTPConnection) -> None:
        while (body := _next(waiting, lock)) is not None:
            _post(client, key, body)

    begun = time.perf_counter()
    _together(work, clients)
    return {"rows_per_second": len(lines) / (time.perf_counter() - begun)}


def copied(directory: Path, *, dsn: str, rows: str) -> Result:
    """COPY the rows over one connection, in one transaction."""
    lines = [_copy_line(line) for line in Path(rows).read_bytes().split(b"\n")]
    chunks = [b"".join(lines[at : at + _COPY_CHUNK_ROWS]) for at in range(0, len(lines), _COPY_CHUNK_ROWS)]
    with psycopg.connect(dsn) as connection:
        begun = time.perf_counter()
        with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            for chunk in chunks:
                copy.write(chunk)
        connection.commit()
        return {"rows_per_second": len(lines) / (time.perf_counter() - begun)}


def copied_by_row(directory: Path, *, dsn: str, rows: str) -> Result:
    """COPY the rows as an application has them, with psycopg's ``write_row``, as its documentation has it.

    UUIDs, a datetime and documents as dicts (``Jsonb``) are there before the clock starts; psycopg writes their text.
    """
    values = [_python_values(line) for line in Path(rows).read_bytes().split(b"\n")]
    with psycopg.connect(dsn) as connection:
        set_json_dumps(orjson.dumps, connection)
        begun = time.perf_counter()
        with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            for row in values:
                copy.write_row(row)
        connection.commit()
        return {"rows_per_second": len(values) / (time.perf_counter() - begun)}


def inserted(directory: Path, *, dsn: str, rows: str, connections: int, batch: int) -> Result:
    """Insert ``batch`` rows a statement over so many connections at once, ignoring ids that are there."""
    lines = Path(rows).read_bytes().split(b"\n")
    bodies = [b"[" + b",".join(lines[at : at + batch]) + b"]" for at in range(0, len(lines), batch)]
    clients = [psycopg.connect(dsn, autocommit=True) for _ in range(connections)]
    waiting, lock = iter(bodies), threading.Lock()

    def work(client: psycopg.Connection[Any]) -> None:
        while (body := _next(waiting, lock)) is not None:
            client.execute(_INSERT_MANY, [body.decode()])

    begun = time.perf_counter()
    _together(work, clients)
    return {"rows_per_second": len(lines) / (time.perf_counter() - begun)}


def inserted_in_sqlite(directory: Path, *, rows: str, batch: int) -> Result:
    """Insert tuples with ``executemany``, ``batch`` to a transaction, synced to the disk like ours."""
    values = [_values(line) for line in Path(rows).read_bytes().split(b"\n")]
    connection = sqlite3.connect(directory / "limit.db", isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(_CREATE)
    begun = time.perf_counter()
    for at in range(0, len(values), batch):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_INSERT, values[at : at + batch])
        connection.execute("COMMIT")
    return {"rows_per_second": len(values) / (time.perf_counter() - begun)}


def pooled(directory: Path, *, url: str, key: str, rows: int) -> Result:
    """Insert one row a request from a thread pool of five, with the supabase client: what this library replaces."""
    from supabase import create_client

    client = create_client(url, key)

    def insert(row: dict[str, Any]) -> None:
        client.table("pms_audit_log").insert(row).execute()

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(insert, [table_row() for _ in range(5)]))  # connections are open
        given = [table_row() for _ in range(rows)]
        begun = time.perf_counter()
        list(pool.map(insert, given))
        return {"rows_per_second": rows / (time.perf_counter() - begun)}


def exported_by_the_sdk(directory: Path, *, endpoint: str, rows: int, batch: int = 1000) -> Result:
    """Export records of the same attributes with the SDK's own OTLP exporter, one batch after another."""
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

    provider, kept = LoggerProvider(shutdown_on_exit=False), InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # the SDK's
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    emit = bare_emit_of(provider)
    for _ in range(rows):
        emit()
    records, exporter = kept.get_finished_logs(), OTLPLogExporter(endpoint)
    begun = time.perf_counter()
    for at in range(0, len(records), batch):
        exporter.export(records[at : at + batch])
    return {"rows_per_second": rows / (time.perf_counter() - begun)}


def _client(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    client = http.client.HTTPConnection(parts.hostname, parts.port)
    client.connect()
    return client


def _post(client: http.client.HTTPConnection, key: str, body: bytes) -> None:
    headers = {
        "apikey": key,
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Prefer": "resolution=ignore-duplicates,return=minimal",
    }
    client.request("POST", _PATH, body, headers)
    response = client.getresponse()
    answer = response.read()
    assert response.status == 201, answer


def _next(waiting: Iterator[bytes], lock: threading.Lock) -> bytes | None:
    with lock:
        return next(waiting, None)


def _together(work: Any, clients: Sequence[Any]) -> None:
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(work, clients))


def _values(line: bytes) -> list[Any]:
    row = orjson.loads(line)
    return [_text(row[name]) for name in COLUMNS]


def _python_values(line: bytes) -> list[Any]:
    row = orjson.loads(line)
    for name in ("id", "yacht_id", "entity_id", "created_by"):
        row[name] = uuid.UUID(row[name])
    row["created_at"] = datetime.fromisoformat(row["created_at"])
    for name in ("old_values", "new_values"):
        row[name] = Jsonb(row[name])
    return [row[name] for name in COLUMNS]


def _text(value: Any) -> Any:
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else value


def _copy_line(line: bytes) -> bytes:
    fields = (b"\\N" if value is None else _escaped(str(value)) for value in _values(line))
    return b"\t".join(fields) + b"\n"


def _escaped(text: str) -> bytes:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r").encode()
