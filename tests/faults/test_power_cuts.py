"""Power cuts, modelled: with the outbox's `fsync` nothing that was accepted is lost.

The break that this catches is a library that does not sync; see the model for what it assumes.
"""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from tests.faults import power, scenario
from tests.faults.failpoints import AFTER_A_CALL
from tests.faults.scenario import Scenario


@pytest.mark.parametrize("sink_is_away", [False, True])
def test_after_a_power_cut_everything_accepted_is_there(tmp_path: Path, sink_is_away: bool) -> None:
    assert _cut(tmp_path, "fsync", sink_is_away) == []


def test_the_disk_mode_does_not_promise_that(tmp_path: Path) -> None:
    assert _lost(_cut(tmp_path, "disk", sink_is_away=True))


def test_switching_the_syncs_off_is_found_out(tmp_path: Path) -> None:
    assert _lost(_cut(tmp_path, "fsync", True, "no syncs"))


def _cut(directory: Path, outbox: str, sink_is_away: bool, *breaks: str) -> list[str]:
    """Cut the power of three processes in turn; start again from what was synced, and give what is broken."""
    target = directory / "there" / "table.db"
    cut = scenario.on_sqlite(directory, outbox=outbox, path=str(target))
    cut.rows = lambda: scenario.sqlite_rows(target)
    if not sink_is_away:
        target.parent.mkdir()
    _run_until_cut(cut, directory / "synced", list(breaks))
    target.parent.mkdir(exist_ok=True)
    power.restore(Path(cut.job.options["outbox_dir"]), directory / "synced", directory / "after")
    cut.job.options["outbox_dir"] = str(directory / "after")
    return cut.violations()


def _run_until_cut(cut: Scenario, synced: Path, breaks: list[str]) -> None:
    chance = Random(3)
    job = replace(cut.job, breaks=breaks, synced_copy=str(synced), threads=4, failpoint=AFTER_A_CALL)
    with cut.nursery() as nursery:
        for _ in range(3):
            assert nursery.kill_one(replace(job, visits=chance.randrange(20, 250)), 60.0) == -9
    assert len(cut.said.accepted) > 20


def _lost(found: list[str]) -> bool:
    return any(line.startswith("I1 accepted and lost") for line in found)
