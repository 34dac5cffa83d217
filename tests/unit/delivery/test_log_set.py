"""The logs of a channel: one to append to, a few adopted ones, and a quota for all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter.delivery.log_set import ADOPTED_AT_ONCE, LEAST_QUOTA_BYTES, LogSet
from otel_audit_exporter.errors import AuditShutdownError, OutboxFullError
from otel_audit_exporter.outbox.destination import Destination
from otel_audit_exporter.outbox.directory import LockedLog, OutboxDirectory
from otel_audit_exporter.outbox.ended import STORED
from otel_audit_exporter.outbox.frames import EVENT
from otel_audit_exporter.outbox.group_commit import GroupCommit
from otel_audit_exporter.outbox.log import LogOptions, OutboxLog
from otel_audit_exporter.outbox.segment import FIRST_BYTES
from tests.support.raw_logs import event_bytes
from tests.support.running import run_in_child

OPTIONS = LogOptions(write="written")


@pytest.fixture
def directory(tmp_path: Path) -> OutboxDirectory:
    return OutboxDirectory(tmp_path, Destination("sqlite", "b", "public", "t"))


@pytest.fixture
def logs(directory: OutboxDirectory) -> Iterator[LogSet]:
    with closing(LogSet("test", [directory], OPTIONS, 2**24)) as made:
        yield made


def leave(directory: OutboxDirectory, count: int = 1, events: int = 1) -> None:
    """Leave logs as killed processes do."""

    def in_child() -> None:
        for _ in range(count):
            log = LogSet("other", [directory], OPTIONS, 2**24).open_own()
            for number in range(events):
                log.append(event_bytes(number, 5000))

    assert run_in_child(in_child, 60)


def end_all(log: OutboxLog) -> None:
    log.end(STORED, [(stripe, 1, stripe.at[2]) for stripe in log.stripes])
    log.free_segments()


def test_the_own_log_is_made_once_and_is_where_calls_go(logs: LogSet) -> None:
    own = logs.open_own()
    assert logs.open_own() is own
    assert logs.append is not None
    logs.append(b"event", EVENT)
    assert (logs.accepted, logs.pending, list(logs)) == (1, 1, [own])


def test_a_durable_log_commits_in_groups(directory: OutboxDirectory) -> None:
    with closing(LogSet("test", [directory], LogOptions(durable=True), 2**24)) as logs:
        logs.open_own()
        assert isinstance(getattr(logs.append, "__self__", None), GroupCommit)


def test_a_few_logs_are_adopted_at_a_time(logs: LogSet, directory: OutboxDirectory) -> None:
    """The others follow once these are empty."""
    leave(directory, ADOPTED_AT_ONCE + 3)
    assert len(logs.adopt()) == ADOPTED_AT_ONCE
    assert (logs.adopt(), logs.wants_more) == ([], False)
    for log in logs:
        end_all(log)
    assert len(logs.emptied()) == ADOPTED_AT_ONCE
    assert logs.wants_more
    assert len(logs.adopt()) == 3
    assert not logs.wants_more
    assert not logs.emptied()


def test_logs_that_were_left_are_told_whatever_was_delivered_meanwhile(
    logs: LogSet, directory: OutboxDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(directory, ADOPTED_AT_ONCE + 3)
    calls: list[float] = []
    logs.set_on_work(lambda: calls.append(logs.look_again_at))
    take_over = OutboxDirectory.adopt

    def adopt_and_deliver(*args: Any, **options: Any) -> Iterator[LockedLog]:
        for number, held in enumerate(take_over(*args, **options), 1):
            yield held
            if number == 2:  # while the others are still being taken over
                end_all(held.log)
                logs.emptied()

    monkeypatch.setattr(OutboxDirectory, "adopt", adopt_and_deliver)
    assert len(logs.adopt()) == ADOPTED_AT_ONCE
    assert (logs.wants_more, logs.look_again_at) == (True, 0.0)
    assert calls[-1] == 0.0


def test_adopted_logs_count_in_the_quota_until_they_are_gone(logs: LogSet, directory: OutboxDirectory) -> None:
    logs.open_own()
    before = logs.quota.used_bytes
    leave(directory, 3, events=60)
    logs.adopt()
    assert logs.quota.used_bytes > before + 3 * 300_000
    for held in logs.adopted:
        end_all(held.log)
    logs.emptied()
    assert logs.quota.used_bytes == before


def test_adopted_logs_beyond_the_quota_must_be_delivered_before_new_events(
    directory: OutboxDirectory,
) -> None:
    """Calls are refused until then."""
    leave(directory, 2, events=100)
    with closing(LogSet("test", [directory], OPTIONS, 600_000)) as logs:
        own = logs.open_own()
        logs.adopt()

        def fill() -> None:
            for number in range(100):
                own.append(event_bytes(number, 5000))

        with pytest.raises(OutboxFullError):
            fill()
        for held in logs.adopted:
            end_all(held.log)
        logs.emptied()
        own.append(event_bytes(1, 50_000))


def test_events_after_the_end_are_kept_on_disk(
    logs: LogSet, directory: OutboxDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says so."""
    logs.open_own().append(b"before")
    logs.close()
    assert (logs.own, logs.append, logs.accepted) == (None, None, 1)
    for _ in range(2):
        logs.open_after_end().append(b"after")
    assert logs.accepted == 3
    assert caplog.text.count("events come after shutdown") == 1
    logs.close()
    with closing(LogSet("next", [directory], OPTIONS, 2**24)) as following:
        assert sum(held.log.pending for held in following.adopt()) == 3


def test_in_memory_nothing_is_kept_after_the_end() -> None:
    logs = LogSet("test", [], OPTIONS, 2**24)
    logs.open_own().append(b"before")
    logs.close()
    with pytest.raises(AuditShutdownError):
        logs.open_after_end()


def test_the_quota_is_at_most_half_of_the_free_disk(logs: LogSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never less than what the log needs."""
    logs.open_own()
    logs.limit_bytes(1)
    assert logs.quota.max_bytes == LEAST_QUOTA_BYTES
    monkeypatch.setattr(OutboxDirectory, "affordable_bytes", lambda directory: 2**22)
    logs.limit_bytes(2**40)
    assert logs.quota.max_bytes == logs.quota.used_bytes + 2**22
    assert logs.left_bytes <= 2**22 + 2 * FIRST_BYTES


def test_a_child_starts_without_logs_and_leaves_its_parents_alone(logs: LogSet, directory: OutboxDirectory) -> None:
    leave(directory, 1)
    logs.open_own().append(b"the parent's")
    logs.adopt()
    before = sorted(os.listdir(directory.path))

    def in_child() -> None:
        logs.forget()
        assert (logs.own, logs.append, logs.adopted, logs.pending, logs.quota.used_bytes) == (None, None, [], 0, 0)
        assert logs.adopt() == []
        logs.open_own().append(b"the child's")
        assert logs.accepted == 1
        logs.close()

    assert run_in_child(in_child, 60)
    assert len(os.listdir(directory.path)) == len(before) + 1
    logs.open_own().append(b"the parent's")
    assert logs.pending == 3
