"""How a caller learns what has become of an event."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from otel_audit_exporter import (
    AuditDeliveryError,
    AuditPipeline,
    AuditReceipt,
    PendingReceipt,
    audit_event,
    configure_audit,
    flush_audit,
    get_audit_stats,
    shutdown_audit,
)
from tests.stack import AuditTable, Stack
from tests.stack.faults import Hang, Place, unavailable_json
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.running import run_python

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def pipeline(stack: Stack, audit_table: AuditTable) -> AuditPipeline:
    return configure_audit("supabase", url=stack.url, key=stack.service_key, table=audit_table.name)


@pytest.fixture
def slow_pipeline(stack: Stack, audit_table: AuditTable) -> AuditPipeline:
    """One that would send nothing by itself for a minute."""
    return configure_audit(
        "supabase", url=stack.url, key=stack.service_key, table=audit_table.name, schedule_delay_millis=60_000
    )


def test_an_event_is_pending_and_then_stored(stack: Stack, pipeline: AuditPipeline) -> None:
    hang = stack.gateway.inject(Hang(Place.REQUEST_BODY), times=None)
    receipt = audit_event(**arguments())
    assert receipt.state == "pending"
    hang.remove()
    wait_until(lambda: receipt.state == "stored", "the row is stored")


def test_the_record_id_is_a_string_of_the_row_s_id(pipeline: AuditPipeline, audit_table: AuditTable) -> None:
    receipt = audit_event(**arguments())
    assert isinstance(receipt.record_id, str)
    assert UUID(receipt.record_id).version == 7
    receipt.result(30)
    assert audit_table.ids() == [receipt.record_id]


def test_a_result_sends_queued_events_and_has_the_acknowledged_time(
    slow_pipeline: AuditPipeline, audit_table: AuditTable
) -> None:
    before = datetime.now(UTC)
    receipt = audit_event(**arguments())
    got = receipt.result(30)
    assert isinstance(got, AuditReceipt)
    assert got.record_id == receipt.record_id
    assert before <= got.acknowledged_at <= datetime.now(UTC)
    assert got.acknowledged_at.utcoffset() is not None
    assert audit_table.count() == 1
    assert receipt.result() == got


def test_a_result_that_times_out_raises_and_the_event_stays_pending(
    stack: Stack, pipeline: AuditPipeline, audit_table: AuditTable
) -> None:
    """The error has what is known, and the event is delivered later."""
    stack.gateway.refuse()
    receipt = audit_event(**arguments())
    wait_until(lambda: get_audit_stats().last_error is not None, "a first attempt has failed")
    began = time.monotonic()
    with pytest.raises(AuditDeliveryError) as caught:
        receipt.result(1)
    assert 0.9 < time.monotonic() - began < 10
    assert caught.value.record_id == receipt.record_id
    assert caught.value.state == "pending"
    assert "no connection" in str(caught.value.cause)
    assert receipt.record_id in str(caught.value)
    stack.gateway.accept()
    assert receipt.result(60).record_id == receipt.record_id
    assert audit_table.count() == 1


def test_a_result_with_timeout_zero_returns_at_once(stack: Stack, pipeline: AuditPipeline) -> None:
    stack.gateway.refuse()
    with pytest.raises(AuditDeliveryError) as caught:
        audit_event(**arguments()).result(0)
    assert caught.value.state == "pending"


def test_waiting_for_a_sink_that_is_away_does_not_hammer_it(stack: Stack, pipeline: AuditPipeline) -> None:
    away = stack.gateway.inject(unavailable_json(), times=None)
    receipt = audit_event(**arguments())
    away.wait()
    with pytest.raises(AuditDeliveryError):
        receipt.result(2)
    assert 1 <= away.hits < 20


def test_awaiting_a_sink_that_is_away_does_not_hammer_it(stack: Stack, pipeline: AuditPipeline) -> None:
    away = stack.gateway.inject(unavailable_json(), times=None)

    receipt = audit_event(**arguments())
    away.wait()

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_awaited(receipt), 2)

    asyncio.run(wait())
    assert 1 <= away.hits < 20


async def _awaited(receipt: PendingReceipt) -> AuditReceipt:
    return await receipt


def test_a_parked_event_says_why(pipeline: AuditPipeline, audit_table: AuditTable) -> None:
    audit_table.alter("add constraint no_bad check (action <> 'bad')")
    bad = audit_event(**arguments(action="bad"))
    audit_event(**arguments())
    with pytest.raises(AuditDeliveryError) as caught:
        bad.result(60)
    assert bad.state == caught.value.state == "parked"
    assert "no_bad" in str(caught.value.cause)
    assert get_audit_stats().failed == 1


def test_a_bad_row_is_parked_at_any_place_in_its_batch(
    stack: Stack, pipeline: AuditPipeline, audit_table: AuditTable
) -> None:
    audit_table.alter("add constraint no_bad check (action <> 'bad')")
    hang = stack.gateway.inject(Hang(Place.REQUEST_BODY))
    first = audit_event(**arguments())
    hang.wait()
    bad = audit_event(**arguments(action="bad"))
    good = [audit_event(**arguments()) for _ in range(100)]
    hang.release()
    assert flush_audit()
    assert (first.state, bad.state) == ("stored", "parked")
    assert {receipt.state for receipt in good} == {"stored"}
    assert audit_table.count() == 101


def test_a_receipt_can_be_awaited(slow_pipeline: AuditPipeline, audit_table: AuditTable) -> None:
    async def handler() -> AuditReceipt:
        return await audit_event(**arguments())

    assert audit_table.count() == 0
    got = asyncio.run(handler())
    assert audit_table.ids() == [got.record_id]


def test_awaiting_does_not_hold_the_loop_up(stack: Stack, slow_pipeline: AuditPipeline) -> None:
    held = stack.gateway.inject(Hang(Place.REQUEST_BODY))

    async def handler() -> AuditReceipt:
        waiting = asyncio.ensure_future(_awaited(audit_event(**arguments())))
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not waiting.done()
        held.remove()
        return await waiting

    assert isinstance(asyncio.run(handler()), AuditReceipt)


def test_many_receipts_are_awaited_at_once(pipeline: AuditPipeline, audit_table: AuditTable) -> None:
    async def handler() -> list[AuditReceipt]:
        return await asyncio.gather(*(_awaited(audit_event(**arguments())) for _ in range(500)))

    got = asyncio.run(handler())
    assert {one.record_id for one in got} == set(audit_table.ids())


def test_one_receipt_is_awaited_from_several_loops(stack: Stack, pipeline: AuditPipeline) -> None:
    hang = stack.gateway.inject(Hang(Place.REQUEST_BODY))
    receipt = audit_event(**arguments())
    got: list[AuditReceipt] = []
    threads = [threading.Thread(target=lambda: got.append(asyncio.run(_awaited(receipt)))) for _ in range(5)]
    for thread in threads:
        thread.start()
    hang.wait()
    hang.release()
    for thread in threads:
        thread.join()
    assert {one.record_id for one in got} == {receipt.record_id}
    assert len(got) == 5


def test_a_wait_that_is_cancelled_leaves_the_event_to_be_delivered(
    stack: Stack, pipeline: AuditPipeline, audit_table: AuditTable
) -> None:
    hang = stack.gateway.inject(Hang(Place.REQUEST_BODY))

    async def handler() -> None:
        task = asyncio.ensure_future(_awaited(audit_event(**arguments())))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(handler())
    hang.release()
    assert flush_audit()
    assert audit_table.count() == 1


def test_threads_wait_for_their_results_while_others_are_settled(pipeline: AuditPipeline) -> None:
    errors: list[BaseException] = []

    def handler() -> None:
        try:
            for _ in range(20):
                audit_event(**arguments()).result(60)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=handler) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert get_audit_stats().succeeded == 160


def test_a_receipt_is_right_after_shutdown(stack: Stack, pipeline: AuditPipeline) -> None:
    stored = audit_event(**arguments())
    assert flush_audit()
    stack.gateway.refuse()
    pending = audit_event(**arguments())
    assert not shutdown_audit(200)
    assert (stored.state, pending.state) == ("stored", "pending")
    assert stored.result(1).record_id == stored.record_id
    began = time.monotonic()
    with pytest.raises(AuditDeliveryError) as caught:
        pending.result()
    assert caught.value.state == "pending"
    assert time.monotonic() - began < 10


def test_a_receipt_is_right_after_shutdown_for_every_outbox(tmp_path: Path) -> None:
    configure_audit("sqlite", path="missing/t.db", outbox_dir=os.fspath(tmp_path / "50%20 #1?x"))
    receipt = audit_event(**arguments())
    assert not shutdown_audit(0)
    assert receipt.state == "pending"
    (ended,) = tmp_path.rglob("*.log/ended")
    ended.write_bytes(b"no records any more")
    assert receipt.state == "pending"


def test_a_receipt_knows_what_another_pipeline_has_parked(
    stack: Stack, audit_table: AuditTable, pipeline: AuditPipeline
) -> None:
    audit_table.alter("add constraint no_bad check (action <> 'bad')")
    with stack.gateway.refusing():
        bad, good = audit_event(**arguments(action="bad")), audit_event(**arguments())
        assert not shutdown_audit(0)
    again = configure_audit("supabase", url=stack.url, key=stack.service_key, table=audit_table.name)
    assert again.force_flush(60_000)
    assert (bad.state, good.state) == ("parked", "stored")
    with pytest.raises(AuditDeliveryError) as caught:
        bad.result(30)
    assert "no_bad" in str(caught.value.cause)


def test_a_dead_letter_that_is_dropped_was_not_stored(pipeline: AuditPipeline, audit_table: AuditTable) -> None:
    audit_table.alter("add constraint no_bad check (action <> 'bad')")
    bad, good = audit_event(**arguments(action="bad")), audit_event(**arguments())
    assert flush_audit(60_000)
    assert pipeline.dead_letters().drop(bad.record_id)
    assert (bad.state, good.state) == ("parked", "stored")
    stats = get_audit_stats()
    assert (stats.succeeded, stats.failed, stats.pending) == (1, 1, 0)


def test_a_forked_child_can_wait_for_what_its_parent_delivers() -> None:
    program = """
import os, otel_audit_exporter as a
from tests.support.events import arguments
from tests.support.running import run_python
pipeline = a.configure_audit("sqlite", path="away/t.db")
receipt = a.audit_event(**arguments())
ready, looked = os.pipe()
if os.fork() == 0:
    os.write(looked, receipt.state.encode())
    os._exit(0 if receipt.result(60).record_id == receipt.record_id and receipt.state == "stored" else 1)
assert os.read(ready, 10) == b"pending"
os.mkdir("away")
assert pipeline.force_flush(60_000)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert run_python(program, PYTHONPATH=os.fspath(PROJECT)) == "0\n"


def test_a_receipt_of_a_finished_event_costs_no_memory(pipeline: AuditPipeline) -> None:
    for _ in range(50):
        audit_event(**arguments())
    assert flush_audit()
    (exporter,) = pipeline.exporters
    assert exporter.channel.completions.watched == 0
    wait_until(lambda: exporter.channel.sender.delivering == 0, "the attempts have ended")


def test_a_receipt_shows_its_id_and_no_values(pipeline: AuditPipeline) -> None:
    receipt = audit_event(**arguments(new_values={"text": "S3CRET"}))
    assert receipt.record_id in repr(receipt)
    assert "S3CRET" not in repr(receipt)
