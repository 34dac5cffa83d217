"""How a backlog is given out: in order, each event once, and as many at a time as the sink's answers make sensible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from otel_audit_exporter.delivery.relay import BATCH_ROWS, RUN_ROWS, _Backlog
from otel_audit_exporter.outbox.store import OutboxFile, seq_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OutboxFile]:
    with closing(OutboxFile(tmp_path / "events.outbox")) as store:
        for number in range(3 * BATCH_ROWS):
            store.append(b"[%d]" % number, lambda: None)
        yield store


def test_runs_and_single_events_are_given_out_once_and_in_order(store: OutboxFile) -> None:
    backlog = _Backlog(store, store.last_seq)
    store.settle([RUN_ROWS + 10])
    given = [*backlog.take_run()]
    assert not backlog.take_run(), "one is missing in the next, so that it is no run"
    given += map(seq_of, backlog.take())
    while run := backlog.take_run():
        given += run
    assert given == [number for number in range(1, 3 * BATCH_ROWS + 1) if number != RUN_ROWS + 10]


def test_runs_are_larger_where_each_answer_takes_its_time(store: OutboxFile) -> None:
    backlog = _Backlog(store, store.last_seq)
    assert len(backlog.take_run()) == RUN_ROWS
    backlog.took(RUN_ROWS, 0.35)
    assert len(backlog.take_run()) == BATCH_ROWS
    backlog.took(BATCH_ROWS, 0.35)
    assert len(backlog.take_run()) == BATCH_ROWS
    backlog.took(BATCH_ROWS, 0.05)
    assert len(backlog.take_run()) == RUN_ROWS
