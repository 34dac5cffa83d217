"""The direct connection: what it is made of, what it survives, and how long it may take."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from psycopg.sql import SQL

from otel_audit_exporter.sinks.postgres.dsn import read_dsn
from otel_audit_exporter.sinks.postgres.sink import PostgresSink
from otel_audit_exporter.sinks.verdict import Fault
from tests.sinks.rows import COLUMNS, id_of, new_row, refusal, soon
from tests.sinks.tcp_proxy import TcpProxy
from tests.stack import AuditTable, Stack
from tests.stack.waiting import wait_until
from tests.support.running import in_threads, run_in_child

RECORD, CONFIGURATION, TRANSIENT = Fault.RECORD, Fault.CONFIGURATION, Fault.TRANSIENT


@pytest.fixture
def sink(postgres_sink: PostgresSink) -> PostgresSink:
    return postgres_sink


@pytest.fixture
def proxied(stack: Stack, proxy: TcpProxy, audit_table: AuditTable) -> Iterator[PostgresSink]:
    dsn = proxy.through(stack.dsn("audit_writer"))
    with closing(PostgresSink(dsn, table=audit_table.name, columns=COLUMNS)) as sink:
        yield sink


# The DSN


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://bob:S3CRET@db.example:6543/app",
        "postgres://bob:S3CRET@db.example:6543/app",
        "postgresql+asyncpg://bob:S3CRET@db.example:6543/app",
        "postgresql+psycopg://bob:S3CRET@db.example:6543/app?pgbouncer=true&connection_limit=1",
        "host=db.example port=6543 dbname=app user=bob password=S3CRET",
        " postgresql://bob:S3CRET@db.example:6543/app\n",
    ],
)
def test_every_form_of_dsn_is_read_and_the_password_shown_nowhere(dsn: str) -> None:
    sink = PostgresSink(dsn, columns=COLUMNS)
    assert sink.target == "postgresql://db.example:6543/app public.pms_audit_log"
    assert "S3CRET" not in repr(sink)
    expected = {"host": "db.example", "port": "6543", "dbname": "app", "user": "bob", "password": "S3CRET"}
    assert read_dsn(dsn) == expected


@pytest.mark.parametrize(
    ("query", "mode"), [("ssl=true", "require"), ("ssl=verify-full", "verify-full"), ("sslmode=prefer", "prefer")]
)
def test_tls_settings_of_other_drivers_are_understood(query: str, mode: str) -> None:
    assert read_dsn(f"postgresql+asyncpg://db.example/app?{query}")["sslmode"] == mode


@pytest.mark.parametrize(
    "dsn",
    [
        "",
        "mysql://u:S3CRET@h/db",
        "S3CRET",
        "postgresql://u:S3CRET@h/db?S3CRET=1",
        "host=h S3CRET",
        "postgresql://u:S3CRET",
        "postgresql://u:S3CRET@h/db?sslaccept=strict",
    ],
)
def test_an_unreadable_dsn_raises_at_once_and_is_not_quoted(dsn: str) -> None:
    if not dsn:
        assert PostgresSink(dsn, columns=COLUMNS).target.startswith("postgresql://localhost:5432/")
        return
    with pytest.raises(ValueError, match="DSN") as caught:
        PostgresSink(dsn, columns=COLUMNS)
    assert "S3CRET" not in str(caught.value)


def test_a_missing_psycopg_is_reported_with_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r"pip install .otel-audit-exporter\[postgres\]"):
        PostgresSink("postgresql://db.example/app", columns=COLUMNS)


# The login


def refused_login(stack: Stack, table: AuditTable, **changes: str) -> Any:
    parameters = read_dsn(stack.dsn("audit_writer")) | changes
    dsn = " ".join(f"{name}={value}" for name, value in parameters.items())
    sink = PostgresSink(dsn, table=table.name, columns=COLUMNS)
    return refusal(sink, secrets=("WR0NG", str(parameters["password"])))


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"password": "WR0NG"}, "28P01", '"audit_writer"'),
        ({"user": "nobody_here"}, "28P01", '"nobody_here"'),
        ({"user": "service_role"}, "28P01", '"service_role"'),
        ({"dbname": "nowhere"}, "3D000", "database"),
        ({"sslmode": "require"}, None, "sslmode"),
    ],
)
def test_a_refused_login_is_the_configurations_fault(
    stack: Stack, audit_table: AuditTable, changes: dict[str, str], code: str | None, named: str
) -> None:
    error = refused_login(stack, audit_table, **changes)
    assert (error.verdict.fault, error.code) == (CONFIGURATION, code)
    assert named in error.verdict.remedy


@pytest.mark.parametrize("changes", [{"port": "1"}, {"host": "nowhere.invalid"}])
def test_a_server_that_is_not_there_is_surely_not_stored(
    stack: Stack, audit_table: AuditTable, changes: dict[str, str]
) -> None:
    error = refused_login(stack, audit_table, **changes)
    assert (error.verdict.fault, error.verdict.perhaps_stored, error.code) == (TRANSIENT, False, None)


def test_a_role_that_may_not_connect_any_more_is_transient(
    stack: Stack, sink: PostgresSink, audit_table: AuditTable
) -> None:
    stack.sql("alter role audit_writer connection limit 0")
    try:
        error = refusal(sink)
    finally:
        stack.sql("alter role audit_writer connection limit -1")
    assert (error.verdict.fault, error.code) == (TRANSIENT, "53300")
    sink.insert([new_row()], soon())


def test_several_hosts_are_tried_in_turn(stack: Stack, audit_table: AuditTable) -> None:
    parameters = read_dsn(stack.dsn("audit_writer"))
    with hanging_server() as port:
        parameters |= {"host": "127.0.0.1,127.0.0.1,localhost", "port": f"1,{port},{parameters['port']}"}
        dsn = " ".join(f"{name}={value}" for name, value in parameters.items())
        with closing(PostgresSink(dsn, table=audit_table.name, columns=COLUMNS)) as sink:
            sink.insert([new_row()], soon(20))
    assert audit_table.count() == 1


# Time


def test_a_server_that_never_answers_ends_with_the_deadline(stack: Stack, audit_table: AuditTable) -> None:
    with hanging_server() as port, within(8.0):
        error = refused_login_within(stack, audit_table, port, 0.5)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, False)


@pytest.mark.parametrize("replies", ["hold", "drip"])
def test_a_hanging_or_dripping_reply_ends_in_time_with_one_row(
    proxied: PostgresSink, proxy: TcpProxy, audit_table: AuditTable, replies: str
) -> None:
    proxied.insert([warm := new_row()], soon())
    row = new_row()
    proxy.replies = replies
    with within(8.0):
        error = refusal(proxied, row, seconds=3.0)
    assert error.verdict.fault is TRANSIENT
    assert error.verdict.perhaps_stored
    wait_until(lambda: id_of(row) in audit_table.ids(), "the server has stored it")
    proxy.replies = "pass"
    proxied.insert([row], soon())
    assert audit_table.ids() == sorted([id_of(warm), id_of(row)])


def test_a_login_that_drips_ends_with_the_deadline(
    proxied: PostgresSink, proxy: TcpProxy, audit_table: AuditTable
) -> None:
    proxy.replies = "drip"
    with within(8.0):
        error = refusal(proxied, seconds=0.5)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, False)


def test_a_reply_lost_on_a_new_connection_leaves_one_row(
    proxied: PostgresSink, proxy: TcpProxy, audit_table: AuditTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = new_row()
    with connected(proxied, monkeypatch):
        proxy.replies = "cut"
        assert refusal(proxied, row).verdict.fault is TRANSIENT
    proxy.replies = "pass"
    proxied.insert([row], soon())
    assert audit_table.ids() == [id_of(row)]


def test_a_kept_connection_that_breaks_is_no_fault(
    proxied: PostgresSink, proxy: TcpProxy, audit_table: AuditTable
) -> None:
    proxied.insert([new_row()], soon())
    proxy.cut()
    proxied.insert([new_row()], soon())
    assert (audit_table.count(), proxy.accepted) == (2, 2)


def test_a_peer_that_reads_nothing_ends_with_the_deadline(
    proxied: PostgresSink, stack: Stack, audit_table: AuditTable
) -> None:
    with stack.postgres.connect() as blocker, within(8.0):
        blocker.execute("begin")
        blocker.execute(SQL("lock table {}").format(audit_table.identifier))
        error = refusal(proxied, new_row(new_values="x" * 30_000_000), seconds=1.0)
        blocker.execute("rollback")
    assert error.verdict.fault is TRANSIENT


def test_the_server_stops_a_statement_before_the_deadline_and_says_so(
    sink: PostgresSink, stack: Stack, audit_table: AuditTable
) -> None:
    sink.insert([new_row()], soon())
    with stack.postgres.connect() as blocker:
        blocker.execute("begin")
        blocker.execute(SQL("lock table {}").format(audit_table.identifier))
        error = refusal(sink, seconds=6.0)
        blocker.execute("rollback")
    assert (error.code, error.verdict.fault, error.verdict.halve) == ("57014", TRANSIENT, True)


def test_no_setting_and_no_prepared_statement_stays_in_the_session(sink: PostgresSink) -> None:
    sink.insert([new_row()], soon())
    sink.insert([new_row()], soon())
    wire = next(iter(sink._idle))
    queries = (b"show statement_timeout", b"select count(*) from pg_prepared_statements")
    answers = wire.run([(query, ()) for query in queries], soon())
    assert [answer.get_value(0, 0) for answer in answers] == [b"0", b"0"]


def test_no_time_is_no_connection(sink: PostgresSink) -> None:
    error = refusal(sink, seconds=-1.0)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, False)


# Connections


def test_one_connection_is_kept_and_threads_at_once_have_their_own(
    proxied: PostgresSink, proxy: TcpProxy, stack: Stack, audit_table: AuditTable
) -> None:
    for _ in range(5):
        proxied.insert([new_row()], soon())
    assert proxy.accepted == 1
    with stack.postgres.connect() as blocker:
        blocker.execute("begin")
        blocker.execute(SQL("lock table {}").format(audit_table.identifier))

        def unlock_when_all_wait() -> None:
            wait_until(lambda: waiting_for_a_lock(stack) == 4, "four connections wait for the table")
            blocker.execute("rollback")

        in_threads([unlock_when_all_wait, *[lambda: proxied.insert([new_row()], soon())] * 4])
    assert audit_table.count() == 9
    assert proxy.accepted == 4


def test_a_refused_row_does_not_cost_the_connection(
    proxied: PostgresSink, proxy: TcpProxy, audit_table: AuditTable
) -> None:
    for _ in range(3):
        proxied.insert([new_row()], soon())
        assert refusal(proxied, new_row(action=None)).verdict.fault is RECORD
    assert (audit_table.count(), proxy.accepted) == (3, 1)


def test_a_port_that_is_no_number_is_reported() -> None:
    with pytest.raises(ValueError, match="port in the DSN is no number"):
        read_dsn("host=localhost port=x")


def test_a_forked_child_uses_a_connection_of_its_own(
    proxied: PostgresSink, proxy: TcpProxy, audit_table: AuditTable
) -> None:
    proxied.insert([new_row()], soon())

    def insert_in_child() -> None:
        proxied.renew_after_fork()
        proxied.insert([new_row()], soon())
        proxied.close()

    assert all(run_in_child(insert_in_child) for _ in range(3))
    assert run_in_child(lambda: proxied.insert([new_row()], soon()))  # nobody told it of the fork
    proxied.insert([new_row()], soon())
    assert audit_table.count() == 6
    assert proxy.accepted == 5


def test_closing_gives_the_connection_back(sink: PostgresSink, stack: Stack) -> None:
    sink.insert([new_row()], soon())
    sink.close()
    query = "select count(*) as open from pg_stat_activity where usename = 'audit_writer'"
    wait_until(lambda: stack.sql(query)[0]["open"] == 0, "the connection is gone")


# The table


@pytest.mark.parametrize(
    "change",
    [
        "alter table {} alter action type varchar(100), alter created_at type timestamp",
        "alter table {} alter yacht_id type text",
        "alter table {} drop constraint {}_pkey, add primary key (id, created_at)",
        "alter table {} alter new_values type json",
        "alter table {} alter old_values type text",
    ],
)
def test_a_table_that_changes_under_a_running_sink_is_no_fault(
    sink: PostgresSink, stack: Stack, audit_table: AuditTable, change: str
) -> None:
    sink.insert([new_row()], soon())
    stack.sql(SQL(change.replace("{}", audit_table.name)))  # type: ignore[arg-type]  # a test's own text
    stack.sql(SQL("grant select (created_at) on {} to audit_writer").format(audit_table.identifier))
    sink.insert([new_row()], soon())
    assert audit_table.count() == 2


def test_narrowing_a_text_column_under_a_running_sink_is_no_fault(
    sink: PostgresSink, stack: Stack, audit_table: AuditTable
) -> None:
    audit_table.alter("alter yacht_id type text")
    sink.insert([new_row()], soon())
    audit_table.alter("alter yacht_id type uuid using yacht_id::uuid")
    sink.insert([new_row()], soon())
    assert audit_table.count() == 2


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_document_in_a_text_or_json_column_keeps_its_text(
    sink: PostgresSink, audit_table: AuditTable, kind: str, stack: Stack
) -> None:
    audit_table.alter(f"alter new_values type {kind}")
    document = b'{"b": 1.50,"a":[1 , 2]}'
    sink.insert([new_row(new_values="DOC").replace(b'"DOC"', document)], soon())
    [row] = stack.sql(SQL("select new_values::text as text from {}").format(audit_table.identifier))
    assert row["text"] == document.decode()


@pytest.mark.parametrize(("kind", "value"), [("bigint", 42), ("text", "RCV-1"), ("numeric", 2**70)])
def test_ids_may_be_text_or_numbers(sink: PostgresSink, audit_table: AuditTable, kind: str, value: Any) -> None:
    audit_table.alter(f"alter entity_id type {kind} using null")
    row = new_row(entity_id="ID").replace(b'"ID"', str(value).encode() if kind != "text" else b'"RCV-1"')
    sink.insert([row], soon())
    assert audit_table.rows()[0]["entity_id"] == value


def test_columns_that_are_not_written_keep_their_defaults(sink: PostgresSink, audit_table: AuditTable) -> None:
    audit_table.alter("add stamp text not null default 'made here', add number bigserial")
    audit_table.postgres.sql(SQL("grant usage on all sequences in schema public to audit_writer"))
    sink.insert([new_row()], soon())
    assert (audit_table.rows()[0]["stamp"], audit_table.rows()[0]["number"]) == ("made here", 1)


def test_the_shortest_key_that_holds_the_id_is_used(sink: PostgresSink, audit_table: AuditTable) -> None:
    audit_table.alter("drop constraint " + f"{audit_table.name}_pkey" + ", add primary key (created_at, id)")
    audit_table.alter("add unique (id)")
    row = new_row()
    sink.insert([row, new_row(id=id_of(row), created_at="2026-01-01T00:00:00Z")], soon())
    assert audit_table.count() == 1


@pytest.mark.parametrize(
    "key",
    [
        "create unique index on {} (id) where action = 'create'",
        "create unique index on {} (lower(id::text))",
        "alter table {} add unique (id) deferrable",
        "alter table {} add column other int, add unique (id, other)",
    ],
)
def test_a_key_that_on_conflict_cannot_name_is_no_key(
    sink: PostgresSink, stack: Stack, audit_table: AuditTable, key: str
) -> None:
    audit_table.alter(f"drop constraint {audit_table.name}_pkey")
    stack.sql(SQL(key.replace("{}", audit_table.name)))  # type: ignore[arg-type]  # a test's own text
    error = refusal(sink)
    assert (error.verdict.fault, error.code) == (CONFIGURATION, "42P10")


# Helpers


def waiting_for_a_lock(stack: Stack) -> int:
    query = (
        "select count(*) as waiting from pg_stat_activity where usename = 'audit_writer' and wait_event_type = 'Lock'"
    )
    return int(stack.sql(query)[0]["waiting"])


@contextmanager
def connected(sink: PostgresSink, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the next insert find a new connection that is already open."""
    wire = sink._connect(soon())
    with monkeypatch.context() as patched:
        patched.setattr(sink, "_connect", lambda deadline: wire)
        yield


@contextmanager
def hanging_server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def refused_login_within(stack: Stack, table: AuditTable, port: int, seconds: float) -> Any:
    dsn = stack.dsn("audit_writer").replace(f":{stack.postgres.port}/", f":{port}/")
    return refusal(PostgresSink(dsn, table=table.name, columns=COLUMNS), seconds=seconds)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail where the block took much longer than its deadline: the bound is generous."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds
