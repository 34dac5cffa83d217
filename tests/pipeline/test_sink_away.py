"""The sink stopped: calls return as before, flush and shutdown keep to their time, and nothing is lost."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from otel_audit_exporter import (
    AuditConfigurationError,
    AuditPipeline,
    OutboxFullError,
    audit_event,
    configure_audit,
    flush_audit,
    get_audit_stats,
    shutdown_audit,
)
from tests.stack import AuditTable, Stack, faults
from tests.stack.faults import Close, Fault, Hang, Place, Reset
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.running import run_python

WAYS_TO_BE_AWAY = {
    "refused": None,
    "hangs": Hang(Place.REQUEST_BODY),
    "resets": Reset(Place.REQUEST_BODY),
    "closes": Close(Place.REQUEST_HEAD),
    "unavailable": faults.unavailable_text(),
    "wrong key": faults.invalid_api_key(),
    "captive portal": faults.captive_portal(),
}


def configure(stack: Stack, table: AuditTable) -> AuditPipeline:
    return configure_audit("supabase", url=stack.url, key=stack.service_key, table=table.name)


def take_away(stack: Stack, fault: Fault | None) -> None:
    if fault is None:
        stack.gateway.refuse()
    else:
        stack.gateway.inject(fault, times=None)


def longest_call(count: int) -> tuple[float, list[str]]:
    longest, ids = 0.0, []
    for _ in range(count):
        began = time.perf_counter()
        ids.append(audit_event(**arguments()).record_id)
        longest = max(longest, time.perf_counter() - began)
    return longest, ids


def restart(stack: Stack, table: AuditTable, outbox_dir: str) -> list[str]:
    """Start a new process of the same destination, which delivers what waits."""
    program = (
        "import otel_audit_exporter as a, time\n"
        "p = a.configure_audit('supabase')\n"
        "print(p.force_flush(60_000), p.stats().recovered, p.stats().pending, p.shutdown())"
    )
    return run_python(
        program,
        SUPABASE_URL=stack.url,
        SUPABASE_SERVICE_ROLE_KEY=stack.service_key,
        OTEL_AUDIT_TABLE=table.name,
        OTEL_AUDIT_OUTBOX_DIR=outbox_dir,
    ).split()


@pytest.mark.parametrize("way", WAYS_TO_BE_AWAY)
def test_flush_and_shutdown_keep_to_their_time_limit(
    stack: Stack, audit_table: AuditTable, outbox_dir: str, way: str
) -> None:
    """A restart delivers everything once."""
    pipeline = configure(stack, audit_table)
    _, ids = longest_call(20)
    assert flush_audit()
    take_away(stack, WAYS_TO_BE_AWAY[way])
    longest, more = longest_call(200)
    assert longest < 5.0
    began = time.monotonic()
    assert not pipeline.force_flush(1000)
    flushed = time.monotonic()
    assert not pipeline.shutdown(2000)
    ended = time.monotonic()
    assert flushed - began < 10.0
    assert ended - flushed < 10.0
    stats = pipeline.stats()
    assert (stats.submitted, stats.succeeded, stats.pending) == (220, 20, 200)
    assert audit_table.count() == 20
    stack.heal()
    assert restart(stack, audit_table, outbox_dir) == ["True", "200", "0", "True"]
    assert Counter(audit_table.ids()) == Counter([*ids, *more])
    assert list(Path(outbox_dir).rglob("*.outbox*")) == []


def test_what_waits_is_delivered_by_itself_when_the_sink_is_back(stack: Stack, audit_table: AuditTable) -> None:
    configure(stack, audit_table)
    stack.gateway.refuse()
    _, ids = longest_call(100)
    wait_until(lambda: get_audit_stats().last_error is not None, "a first attempt has failed")
    stack.gateway.accept()
    wait_until(lambda: get_audit_stats().pending == 0, "everything is delivered")
    assert Counter(audit_table.ids()) == Counter(ids)
    assert get_audit_stats().retried > 0


def test_a_response_that_is_lost_after_the_commit_doubles_nothing(stack: Stack, audit_table: AuditTable) -> None:
    configure(stack, audit_table)
    lost = stack.gateway.inject(Reset(Place.COMMITTED), times=3)
    _, ids = longest_call(50)
    assert flush_audit(60_000)
    assert lost.hits == 3
    assert Counter(audit_table.ids()) == Counter(ids)


def test_a_failure_and_its_end_are_each_logged_once(
    stack: Stack, audit_table: AuditTable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "otel_audit_exporter")
    configure(stack, audit_table)
    caplog.clear()
    away = stack.gateway.inject(faults.unavailable_json(), times=None)
    longest_call(50)
    away.wait(4)
    stack.gateway.clear()
    wait_until(lambda: get_audit_stats().pending == 0, "everything is delivered")
    wait_until(lambda: any("delivering again" in message for message in caplog.messages), "the end is said")
    said = [(record.levelno, record.message) for record in caplog.records if record.name == "otel_audit_exporter"]
    errors = [message for level, message in said if level == logging.ERROR]
    assert len(errors) == 1
    assert "503" in errors[0]
    assert "create_receiving receiving" in errors[0]
    assert sum("delivering again" in message for level, message in said if level == logging.INFO) == 1


def test_a_table_that_refuses_every_row_is_reported_once(
    stack: Stack, audit_table: AuditTable, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried many times."""
    audit_table.alter("add constraint no_rows check (action = 'none')")
    configure(stack, audit_table)
    longest_call(30)
    stack.gateway.wait_for_requests(40)
    pipeline_lines = [record.message for record in caplog.records if "event(s)" in record.message]
    assert 1 <= len(pipeline_lines) <= 3, pipeline_lines
    assert get_audit_stats().failed == 0
    assert get_audit_stats().pending == 30


def test_a_refused_key_holds_everything_and_is_reported(
    stack: Stack, audit_table: AuditTable, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what to fix."""
    configure_audit("supabase", url=stack.url, key="no-such-key", table=audit_table.name)
    longest_call(10)
    wait_until(lambda: get_audit_stats().held == 10, "everything is held")
    wait_until(lambda: "key" in caplog.text, "what to fix is said")
    assert "no-such-key" not in caplog.text
    assert get_audit_stats().failed == 0


def test_a_missing_table_holds_everything_until_it_is_there(stack: Stack, audit_table: AuditTable) -> None:
    configure_audit("supabase", url=stack.url, key=stack.service_key, table=f"{audit_table.name}_later")
    longest_call(10)
    wait_until(lambda: get_audit_stats().held == 10, "everything is held")
    audit_table.alter(f"rename to {audit_table.name}_later")
    stack.reload_schema_cache()
    try:
        wait_until(lambda: get_audit_stats().succeeded == 10, "everything is delivered")
    finally:
        stack.sql(f"alter table {audit_table.name}_later rename to {audit_table.name}")
        stack.reload_schema_cache()


def test_a_flush_after_a_shutdown_reports_undelivered_events(stack: Stack, audit_table: AuditTable) -> None:
    pipeline = configure(stack, audit_table)
    stack.gateway.refuse()
    longest_call(5)
    assert not shutdown_audit(100)
    assert not pipeline.force_flush(100)
    assert not pipeline.shutdown(100)


def test_a_flush_while_another_thread_shuts_down_raises_nothing(stack: Stack, audit_table: AuditTable) -> None:
    pipeline = configure(stack, audit_table)
    stack.gateway.refuse()
    longest_call(5)
    errors: list[BaseException] = []

    def flush() -> None:
        try:
            for _ in range(20):
                pipeline.force_flush(100)
                pipeline.stats()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=flush) for _ in range(4)]
    for thread in threads:
        thread.start()
    pipeline.shutdown(300)
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_process_that_is_killed_loses_nothing(stack: Stack, audit_table: AuditTable, outbox_dir: str) -> None:
    program = (
        "import os, signal, otel_audit_exporter as a\n"
        "a.configure_audit('supabase', schedule_delay_millis=60_000)\n"
        f"ids = [a.audit_event(**{arguments()!r}).record_id for _ in range(100)]\n"
        "print(*ids, flush=True)\n"
        "if os.fork() == 0: os.kill(os.getppid(), signal.SIGKILL); os._exit(0)\n"
        "signal.pause()"
    )
    environ = os.environ | {
        "SUPABASE_URL": stack.url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.service_key,
        "OTEL_AUDIT_TABLE": audit_table.name,
    }
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ, check=False)
    assert run.returncode < 0
    ids = run.stdout.split()
    assert len(ids) == 100
    assert restart(stack, audit_table, outbox_dir)[0] == "True"
    assert Counter(audit_table.ids()) == Counter(ids)


def test_an_outbox_that_is_full_is_the_only_thing_that_raises(
    stack: Stack, audit_table: AuditTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_AUDIT_OUTBOX_MAX_BYTES", "1 MiB")
    pipeline = configure(stack, audit_table)
    stack.gateway.refuse()
    ids: list[str] = []

    def fill_up() -> None:
        for _ in range(1000):
            ids.append(audit_event(**arguments(new_values={"text": "x" * 20_000})).record_id)

    with pytest.raises(OutboxFullError, match="OTEL_AUDIT_OUTBOX_MAX_BYTES"):
        fill_up()
    assert pipeline.stats().rejected == 1
    assert pipeline.stats().pending == len(ids) > 10
    stack.gateway.accept()
    assert flush_audit(60_000)
    ids.append(audit_event(**arguments()).record_id)
    assert flush_audit()
    assert Counter(audit_table.ids()) == Counter(ids)


def test_a_bad_configuration_leaves_the_running_pipeline_alone(stack: Stack, audit_table: AuditTable) -> None:
    configure(stack, audit_table)
    with pytest.raises(AuditConfigurationError):
        configure_audit("supabase", url="nonsense")
    audit_event(**arguments()).result(30)
