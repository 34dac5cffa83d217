"""60 workers killed at random moments and at every failpoint: nothing lost, nothing doubled, nothing altered."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import scenario
from tests.faults.events import BAD_ACTION
from tests.faults.failpoints import AFTER_A_CALL, FAILPOINTS
from tests.stack import AuditTable, Stack


@pytest.mark.timeout(600)
def test_forty_killed_workers_leave_every_event_once_in_the_table(
    stack: Stack, audit_table: AuditTable, tmp_path: Path
) -> None:
    """The table is on the real PostgreSQL and PostgREST."""
    stack.gateway.keep_requests(False)
    audit_table.alter(f"add constraint no_bad_action check (action <> '{BAD_ACTION}')")
    kills = scenario.on_stack(tmp_path, stack, audit_table)
    assert {death.status for death in scenario.kill_workers(kills, seed=1, count=40)} == {-9}
    assert kills.violations() == []
    assert len(kills.said.accepted) > 500


@pytest.mark.timeout(600)
def test_twenty_killed_workers_leave_every_event_once_in_the_sqlite_table(tmp_path: Path) -> None:
    kills = scenario.on_sqlite(tmp_path)
    assert {death.status for death in scenario.kill_workers(kills, seed=2, count=20)} == {-9}
    assert kills.violations() == []
    assert len(kills.said.accepted) > 200


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_every_failpoint_is_reached_and_loses_nothing(failpoint: str, tmp_path: Path) -> None:
    kills = scenario.on_sqlite(tmp_path)
    with closing(sqlite3.connect(tmp_path / "table.db")) as database:
        database.execute(
            "create table pms_audit_log (id text primary key, yacht_id text, entity_type text, "
            f"action text check (action <> '{BAD_ACTION}'), entity_id text, created_by text, created_at text, "
            "old_values text, new_values text)"
        )
    with kills.nursery() as nursery:
        assert nursery.kill_one(replace(kills.job, failpoint=AFTER_A_CALL, visits=20), 60.0) == -9  # leaves an orphan
        assert nursery.kill_one(replace(kills.job, failpoint=failpoint, bad_every=40), 60.0) == -9
    assert kills.violations() == []


def test_a_worker_killed_while_making_its_log_does_not_block_others(tmp_path: Path) -> None:
    kills = scenario.on_sqlite(tmp_path)
    job = replace(kills.job, failpoint="before a new log has a segment")
    with kills.nursery() as nursery:
        assert {nursery.kill_one(job, 10.0) for _ in range(3)} == {-9}
    assert kills.violations() == []
