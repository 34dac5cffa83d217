"""Power cuts, modelled: with the outbox's `fsync` nothing that was accepted is lost, and threads share syncs.

The break that this catches is `synchronous = OFF`; see the model for what it assumes.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from otel_audit_exporter.outbox.store import OutboxFile

from tests.faults import scenario
from tests.faults.failpoints import AFTER_A_CALL
from tests.faults.scenario import Scenario


@pytest.mark.parametrize("sink_is_away", [False, True])
def test_after_a_power_cut_everything_accepted_is_there(tmp_path: Path, sink_is_away: bool) -> None:
    assert _cut(tmp_path, "fsync", sink_is_away) == []


def test_the_disk_mode_does_not_promise_that(tmp_path: Path) -> None:
    assert _lost(_cut(tmp_path, "disk", sink_is_away=True))


def test_switching_the_syncs_off_is_found_out(tmp_path: Path) -> None:
    assert _lost(_cut(tmp_path, "fsync", True, "synchronous off"))


def test_threads_that_append_at_once_share_commits(tmp_path: Path) -> None:
    store, statements = OutboxFile(tmp_path / "t.outbox", durable=True), list[str]()
    store._connection.set_trace_callback(statements.append)
    seqs = _append_from_threads(store, threads=16, each=50)
    assert sorted(seqs) == list(range(1, 801))
    assert store.count() == 800
    commits = statements.count("COMMIT")
    assert 1 <= commits < 800
    store.close()


def _append_from_threads(store: OutboxFile, threads: int, each: int) -> list[int]:
    seqs: list[int] = []
    start = threading.Barrier(threads)

    def append() -> None:
        start.wait()
        for _ in range(each):
            seqs.append(store.append(b"[]", _nothing))

    workers = [threading.Thread(target=append) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return seqs


def _cut(directory: Path, outbox: str, sink_is_away: bool, *breaks: str) -> list[str]:
    """Cut the power of three processes in turn; start again from what was synced, and give what is broken."""
    target = directory / "there" / "table.db"
    cut = scenario.on_sqlite(directory, outbox=outbox, path=str(target))
    cut.rows = lambda: scenario.sqlite_rows(target)
    if not sink_is_away:
        target.parent.mkdir()
    _run_until_cut(cut, directory / "synced", list(breaks))
    target.parent.mkdir(exist_ok=True)
    cut.job.options["outbox_dir"] = str(directory / "synced")
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


_nothing: Callable[[], Any] = lambda: None  # noqa: E731
