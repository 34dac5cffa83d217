"""A log that is damaged while its process uses it: calls go on, what is whole is delivered, what is lost is counted."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    get_audit_stats,
    shutdown_audit,
)
from tests.faults import events, scenario
from tests.faults.scenario import sqlite_rows
from tests.faults.scripts import started
from tests.faults.worker import new_id
from tests.stack.waiting import wait_until
from tests.support.damage import damage
from tests.support.logs import logs_below, segments_of

_SAID = "event(s) cannot be read"

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


def segments_left(directory: Path) -> list[Path]:
    """The segments that were written full: nobody has them mapped any more."""
    (log,) = logs_below(directory)
    by_stripe: dict[str, list[Path]] = {}
    for segment in segments_of(log):
        by_stripe.setdefault(segment.name.partition("-")[0], []).append(segment)
    return [segment for segments in by_stripe.values() for segment in segments[:-2]]


def emit() -> PendingReceipt:
    """Emit one event of a few pages."""
    return audit_event(**{**events.arguments(new_id()), "new_values": {"long": "x" * 3000}})


def emit_into_outage(count: int) -> list[PendingReceipt]:
    """Emit so many events while the table is known to be away: nobody has more of them in hand than a probe."""
    first = emit()
    wait_until(lambda: get_audit_stats().last_error is not None, "the table is away")
    return [first, *(emit() for _ in range(count - 1))]


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


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "outbox"), [("spots", "disk"), ("spots", "fsync"), ("all", "disk"), ("half", "disk")])
def test_calls_go_on_and_what_is_lost_is_counted_and_logged(
    configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, outbox: str
) -> None:
    pipeline = configured(outbox=outbox)
    before = emit_into_outage(2000)
    with Emitting(4) as emitting:
        for segment in segments_left(tmp_path / "outbox"):
            damage(segment, kind)
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
    assert (stats.submitted, stats.pending) == (len(receipts), 0)
    assert 0 < stats.failed == stats.lost == len(receipts) - len(stored) < len(before)
    assert {one.record_id: one.state for one in receipts} == {
        one.record_id: "stored" if one.record_id in stored else "parked" for one in receipts
    }
    assert {record.levelno for record in caplog.records if _SAID in record.getMessage()} == {logging.CRITICAL}
    assert pipeline.shutdown()


def test_who_waits_for_an_event_that_is_lost_is_notified(configured: Configured, tmp_path: Path) -> None:
    configured()
    receipts = emit_into_outage(2000)
    for segment in segments_left(tmp_path / "outbox"):
        damage(segment, "all")
    awaited = receipts[::100]  # some of them may be in hand already, and are delivered
    with ThreadPoolExecutor(len(awaited)) as waiting:
        outcomes = [waiting.submit(receipt.result, 60) for receipt in awaited]
        heal(tmp_path)
    stored = {row["id"] for row in sqlite_rows(tmp_path / "away" / "table.db")}
    lost = [
        (receipt, outcome)
        for receipt, outcome in zip(awaited, outcomes, strict=True)
        if receipt.record_id not in stored
    ]
    assert len(lost) > 0
    assert [outcome.result().record_id for outcome in outcomes if outcome.exception() is None] == [
        receipt.record_id for receipt in awaited if receipt.record_id in stored
    ]
    for receipt, outcome in lost:
        refused = outcome.exception()
        assert isinstance(refused, AuditDeliveryError)
        assert (refused.record_id, refused.state) == (receipt.record_id, "parked")


def test_a_process_whose_files_are_overwritten_from_outside_delivers_the_rest(tmp_path: Path) -> None:
    in_use = scenario.on_sqlite(tmp_path)
    in_use.job = replace(in_use.job, events=6000)
    table = tmp_path / "missing" / "table.db"
    in_use.job.options["path"] = str(table)
    with started("damaged_in_use", in_use) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        outbox_dir = Path(in_use.job.options["outbox_dir"])
        wait_until(lambda: len(segments_left(outbox_dir)) > 1, "some segments are full")
        for segment in segments_left(outbox_dir):
            damage(segment, "spots")
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
