"""An outbox file that is damaged while its process uses it: calls go on, what can be read is saved, and all is said."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter import (
    AuditDeliveryError,
    AuditPipeline,
    AuditStats,
    PendingReceipt,
    audit_event,
    configure_audit,
    shutdown_audit,
)
from tests.faults import events, scenario
from tests.faults.scenario import sqlite_rows
from tests.faults.scripts import started
from tests.faults.worker import new_id
from tests.stack.waiting import wait_until
from tests.support.damage import damage

_SAID = "was damaged while it was in use"
_CHECKPOINTED = 2**22

Configured = Callable[..., AuditPipeline]


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Configured]:
    """A pipeline to a table that comes with `heal`."""

    def configure(**options: Any) -> AuditPipeline:
        place: dict[str, Any] = {"path": str(tmp_path / "away" / "table.db"), "outbox_dir": str(tmp_path / "outbox")}
        return configure_audit("sqlite", **place, schedule_delay_millis=10, **options)

    yield configure
    shutdown_audit(2000)


def heal(directory: Path) -> None:
    (directory / "away").mkdir()


def outbox_file(directory: Path) -> Path:
    (path,) = (directory / "outbox").glob("*/*.outbox")
    return path


def emit() -> PendingReceipt:
    """Emit one event of a few pages."""
    return audit_event(**{**events.arguments(new_id()), "new_values": {"long": "x" * 3000}})


def assert_balanced(stats: AuditStats) -> None:
    assert stats.submitted + stats.recovered == stats.succeeded + stats.failed + stats.pending


class Emitting:
    """Threads that emit until the end of the block; a call that raises is seen there."""

    def __init__(self, count: int) -> None:
        self.receipts: list[PendingReceipt] = []
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._emit) for _ in range(count)]

    def _emit(self) -> None:
        try:
            while not self._stop.wait(0.005):
                self.receipts.append(emit())
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self) -> "Emitting":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.errors == []


@pytest.mark.parametrize(("kind", "outbox"), [("spots", "disk"), ("spots", "fsync"), ("all", "disk"), ("half", "disk")])
def test_calls_go_on_and_what_can_be_read_is_delivered_and_what_cannot_is_counted_and_told(
    configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, outbox: str
) -> None:
    pipeline = configured(outbox=outbox)
    before = [emit() for _ in range(4000)]
    damaged = outbox_file(tmp_path)
    wait_until(lambda: damaged.stat().st_size > _CHECKPOINTED, "much of it is in the file")
    with Emitting(4) as emitting:
        damage(damaged, kind)
        heal(tmp_path)

        def is_said() -> bool:
            assert_balanced(pipeline.stats())
            return _SAID in caplog.text

        wait_until(is_said, "the damage is found")
        seen = len(emitting.receipts)
        wait_until(lambda: len(emitting.receipts) > seen + 20, "calls go on")
    assert pipeline.force_flush(60_000)
    stats = pipeline.stats()
    assert_balanced(stats)
    stored = {row["id"] for row in sqlite_rows(tmp_path / "away" / "table.db")}
    receipts = [*before, *emitting.receipts]
    assert stats.submitted == len(receipts)
    assert stats.pending == 0
    assert 0 < stats.failed < len(before)
    assert stats.failed == len(receipts) - len(stored)
    assert {one.record_id: one.state for one in receipts} == {
        one.record_id: "stored" if one.record_id in stored else "parked" for one in receipts
    }
    (told,) = [record for record in caplog.records if _SAID in record.getMessage()]
    assert told.levelno == logging.ERROR
    assert f"{stats.failed} could not be read" in told.getMessage()
    (aside,) = damaged.parent.glob("*.damaged-*[0-9]")
    assert str(aside) in told.getMessage()
    assert not damaged.exists()
    assert pipeline.shutdown()


def test_who_waits_for_an_event_that_is_lost_is_told(configured: Configured, tmp_path: Path) -> None:
    configured()
    receipts = [emit() for _ in range(4000)]
    damaged = outbox_file(tmp_path)
    wait_until(lambda: damaged.stat().st_size > _CHECKPOINTED, "much of it is in the file")
    damage(damaged, "all")
    told: list[AuditDeliveryError] = []

    def wait() -> None:
        with pytest.raises(AuditDeliveryError) as caught:
            receipts[1600].result(60)
        told.append(caught.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    heal(tmp_path)
    waiting.join(60)
    assert (told[0].record_id, told[0].state) == (receipts[1600].record_id, "parked")
    assert _SAID in str(told[0].cause)


def test_a_process_whose_file_is_overwritten_from_outside_delivers_what_it_says(tmp_path: Path) -> None:
    in_use = scenario.on_sqlite(tmp_path)
    in_use.job = replace(in_use.job, events=6000)
    table = tmp_path / "missing" / "table.db"
    in_use.job.options["path"] = str(table)
    with started("damaged_in_use", in_use) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        (path,) = Path(in_use.job.options["outbox_dir"]).glob("*/*.outbox")
        wait_until(lambda: path.stat().st_size > 2**20, "much of it is in the file")
        damage(path, "spots")
        table.parent.mkdir()
        wait_until(lambda: _SAID in in_use.log.read_text(), "the damage is found")
        process.stdin.write("stop\n")
        process.stdin.flush()
        delivered, failed, balanced = process.stdout.read().split()
        assert process.wait(60) == 0
    stored = {str(row["id"]) for row in sqlite_rows(table)}
    assert (delivered, balanced) == ("True", "True")
    assert 0 < int(failed) < 1000
    assert len(in_use.said.accepted - stored) == int(failed)
    assert stored <= in_use.said.attempted
    assert in_use.log.read_text().count(_SAID) == 1
