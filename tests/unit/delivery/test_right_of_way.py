"""A backlog gives way to events whose receipts are waited for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

import pytest

from otel_audit_exporter.delivery import right_of_way as module
from otel_audit_exporter.delivery.backlog import RUN_ROWS, BacklogSenders
from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.delivery.relay import Relay
from otel_audit_exporter.delivery.right_of_way import FEW_ROWS, QUIET_SECONDS, RightOfWay
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.threads import Event
from tests.stack.waiting import wait_until
from tests.unit.delivery.conftest import Times, memory_channel


def test_the_backlog_gives_way_until_a_moment_after_the_receipt(times: Times) -> None:
    way = RightOfWay()
    assert way.is_free
    with way.taken():
        assert not way.is_free
    assert not way.is_free
    times.monotonic += QUIET_SECONDS
    assert way.is_free


def test_a_request_that_hangs_holds_the_backlog_up_for_a_moment_only(times: Times) -> None:
    way = RightOfWay()
    with way.taken():
        times.monotonic += 0.3
        assert way.is_free


def test_the_backlog_does_not_give_way_where_the_sink_is_far(times: Times) -> None:
    way = RightOfWay()
    with way.taken():
        for seconds in (0.3, 0.3, 0.001, 0.3, 0.3):
            way.note_few(seconds)
        assert not way.is_free, "two slow ones may have met the large batches"
        way.note_few(0.3)
        assert way.is_free
        times.monotonic += 0.2
    times.monotonic += 0.9
    with way.taken():
        assert not way.is_free, "it is asked again whether the sink is far"


class Sink:
    """Notes the size of each batch, and by which thread it was sent; holds up the answer on the awaited event."""

    name = "sink"
    target = "nowhere"

    def __init__(self) -> None:
        self.awaited, self.answers = threading.Event(), threading.Event()
        self.seen: list[tuple[str, int]] = []

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        self.seen.append((threading.current_thread().name, len(rows)))
        if b"awaited" in rows:
            self.awaited.set()
            self.answers.wait(20)

    def close(self) -> None:
        """Nothing is open."""

    def renew_after_fork(self) -> None:
        """Nothing is inherited."""


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def channel(sink: Sink) -> DeliveryChannel:
    return memory_channel(sink)


def on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long here is not the sink."""
    monkeypatch.setattr(module, "_LONGEST_SECONDS", 60.0)
    monkeypatch.setattr(module, "_FAR_SECONDS", 60.0)


def test_a_backlog_ends_while_receipts_are_waited_for_all_the_time(
    sink: Sink, channel: DeliveryChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_busy_machine(monkeypatch)
    for _ in range(3 * RUN_ROWS):
        channel.accept(b"event")
    way, stopped = RightOfWay(), Event()
    backlog = BacklogSenders(channel, way, stopped)
    sending = threading.Thread(target=partial(backlog.send, until_empty=True), daemon=True)
    try:
        with way.taken():
            sending.start()
            sending.join(20)
            assert not sending.is_alive()
        assert {size for _, size in sink.seen} == {FEW_ROWS}
        assert channel.logs.pending == 0
    finally:
        stopped.set()
        backlog.end()


def test_one_sender_with_few_rows_goes_on_beside_an_awaited_event(
    sink: Sink, channel: DeliveryChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_busy_machine(monkeypatch)
    for _ in range(60 * RUN_ROWS):
        channel.accept(b"event")
    awaited = channel.accept(b"awaited")
    relay = Relay(channel, cold_after_seconds=60.0, hot=False)
    try:
        relay.deliver_soon([awaited])
        assert sink.awaited.wait(20)
        begun = len(sink.seen)
        wait_until(lambda: len(sink.seen) >= begun + 20, "the backlog goes on meanwhile")
        beside = sink.seen[begun + 10 : begun + 20]  # the first ones may have been under way before
        assert {size for _, size in beside} == {FEW_ROWS}
        assert len({thread for thread, _ in beside}) == 1
        sink.answers.set()
        wait_until(lambda: channel.logs.pending == 0, "everything is delivered")
        assert RUN_ROWS in [size for _, size in sink.seen[-20:]]
    finally:
        sink.answers.set()
        relay.stop(Clock.monotonic() + 10)
