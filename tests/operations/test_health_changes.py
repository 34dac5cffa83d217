"""A change of level is told once: in one log line and one call, each way."""

from __future__ import annotations

import gc
import logging
import os
import threading
import weakref
from pathlib import Path

import pytest

from otel_audit_exporter import AuditConfigurationError, AuditHealth, configure_audit, flush_audit
from otel_audit_exporter.observability.health import HealthThresholds
from otel_audit_exporter.observability.health_monitor import HealthMonitor
from otel_audit_exporter.outbox.directory import DEAD_LETTERS
from otel_audit_exporter.outbox.sqlite_dead_letters import SqliteDeadLetterStore
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from tests.operations.conftest import Configure
from tests.operations.stubs import AWAY, BAD_ROW, MISCONFIGURED, StubExporter, emit
from tests.stack.waiting import wait_until
from tests.support.logs import logs_below, overwrite, segments_of
from tests.support.running import run_in_child

LINES = "audit: health "


def health_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(LINES)]


def watch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "otel-audit-watch"]


def test_an_outage_and_its_end_are_each_reported_once(
    configured: Configure, stub: StubExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    changes: list[AuditHealth] = []
    pipeline = configured(on_health_change=changes.append, health_thresholds={"overdue_warning": 20})
    stub.sink.fail(AWAY)
    emit(20)
    wait_until(lambda: bool(changes), "the outage is told")
    assert (changes[0].level, changes[0].overdue) == ("warning", 20)
    stub.sink.heal()
    assert flush_audit()
    wait_until(lambda: len(changes) > 1, "its end is told")
    assert changes[1].level == pipeline.health().level == "good"
    first, second = health_lines(caplog)
    assert first.startswith("audit: health warning, was good: 20 events overdue")
    assert second == "audit: health good, was warning: everything is delivered in time"


def test_a_growing_problem_is_reported_at_each_level(configured: Configure, stub: StubExporter) -> None:
    levels: list[str] = []
    configured(on_health_change=lambda health: levels.append(health.level))
    stub.sink.fail(AWAY)
    emit(20)
    wait_until(lambda: levels == ["warning"], "20 overdue events are a warning")
    emit(31)
    wait_until(lambda: levels == ["warning", "critical"], "51 are critical")


def test_held_events_are_reported_with_level_and_figure(configured: Configure, stub: StubExporter) -> None:
    changes: list[AuditHealth] = []
    configured(on_health_change=changes.append)
    stub.sink.fail(MISCONFIGURED)
    emit(1)
    wait_until(lambda: bool(changes), "the hold is told")
    assert (changes[0].level, changes[0].held) == ("warning", 1)


def test_parked_events_are_reported_with_level_and_figure(configured: Configure, stub: StubExporter) -> None:
    pipeline = configured()
    emit(1000)
    stub.sink.fail(BAD_ROW, containing=b"refuse me")
    emit(1, action="refuse me")
    assert flush_audit()
    health = pipeline.health()
    assert (health.level, health.failed, health.parked) == ("warning", 1, 1)


@pytest.mark.parametrize("by_another", [False, True], ids=["here", "by another process"])
def test_a_dead_letter_that_is_dropped_is_trouble_no_more(
    by_another: bool, configured: Configure, stub: StubExporter, tmp_path: Path
) -> None:
    levels: list[str] = []
    pipeline = configured(on_health_change=lambda health: levels.append(health.level))
    emit(1)
    stub.sink.fail(BAD_ROW, containing=b"refuse me")
    parked = [receipt.record_id for receipt in emit(2, action="refuse me")]
    assert flush_audit()
    wait_until(lambda: levels == ["critical"], "the parked events are told")
    [file] = (tmp_path / "outbox").glob(f"*/{DEAD_LETTERS}")
    drop = SqliteDeadLetterStore(file).remove if by_another else pipeline.dead_letters().drop
    assert drop(parked[0])
    assert pipeline.health().reasons == (
        "success rate 50 %, below 98 %",
        (
            "1 event parked in the dead letters, more than 1 %: invalid input syntax for type uuid (22P02). "
            "What to do: correct the event; then `otel-audit dead-letters retry`"
        ),
    )
    assert drop(parked[1])
    wait_until(lambda: levels == ["critical", "good"], "nothing is left")
    health, stats = pipeline.health(), pipeline.stats()
    assert (health.failed, health.parked, health.success_rate, health.reasons) == (0, 0, 100.0, ())
    assert (stats.submitted, stats.succeeded, stats.failed, stats.pending) == (3, 1, 2, 0)


def test_the_second_of_two_parties_that_look_sees_the_same(configured: Configure, stub: StubExporter) -> None:
    pipeline = configured(health_thresholds=HealthThresholds(overdue_warning=1, overdue_critical=1))
    stub.sink.fail(AWAY)
    emit(2)
    wait_until(lambda: pipeline.health().level == "critical", "two are critical here")
    health, stats = pipeline.health(), pipeline.stats()
    assert (health.pending, health.held, health.failed) == (stats.pending, stats.held, stats.failed)
    assert health.sinks["stub"].overdue == health.overdue == 2


def complaints(caplog: pytest.LogCaptureFixture) -> int:
    return sum("on_health_change raised" in line for line in caplog.messages)


@pytest.mark.parametrize("raised", [RuntimeError("the pager is away"), SystemExit()], ids=["error", "end of thread"])
def test_a_callback_that_raises_is_logged_and_called_again(
    configured: Configure, stub: StubExporter, caplog: pytest.LogCaptureFixture, raised: BaseException
) -> None:
    """It is called again at the next change."""
    levels: list[str] = []

    def complain(health: AuditHealth) -> None:
        levels.append(health.level)
        raise raised

    configured(on_health_change=complain)
    stub.sink.fail(MISCONFIGURED)
    emit(1)
    wait_until(lambda: levels == ["warning"], "the hold is told")
    stub.sink.heal()
    assert flush_audit()
    wait_until(lambda: levels == ["warning", "good"], "its end is told")
    wait_until(lambda: complaints(caplog) == 2, "both are logged")


def test_a_callback_that_hangs_delays_neither_log_nor_shutdown(
    configured: Configure, stub: StubExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    levels: list[str] = []
    released = threading.Event()

    def hang(health: AuditHealth) -> None:
        levels.append(health.level)
        released.wait()

    pipeline = configured(on_health_change=hang)
    stub.sink.fail(MISCONFIGURED)
    emit(1)
    wait_until(lambda: levels == ["warning"], "the hold is told")
    stub.sink.heal()
    assert flush_audit()
    wait_until(lambda: any("health good, was warning" in line for line in caplog.messages), "the log has its end")
    ended = threading.Thread(target=pipeline.shutdown, args=(600_000,))
    ended.start()
    ended.join(60)
    assert not ended.is_alive()
    assert levels == ["warning"]
    released.set()
    wait_until(lambda: levels == ["warning", "good"], "what came meanwhile is told then")


def test_a_callback_that_nobody_would_await_is_refused(configured: Configure) -> None:
    async def tell(health: AuditHealth) -> None: ...

    with pytest.raises(AuditConfigurationError, match=r"on_health_change.*not a coroutine function"):
        configured(on_health_change=tell)


def test_the_callback_may_emit_look_and_shut_down(configured: Configure, stub: StubExporter) -> None:
    done = threading.Event()

    def act(health: AuditHealth) -> None:
        emit(1)
        pipeline.health()
        pipeline.shutdown(0)
        done.set()

    pipeline = configured(on_health_change=act)
    stub.sink.fail(MISCONFIGURED)
    emit(1)
    assert done.wait(30)


def test_a_slow_write_and_its_end_are_each_reported_once(
    configured: Configure, stub: StubExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    exporter = StubExporter(ids="text", schedule_delay_millis=10, export_timeout_millis=490, slow_write_seconds=0.2)
    stub.close(0.0)
    changes: list[AuditHealth] = []
    pipeline = _around(exporter, changes)
    exporter.sink.behaviour = lambda rows: wait_until(lambda: bool(changes), "the slow write is told")
    emit(1)
    assert pipeline.force_flush(60_000)
    assert changes[0].level == "warning"
    assert changes[0].slow_write_seconds > 0.2
    wait_until(lambda: bool(emit(1)) and len(changes) > 1, "fast writes end the slowness, which is told")
    first, second = [line for line in caplog.messages if "slow" in line or "health" in line]
    assert "was good: writes are slow: one took" in first
    assert second.startswith("audit: health good, was warning")


def _around(exporter: StubExporter, changes: list[AuditHealth]) -> AuditPipeline:
    return configure_audit(
        exporter,
        schedule_delay_millis=10,
        export_timeout_millis=490,
        on_health_change=changes.append,
    )


def test_health_is_checked_several_times_per_cycle_and_each_second(configured: Configure) -> None:
    """At least once a second, however long the cycle is."""
    pipeline = configured()
    for cycle, pause in ((0.1, 0.05), (1.0, 0.25), (60.0, 1.0)):
        assert HealthMonitor(pipeline.health, pipeline.stats, cycle_seconds=cycle)._pause == pause


def test_the_watch_ends_with_the_pipeline(configured: Configure) -> None:
    before = watch_threads()  # of pipelines that are just ending
    pipeline = configured()
    (mine,) = (thread for thread in watch_threads() if thread not in before)
    pipeline.shutdown(60_000)
    assert not mine.is_alive()


def test_the_watch_keeps_nothing_alive(configured: Configure) -> None:
    class Subject:
        def health(self) -> AuditHealth:
            return AuditHealth()

        stats = AuditPipeline.stats

    subject = Subject()
    watch = HealthMonitor(subject.health, subject.stats, cycle_seconds=0.01)  # type: ignore[misc]  # a stand-in
    gone = weakref.ref(subject)
    del subject
    gc.collect()
    assert gone() is None
    assert not watch.look()


def test_a_forked_child_watches_from_its_first_event_on(
    configured: Configure, stub: StubExporter, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    pipeline = configured(on_health_change=lambda health: told.write_text(f"{os.getpid()} {health.level}"))

    def child() -> None:
        assert not watch_threads()
        stub.sink.fail(MISCONFIGURED)
        emit(1)
        expected = f"{os.getpid()} warning"
        wait_until(lambda: told.exists() and told.read_text() == expected, "the child's health is told")

    assert run_in_child(child)
    assert pipeline.health().level == "good"


def test_overdue_events_are_counted_among_newer_ones(configured: Configure, stub: StubExporter) -> None:
    pipeline = configured()
    stub.sink.fail(AWAY)
    emit(30)
    wait_until(lambda: pipeline.health().overdue == 30, "the first are overdue")
    emit(500)
    assert 30 <= pipeline.health().overdue <= 530
    wait_until(lambda: pipeline.health().overdue == 530, "all are overdue")


def test_many_overdue_events_are_all_counted(configured: Configure, stub: StubExporter) -> None:
    pipeline = configured()
    stub.sink.fail(AWAY)
    emit(2500)
    wait_until(lambda: pipeline.health().overdue == 2500, "all are overdue")


def test_events_lost_with_a_damaged_outbox_are_reported(
    configured: Configure, stub: StubExporter, tmp_path: Path
) -> None:
    told: list[AuditHealth] = []
    pipeline = configured(on_health_change=told.append, health_thresholds={"overdue_critical": 10**6})
    stub.sink.fail(AWAY)
    emit(4000, new_values={"text": "x" * 3000})  # more than is kept in memory of it
    wait_until(lambda: [health.level for health in told] == ["warning"], "the outage is told")
    (log,) = logs_below(tmp_path / "outbox")
    for segment in segments_of(log)[3:]:
        overwrite(segment)
    stub.sink.heal()
    wait_until(lambda: told[-1].level == "critical", "the loss is told")
    assert any("events lost with a damaged outbox file" in reason for reason in told[-1].reasons)
    assert not any("dead letters" in reason for reason in told[-1].reasons)
    assert flush_audit()
    stats = pipeline.stats()
    assert (stats.submitted, stats.recovered, stats.succeeded + stats.failed) == (4000, 0, 4000)
    assert (pipeline.health().level, pipeline.health().failed) == ("critical", stats.failed)


def test_dead_letters_that_cannot_be_read_are_reported(
    configured: Configure, stub: StubExporter, tmp_path: Path
) -> None:
    told: list[AuditHealth] = []
    thresholds = {"overdue_warning": 10**6, "overdue_critical": 10**6}
    pipeline = configured(on_health_change=told.append, health_thresholds=thresholds)
    emit(1000)
    assert flush_audit()
    stub.sink.fail(BAD_ROW, containing=b"refuse me")
    emit(1, action="refuse me")
    assert flush_audit()
    wait_until(lambda: [health.level for health in told] == ["warning"], "the parked event is told")
    (file,) = (tmp_path / "outbox").glob("*/dead-letters.db")
    file.write_bytes(b"damaged" * 1000)
    wait_until(lambda: told[-1].level == "critical", "the damage is told")
    assert "dead letters cannot be read" in told[-1].reasons[0]
    assert (pipeline.stats().succeeded, pipeline.stats().failed) == (1000, 1)


def test_health_can_be_asked_for_after_shutdown(configured: Configure, stub: StubExporter) -> None:
    pipeline = configured()
    stub.sink.fail(AWAY)
    emit(3)
    assert not pipeline.shutdown(0)
    assert (pipeline.health().pending, pipeline.health().outbox_bytes_left) == (3, None)


@pytest.mark.parametrize("outbox", ["disk", "memory"])
def test_the_outbox_says_how_much_more_it_takes(outbox: str) -> None:
    exporter = StubExporter(ids="text", outbox=outbox, outbox_max_bytes=2**20)
    exporter.sink.fail(AWAY)
    pipeline = _around(exporter, [])
    before = pipeline.health()
    assert before.outbox_bytes_max == 2**20
    emit(200, new_values={"text": "x" * 1000})
    after = pipeline.health()
    assert before.outbox_bytes_left is not None
    assert after.outbox_bytes_left is not None
    assert 200_000 < before.outbox_bytes_left - after.outbox_bytes_left < 400_000


def test_a_nearly_full_outbox_is_critical_before_it_refuses() -> None:
    exporter = StubExporter(ids="text", outbox_max_bytes=2**20)
    exporter.sink.fail(AWAY)
    pipeline = _around(exporter, [])
    while (pipeline.health().outbox_bytes_left or 0) > 2**20 // 20:
        emit(1, new_values={"text": "x" * 5000})
    assert any("nearly full" in reason for reason in pipeline.health().reasons)
    assert pipeline.health().level == "critical"
    assert pipeline.stats().rejected == 0
