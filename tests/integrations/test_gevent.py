"""gunicorn's gevent workers with --preload: Python's threads are replaced after the configuration, in each worker."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.stack import AuditTable, Stack
from tests.support.servers import asking, environment, running, to_table, write

EVENTS = 60
SHOP = """
    import json
    from uuid import uuid4

    import otel_audit_exporter as audit

    audit.configure_audit()
    someone = uuid4()


    def answer(path):
        if path.startswith("/emit"):
            receipt = audit.audit_event(
                "touch", entity_type="t", entity_id=someone, yacht_id=someone, user_id=someone
            )
            try:
                if path.startswith("/emit-and-wait"):
                    return receipt.result(int(path.split("/")[2])).record_id
                return receipt.record_id
            except audit.AuditDeliveryError as error:
                return error.state
        if path == "/flush":
            return audit.flush_audit(20_000)
        if path == "/health":
            return audit.get_audit_pipeline().health().level
        return "here"


    def application(environ, start_response):
        start_response("200 OK", [("content-type", "application/json")])
        return [json.dumps(answer(environ["PATH_INFO"])).encode()]
"""
COMMAND = ("gunicorn", "-k", "gevent", "--preload", "--bind", "127.0.0.1:{port}", "shop:application", "--workers")
PATCHED_FIRST = """
import {name}
{patch}
import otel_audit_exporter as audit
try:
    audit.configure_audit("memory")
except audit.AuditConfigurationError as error:
    print(str(error).partition(" ")[0])
"""


def test_each_worker_delivers_every_event_once_and_says_how(
    tmp_path: Path, stack: Stack, audit_table: AuditTable
) -> None:
    write(tmp_path, "shop.py", SHOP)
    environ = environment(tmp_path, **to_table(stack, audit_table))
    with asking(tmp_path, (*COMMAND, "2"), environ) as (server, ask):
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(ask, (f"/emit{'-and-wait/60' if n % 10 == 0 else ''}/{n}" for n in range(EVENTS))))
            assert set(pool.map(ask, ["/flush"] * 16)) == {True}, server.output()
            assert "critical" not in pool.map(ask, ["/health"] * 8), server.output()
        server.end(25)
        warned = re.findall(r"gevent has replaced Python's threads in process (\d+)", server.output())
        assert len(set(warned)) == len(warned) >= 1
    assert sorted(str(row["id"]) for row in audit_table.rows()) == sorted(map(str, ids))


def test_other_requests_go_on_while_a_receipt_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path, "shop.py", SHOP)
    environ = environment(tmp_path, OTEL_AUDIT_EXPORTER="sqlite", OTEL_AUDIT_SQLITE_PATH=str(tmp_path / "no" / "a.db"))
    with (
        running(tmp_path, (*COMMAND, "1"), environ) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(client.get, "/emit-and-wait/8/1")
        client.get("/emit/2")
        assert client.get("/").json() == "here"
        assert not waiting.done()
        assert waiting.result().json() == "pending"
        server.end(25)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "patch"),
    [("gevent.monkey", "gevent.monkey.patch_all()"), ("eventlet", "eventlet.monkey_patch()")],
)
def test_where_threads_were_replaced_before_configuration_refuses(name: str, patch: str) -> None:
    program = PATCHED_FIRST.format(name=name, patch=patch)
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == [name.partition(".")[0]]
