"""The kit proves something: for each way of breaking the code on purpose, the checker finds what it must find."""

from dataclasses import replace
from pathlib import Path

from tests.faults import scenario
from tests.faults.failpoints import AFTER_A_CALL
from tests.faults.scenario import Scenario
from tests.stack import AuditTable, Stack
from tests.stack.faults import Place, Reset, captive_portal


def test_settling_before_the_answer_loses_what_a_kill_interrupts(tmp_path: Path) -> None:
    assert _lost(_killed_before_an_insert(tmp_path, "settle before the sink's answer"))


def test_without_a_break_the_same_kills_lose_nothing(tmp_path: Path) -> None:
    assert _killed_before_an_insert(tmp_path) == []


def test_a_fresh_id_per_retry_doubles_rows_when_replies_are_lost(
    stack: Stack, audit_table: AuditTable, tmp_path: Path
) -> None:
    stack.gateway.inject(Reset(Place.COMMITTED), times=3)
    found = _delivered(scenario.on_stack(tmp_path, stack, audit_table), "a fresh id per retry")
    assert any(line.startswith("I2 one event under two ids") for line in found)
    assert any(line.startswith("I7 never emitted") for line in found)
    assert _lost(found)


def test_taking_any_2xx_for_an_answer_loses_what_a_captive_portal_swallowed(
    stack: Stack, audit_table: AuditTable, tmp_path: Path
) -> None:
    stack.gateway.inject(captive_portal(), times=2)
    assert _lost(_delivered(scenario.on_stack(tmp_path, stack, audit_table), "any 2xx accepted"))


def test_accepting_before_the_commit_loses_events_at_a_kill(tmp_path: Path) -> None:
    assert _lost(_killed_before_an_insert(tmp_path, "accepted before the commit"))


def test_a_value_changed_on_the_way_is_noticed(tmp_path: Path) -> None:
    found = _delivered(scenario.on_sqlite(tmp_path), "a value changed on the way")
    assert any(line.startswith("I3 content altered") for line in found)


def _killed_before_an_insert(directory: Path, *breaks: str) -> list[str]:
    broken = scenario.on_sqlite(directory, schedule_delay_millis=100)
    job = replace(broken.job, breaks=list(breaks), failpoint="before the sink's insert")
    with broken.nursery() as nursery:
        assert {nursery.kill_one(job, 60.0) for _ in range(3)} == {-9}
    return broken.violations()


def _delivered(broken: Scenario, *breaks: str) -> list[str]:
    job = replace(broken.job, breaks=list(breaks), failpoint=AFTER_A_CALL, visits=200)
    with broken.nursery() as nursery:
        assert nursery.kill_one(job, 60.0) == -9
    return broken.violations(list(breaks))


def _lost(found: list[str]) -> bool:
    return any(line.startswith("I1 accepted and lost") for line in found)
