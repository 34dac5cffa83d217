"""uWSGI, whose workers are forked in C: Python's hooks before a fork do not run there, and sometimes none does."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.rows import sqlite_rows
from tests.support.servers import asking, environment, write

EVENTS = 120
SHOP = """
    import json
    import os
    from uuid import UUID, uuid4

    import otel_audit_exporter as audit

    audit.configure_audit("sqlite", path="audit.db", outbox_dir="outbox")
    someone = uuid4()


    def answer(path):
        if path.startswith("/emit"):
            values = {"pid": os.getpid(), "path": path}
            receipt = audit.audit_event(
                "touch", entity_type="t", entity_id=someone, yacht_id=someone, user_id=someone, new_values=values
            )
            return receipt.result(20).record_id if path.startswith("/emit-and-wait") else receipt.record_id
        if path == "/flush":
            return audit.flush_audit(20_000)
        if path == "/state":
            pipeline = audit.get_audit_pipeline()
            stats = pipeline.stats()
            return [os.getpid(), stats.submitted, stats.failed, pipeline.health().level, len(pipeline.dead_letters())]
        return "here"


    def application(environ, start_response):
        start_response("200 OK", [("content-type", "application/json")])
        return [json.dumps(answer(environ["PATH_INFO"])).encode()]
"""
HOOKS = "--py-call-uwsgi-fork-hooks"
COMMAND = ("uwsgi", "--http-socket", "127.0.0.1:{port}", "--module", "shop:application", "--processes", "4")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--master", "--die-on-term"), id="master"),
        pytest.param(("--master", "--die-on-term", "--threads", "4"), id="master-and-four-threads"),
        pytest.param(("--die-on-term", "--enable-threads"), id="no-master"),
        pytest.param(("--master", "--die-on-term", "--py-call-osafterfork"), id="hooks-asked-for"),
        pytest.param(("--master", "--die-on-term", "--enable-threads", HOOKS), id="fork-hooks"),
    ],
)
def test_each_worker_has_a_log_and_counters_of_its_own(tmp_path: Path, options: tuple[str, ...]) -> None:
    write(tmp_path, "shop.py", SHOP)
    submitted: dict[int, int] = {}
    with asking(tmp_path, (*COMMAND, *options), environment(tmp_path)) as (server, ask):
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(ask, (f"/emit{'-and-wait' if n % 10 == 0 else ''}/{n}" for n in range(EVENTS))))
            assert set(pool.map(ask, ["/flush"] * 40)) == {True}, server.output()
            for pid, count, failed, level, letters in pool.map(ask, ["/state"] * 60):
                submitted[pid] = count
                assert (failed, letters) == (0, 0)
                assert level != "critical"  # a slow machine may make it a warning
        server.end()
        assert ("a worker may hang" in server.output()) == (HOOKS not in options)
    rows = sqlite_rows(tmp_path / "audit.db")
    assert sorted(row["id"] for row in rows) == sorted(map(str, ids))
    stored = Counter(row["new_values"]["pid"] for row in rows)
    assert len(stored) > 1
    assert all(submitted.get(pid, count) == count for pid, count in stored.items())
