"""The kit proves something: for each way of breaking the code on purpose, the checker finds what it must find."""

from dataclasses import replace
from pathlib import Path

import pytest

from otel_audit_exporter.outbox import segment
from otel_audit_exporter.outbox.ended import STORED
from tests.faults import scenario
from tests.faults.failpoints import AFTER_A_CALL
from tests.faults.scenario import Scenario
from tests.stack import AuditTable, Stack
from tests.stack.faults import Place, Reset, captive_portal
from tests.support import raw_logs


def test_ending_before_the_answer_loses_what_a_kill_interrupts(tmp_path: Path) -> None:
    assert _lost(_killed(tmp_path, "before the sink's insert", "a range ended before the sink's answer"))


def test_without_a_break_the_same_kills_lose_nothing(tmp_path: Path) -> None:
    assert _killed(tmp_path, "before the sink's insert") == []


def test_a_fresh_id_per_retry_doubles_rows_when_replies_are_lost(
    stack: Stack, audit_table: AuditTable, tmp_path: Path
) -> None:
    stack.gateway.inject(Reset(Place.COMMITTED), times=3)
    found = _delivered(scenario.on_stack(tmp_path, stack, audit_table), "a fresh id per retry")
    assert any(line.startswith("I2 one event under two ids") for line in found)
    assert any(line.startswith("I7 never emitted") for line in found)
    assert _lost(found)


def test_taking_any_2xx_as_success_loses_events_to_a_captive_portal(
    stack: Stack, audit_table: AuditTable, tmp_path: Path
) -> None:
    stack.gateway.inject(captive_portal(), times=2)
    assert _lost(_delivered(scenario.on_stack(tmp_path, stack, audit_table), "any 2xx accepted"))


def test_accepting_before_the_store_loses_events_at_a_kill(tmp_path: Path) -> None:
    assert _lost(_killed(tmp_path, AFTER_A_CALL, "accepted before the store"))


def test_a_head_before_its_body_makes_a_kill_look_like_damage(tmp_path: Path) -> None:
    found = _killed(tmp_path, None, "the head before the body")
    assert any(line.startswith("I6 the counters") for line in found)


def test_a_checksum_that_is_not_checked_lets_altered_events_pass(tmp_path: Path) -> None:
    assert _flipped(tmp_path / "whole") == []
    found = _flipped(tmp_path / "broken", "the checksum not checked")
    assert any(line.startswith(("I3", "I6 parked", "I7")) for line in found), found


def test_without_a_seed_a_reused_file_gives_old_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _used_again(tmp_path / "whole") == (2, 0)
    monkeypatch.setattr(segment, "crc32", lambda data: 0)
    assert _used_again(tmp_path / "broken") != (2, 0)


def _used_again(path: Path) -> tuple[int, int]:
    """Use a full segment's file again in another stripe, and tell how many events are read and lost after a kill."""
    log = raw_logs.file_log(path / "own.log")
    raw_logs.said(log, [raw_logs.event_bytes(number, 3000) for number in range(30)])
    first = log.stripes[0]
    log.end(STORED, [(first, 1, first.segments[0].last_number or 0)])
    log.free_segments()
    log.end(STORED, [(first, 1, first.at[2])])
    with log.taken_stripe():
        raw_logs.said(log, [raw_logs.event_bytes(number, 2900) for number in (100, 101)])
    copy = raw_logs.open_copy(path / "own.log", path / "copy")
    log.close_files()
    return copy.log.pending, copy.found.lost


def test_a_value_changed_on_the_way_is_noticed(tmp_path: Path) -> None:
    found = _delivered(scenario.on_sqlite(tmp_path), "a value changed on the way")
    assert any(line.startswith("I3 content altered") for line in found)


def _killed(directory: Path, failpoint: str | None, *breaks: str) -> list[str]:
    broken = scenario.on_sqlite(directory, schedule_delay_millis=100)
    job = replace(broken.job, breaks=list(breaks), failpoint=failpoint, visits=30 if failpoint == AFTER_A_CALL else 1)
    with broken.nursery() as nursery:
        assert {nursery.kill_one(job, 60.0) for _ in range(3)} == {-9}
    return broken.violations()


def _flipped(directory: Path, *breaks: str) -> list[str]:
    """Flip a bit in the middle of each event's text that a killed process has left."""
    directory.mkdir()
    broken = scenario.on_sqlite(directory, schedule_delay_millis=60_000)
    with broken.nursery() as nursery:
        assert nursery.kill_one(replace(broken.job, failpoint=AFTER_A_CALL, visits=20), 60.0) == -9
    for path in Path(broken.job.options["outbox_dir"]).rglob("*.seg"):
        path.write_bytes(path.read_bytes().replace(b'"kind_', b'"kine_'))
    found = broken.violations(list(breaks))
    return [line for line in found if not line.startswith(("I1", "I6 the counters"))]  # they are lost, and counted


def _delivered(broken: Scenario, *breaks: str) -> list[str]:
    job = replace(broken.job, breaks=list(breaks), failpoint=AFTER_A_CALL, visits=200)
    with broken.nursery() as nursery:
        assert nursery.kill_one(job, 60.0) == -9
    return broken.violations(list(breaks))


def _lost(found: list[str]) -> bool:
    return any(line.startswith("I1 accepted and lost") for line in found)
