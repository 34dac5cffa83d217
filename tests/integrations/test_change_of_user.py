"""Servers that root starts and whose workers run as another user, with the application loaded by root.

Run by a user, the servers change no user (only root can): there the process that loads the application takes itself
for root, and what it makes has to be given to the directory's owner all the same.
"""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.stack import AuditTable, Stack
from tests.support.rows import sqlite_rows
from tests.support.servers import asking, environment, to_table, write

EVENTS = 40
WORKER = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
SHOP = """
    import json
    import os
    import sys
    from pathlib import Path
    from uuid import uuid4

    real_user, loader, chown = os.geteuid, os.getpid(), os.chown
    os.geteuid = lambda: 0 if os.getpid() == loader and real_user() == WORKER else real_user()
    given = set()


    def give(path, *owner, **options):
        given.add(os.lstat(path).st_ino)
        chown(path, *owner, **options)


    os.chown = give

    import otel_audit_exporter as audit

    someone = uuid4()


    def emit(action, **where):
        values = {"user": real_user()}
        return audit.audit_event(
            action, entity_type="t", entity_id=someone, yacht_id=someone, user_id=someone, new_values=values, **where
        )


    named = {"database": "acme"} if os.environ["OTEL_AUDIT_EXPORTER"] == "sqlite" else {}
    audit.configure_audit(databases={"acme": {"path": "state/acme.db"}} if named else None)
    for where in ({}, named):
        emit("while_loading", **where).result(30)
    kept = [str(path) for path in Path("state").rglob("*") if os.lstat(path).st_ino not in given]
    os.geteuid = real_user


    def answer(path):
        if path == "/emit":
            return emit("in_a_worker").record_id
        if path == "/wait":
            return emit("in_a_worker", **named).result(30).record_id
        if path == "/flush":
            return audit.flush_audit(30_000)
        return kept


    def application(environ, start_response):
        start_response("200 OK", [("content-type", "application/json")])
        return [json.dumps(answer(environ["PATH_INFO"])).encode()]
"""
GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "--preload", "--user", WORKER.pw_name)
UWSGI = (
    *("uwsgi", "--http-socket", "127.0.0.1:{port}", "--module", "shop:application", "--processes", "2"),
    *("--master", "--die-on-term", "--uid", WORKER.pw_name),
    # Without it a worker that is forked while a thread of Python's runs in the master may wait for ever.
    "--enable-threads",
    "--py-call-uwsgi-fork-hooks",
)
SERVERS = [
    pytest.param((*GUNICORN, "shop:application"), id="gunicorn-preload"),
    pytest.param((*UWSGI, "--master-as-root"), id="uwsgi-whose-master-stays-root"),
    pytest.param((*UWSGI, "--drop-after-apps"), id="uwsgi-that-changes-after-loading"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that every user can reach, and in it one of the workers' user that has nothing in it yet."""
    above = Path(tempfile.mkdtemp(prefix="served-"))
    above.chmod(0o755)
    (above / "state").mkdir(mode=0o700)
    os.chown(above / "state", WORKER.pw_uid, WORKER.pw_gid)
    write(above, "shop.py", SHOP.replace("WORKER", str(WORKER.pw_uid)))
    yield above
    shutil.rmtree(above)


def serve(folder: Path, command: tuple[str, ...], **settings: str) -> set[str]:
    """Have a server record events while it loads and in its workers; return the ids of the latter."""
    environ = environment(folder, OTEL_AUDIT_OUTBOX_DIR=str(folder / "state" / "outbox"), **settings)
    with asking(folder, command, environ) as (server, ask):
        with ThreadPoolExecutor(8) as pool:
            ids = set(map(str, pool.map(ask, ["/emit", "/wait"] * (EVENTS // 2))))
            assert set(pool.map(ask, ["/flush"] * 16)) == {True}, server.output()
        assert ask("/kept") == []
        server.end()
    return ids


@pytest.mark.parametrize("command", SERVERS)
def test_workers_that_root_has_made_another_user_deliver(
    folder: Path, command: tuple[str, ...], stack: Stack, audit_table: AuditTable
) -> None:
    ids = serve(folder, command, **to_table(stack, audit_table))
    rows = audit_table.rows()
    assert {str(row["id"]) for row in rows if row["action"] == "in_a_worker"} == ids
    assert {row["new_values"]["user"] for row in rows if row["action"] == "in_a_worker"} == {WORKER.pw_uid}
    assert [row["new_values"]["user"] for row in rows if row["action"] == "while_loading"] == [os.geteuid()] * 2


@pytest.mark.parametrize("command", SERVERS)
def test_tables_that_root_has_made_take_the_workers_events(folder: Path, command: tuple[str, ...]) -> None:
    paths = [folder / "state" / "audit.db", folder / "state" / "acme.db"]
    ids = serve(folder, command, OTEL_AUDIT_EXPORTER="sqlite", OTEL_AUDIT_SQLITE_PATH=str(paths[0]))
    rows = [row for path in paths for row in sqlite_rows(path)]
    assert {row["id"] for row in rows if row["action"] == "in_a_worker"} == ids
    assert {path.stat().st_uid for path in paths} == {WORKER.pw_uid}
