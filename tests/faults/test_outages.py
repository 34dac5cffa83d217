"""Outages of every kind: nothing counts as stored that is not, all is delivered afterwards, without a restart."""

import time
from pathlib import Path

import pytest

from tests.faults import scenario
from tests.faults.conftest import Start
from tests.faults.outages import NOT_STORED, PERHAPS_STORED, assert_outage_survived
from tests.stack import AuditTable, Stack, faults
from tests.stack.faults import Fault, Hang, Place, Reset
from tests.stack.messages import Request
from tests.stack.waiting import wait_until


@pytest.mark.parametrize("fault", NOT_STORED.values(), ids=NOT_STORED)
def test_events_not_stored_in_an_outage_are_stored_once_afterwards(stack: Stack, start: Start, fault: Fault) -> None:
    running = start(export_timeout_millis=1000)
    injection = stack.gateway.inject(fault, times=None)
    running.emit(20)
    injection.wait()
    assert not running.pipeline.force_flush(200)
    running.assert_nothing_stored()
    injection.remove()
    running.wait_until_delivered()
    running.assert_each_good_one_stored_once()


@pytest.mark.parametrize("fault", PERHAPS_STORED.values(), ids=PERHAPS_STORED)
def test_what_was_perhaps_stored_is_offered_again_and_is_there_once(stack: Stack, start: Start, fault: Fault) -> None:
    running = start(export_timeout_millis=1000)
    injection = stack.gateway.inject(fault, times=2)
    running.emit(20)
    injection.wait()
    running.wait_until_delivered()
    running.assert_each_good_one_stored_once()


def test_a_hundred_replies_lost_after_the_commit_double_no_id(stack: Stack, start: Start) -> None:
    running = start()
    injection = stack.gateway.inject(Reset(Place.COMMITTED), times=100)
    while injection.hits < 100:
        running.emit(1)
        running.pipeline.force_flush(20)
    running.wait_until_delivered()
    running.assert_each_good_one_stored_once()


def test_even_a_flush_respects_the_servers_retry_after(stack: Stack, start: Start) -> None:
    running = start()
    asked: list[float] = []

    def note(request: Request) -> bool:
        asked.append(time.monotonic())
        return len(asked) == 1

    stack.gateway.inject(faults.too_many_requests("2"), times=None, when=note)
    running.emit(1)
    channel = running.pipeline.exporters[0].channel
    wait_until(lambda: not channel.sender.backoff.is_open, "the first request is refused")
    running.emit(4)
    assert not running.pipeline.force_flush(300) or len(asked) > 1
    running.wait_until_delivered()
    assert asked[1] - asked[0] >= 2.0
    running.assert_each_good_one_stored_once()


class TestServersThatAreAway:
    def test_the_database_behind_postgrest(self, stack: Stack, start: Start) -> None:
        running = start()
        stack.postgres.stop()
        running.emit(50)
        assert not running.pipeline.force_flush(500)
        assert running.pipeline.stats().pending == 50
        stack.postgres.start()
        running.wait_until_delivered()
        running.assert_each_good_one_stored_once()

    def test_postgrest(self, stack: Stack, start: Start) -> None:
        running = start()
        stack.postgrest.kill()
        running.emit(50)
        assert not running.pipeline.force_flush(500)
        stack.postgrest.start()
        running.wait_until_delivered()
        running.assert_each_good_one_stored_once()

    def test_everything(self, stack: Stack, start: Start) -> None:
        running = start()
        with stack.gateway.refusing():
            running.emit(50)
            assert not running.pipeline.force_flush(500)
        running.wait_until_delivered()
        running.assert_each_good_one_stored_once()

    def test_backends_killed_again_and_again(self, stack: Stack, start: Start) -> None:
        running = start()
        for _ in range(10):
            running.emit(50)
            stack.postgres.terminate_backends()
        running.wait_until_delivered()
        running.assert_each_good_one_stored_once()

    def test_a_table_that_is_locked(self, stack: Stack, start: Start, audit_table: AuditTable) -> None:
        running = start(export_timeout_millis=1000)
        with stack.postgres.connect() as holder, holder.transaction():
            holder.execute(f"lock table {audit_table.name} in access exclusive mode")
            running.emit(20)
            assert not running.pipeline.force_flush(1500)
        running.wait_until_delivered()
        running.assert_each_good_one_stored_once()


def test_calls_return_while_the_sink_hangs_and_everything_is_delivered_later(stack: Stack, start: Start) -> None:
    """There are more events than the SDK's queue takes."""
    running = start(export_timeout_millis=300_000, max_queue_size=32, max_export_batch_size=8)
    injection = stack.gateway.inject(Hang(Place.REQUEST_BODY), times=None)
    running.emit(1)
    injection.wait()
    running.emit(2000)  # they all return although nothing is answered
    assert running.pipeline.stats().pending == 2001
    injection.remove()
    running.wait_until_delivered()
    running.assert_each_good_one_stored_once()


@pytest.mark.timeout(240)
def test_twenty_thousand_events_of_an_outage_are_delivered_with_bounded_memory(
    stack: Stack, audit_table: AuditTable, tmp_path: Path
) -> None:
    """`make soak` does it with 200,000."""
    outage = scenario.on_stack(tmp_path, stack, audit_table)
    stack.gateway.keep_requests(False)
    assert_outage_survived(stack, outage, 20_000)
