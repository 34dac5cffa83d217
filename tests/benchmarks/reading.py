"""A trail of a million rows: every page of every filter, from request to answer, and an export of all of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import psycopg

from tests.benchmarks.apart import Result, run_apart
from tests.benchmarks.large_trail import FILTERS, SCOPES, SHAPES, fill_script, options_of, plan_of
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.reading_jobs import exported, pages
from tests.benchmarks.rows import Row, alone, limited

_MOST_MILLIS: Final = 100
_MOST_MIB: Final = 100
_SLOWEST: Final = 4
_POSTGREST_ROLE: Final = "authenticator"
_END_SECONDS: Final = 30.0


def _run(bench: Bench) -> Sequence[Row]:
    rows: list[Row] = []
    for shape in SHAPES:
        bench.tell(f"{bench.sizes.trail_rows:,} rows, {shape}")
        with psycopg.connect(bench.project.postgres["dsn"], autocommit=True) as server:
            server.execute(f"alter role {_POSTGREST_ROLE} set plan_cache_mode = force_custom_plan".encode())
            server.execute(fill_script(shape, bench.sizes.trail_rows).encode())
            # As autovacuum has done with rows that came over months: what every reader may see is in the index alone.
            server.execute(f"vacuum analyze {plan_of(shape).table}".encode())
            _end_connections_of_postgrest(server)
            before = _sequential_scans(server, shape)
            for exporter in (bench.project.postgres, bench.project.supabase):
                rows += _of_exporter(bench, shape, exporter)
            _end_connections_of_postgrest(server)
            scans = _sequential_scans(server, shape) - before
            rows.append(alone("reading", f"looks through the whole table for all of this, {shape}", [scans], "times"))
            server.execute(f"drop table {plan_of(shape).table}".encode())
    return rows


def _of_exporter(bench: Bench, shape: str, exporter: dict[str, str]) -> Sequence[Row]:
    options = exporter | options_of(shape)
    where = f"{exporter['exporter']}, {shape}"
    rows: list[Row] = []
    for scope, tenants in SCOPES.items():
        bench.tell(f"pages, {where}, {scope}")
        asked: dict[str, Any] = {"options": options, "filters": FILTERS, "scopes": {scope: tenants}}
        arguments = asked | {"looks": bench.sizes.rounds}  # a server may plan in another way after five
        rows.append(_slowest(f"slowest page of {len(FILTERS)} filters, {where}, reader of {scope}", pages, arguments))
    if shape == next(iter(SHAPES)):
        bench.tell(f"export, {where}")
        rows += _exports(where, run_apart(exported, {"options": options}), bench.sizes.trail_rows)
    return rows


def _slowest(what: str, job: Any, arguments: dict[str, Any]) -> Row:
    taken = run_apart(job, arguments)
    slow = sorted(taken, key=lambda page: -taken[page])[:_SLOWEST]
    note = ", ".join(f"{page} {taken[page]:.0f} ms" for page in slow)
    return limited("reading", what, [taken[slow[0]]], "ms", _MOST_MILLIS, note=note, noisy=False)


def _exports(where: str, result: Result, events: int) -> Sequence[Row]:
    assert result["/export.jsonl lines"] >= events
    assert result["/export.csv lines"] >= events + 1
    most = max(result["/export.csv mib"], result["/export.jsonl mib"])
    rate = [events / result[f"{path} seconds"] for path in ("/export.csv", "/export.jsonl")]
    what = f"exports of {events:,} events, {where}"
    return [
        limited("reading", f"anonymous memory of the process, {what}", [most], "MiB", _MOST_MIB, noisy=False),
        alone("reading", what, rate, "rows/s"),
    ]


def _sequential_scans(server: psycopg.Connection[Any], shape: str) -> int:
    server.execute("select pg_stat_force_next_flush()")  # or what made the table is counted a second later
    query = "select seq_scan from pg_stat_user_tables where relname = %s"
    found = server.execute(query, [plan_of(shape).table]).fetchone()
    assert found is not None
    return int(found[0])


def _end_connections_of_postgrest(server: psycopg.Connection[Any]) -> None:
    """End them, as they were begun with other settings, and tell with their end how they have looked."""
    there = "select pid from pg_stat_activity where usename = %s"
    pids = [pid for (pid,) in server.execute(there, [_POSTGREST_ROLE]).fetchall()]
    server.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) pid", [pids])
    until = time.monotonic() + _END_SECONDS
    while server.execute("select 1 from pg_stat_activity where pid = any(%s)", [pids]).fetchone():
        assert time.monotonic() < until
        time.sleep(0.05)


READING: Final = Measurement("reading", "pages of a million rows by every filter, and their export", _run)
