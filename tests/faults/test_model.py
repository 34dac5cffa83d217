"""A state machine against plain sets: emit, flush, crash, restart, outage, heal, in any order that hypothesis finds.

A crash is a pipeline that is dropped where it stands: its threads are ended, its file is let go of and not
closed, as a kill would leave it.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from otel_audit_exporter import AuditPipeline, configure_audit
from otel_audit_exporter.delivery.housekeeper import housekeeper
from otel_audit_exporter.sinks.base import Sink, SinkError
from otel_audit_exporter.sinks.verdict import CUT_OFF, UNREACHABLE
from tests.faults import events, scenario
from tests.faults.events import plain_row
from tests.faults.worker import new_id

_PATIENCE_MILLIS = 60_000


@dataclass
class Line:
    """The way to the sink: there, away, or losing every reply."""

    state: str = "there"


class SinkBehind:
    """A sink behind a line that fails."""

    def __init__(self, sink: Sink, line: Line) -> None:
        self._sink = sink
        self._line = line
        self.name, self.target = sink.name, sink.target
        self.close, self.renew_after_fork = sink.close, sink.renew_after_fork

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        if self._line.state == "away":
            raise SinkError(UNREACHABLE, "away")
        self._sink.insert(rows, deadline)
        if self._line.state == "loses replies":
            raise SinkError(CUT_OFF, "the reply is lost")


class DeliveryMachine(RuleBasedStateMachine):
    """What is accepted is a set of ids; the table must be a subset of it at all times, and all of it at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="audit-model-"))
        self.table = self.directory / "table.db"
        self.line = Line()
        self.accepted: set[str] = set()
        self.pipeline: AuditPipeline | None = None

    @initialize()
    def begin(self) -> None:
        self.start()

    @precondition(lambda self: self.pipeline is None)
    @rule()
    def start(self) -> None:
        self.pipeline = configure_audit(
            "sqlite", path=str(self.table), outbox_dir=str(self.directory / "outbox"), schedule_delay_millis=5
        )
        channel = self.pipeline.exporters[0].channel
        channel.sink = SinkBehind(channel.sink, self.line)

    @precondition(lambda self: self.pipeline is not None)
    @rule(count=st.integers(1, 20))
    def emit(self, count: int) -> None:
        for _ in range(count):
            record_id = new_id()
            self.running.submit({**events.arguments(record_id)})
            self.accepted.add(record_id)

    @precondition(lambda self: self.pipeline is not None and self.is_there)
    @rule()
    def flush(self) -> None:
        assert self.running.force_flush(_PATIENCE_MILLIS)
        assert self.stored() >= self.accepted

    @precondition(lambda self: self.pipeline is not None and not self.is_there)
    @rule()
    def flush_in_an_outage(self) -> None:
        if self.running.force_flush(5):
            assert self.stored() >= self.accepted

    @precondition(lambda self: self.pipeline is not None)
    @rule()
    def crash(self) -> None:
        """Leave everything as a kill would: nothing flushed, nothing closed."""
        (exporter,) = self.running.exporters
        exporter.relay.stop(0)
        channel = exporter.channel
        channel.closed = True
        housekeeper._channels.discard(channel)
        _dropped.append(channel)
        for held in (*channel.logs.adopted, channel.logs._held):
            if held is not None:
                held.lock.forget()
        self.running._closed = True
        self.pipeline = None

    @precondition(lambda self: self.pipeline is not None)
    @rule()
    def shut_down(self) -> None:
        delivered = self.running.shutdown(_PATIENCE_MILLIS if self.is_there else 5)
        assert delivered or not self.is_there
        self.pipeline = None

    @rule(state=st.sampled_from(("there", "away", "loses replies")))
    def line_changes(self, state: str) -> None:
        self.line.state = state

    @invariant()
    def nothing_is_stored_that_was_not_accepted(self) -> None:
        assert self.stored() <= self.accepted

    @invariant()
    def the_counters_add_up(self) -> None:
        if self.pipeline is not None:
            stats = self.pipeline.stats()
            assert stats.submitted + stats.recovered == stats.succeeded + stats.failed + stats.pending

    def teardown(self) -> None:
        self.line.state = "there"
        if self.pipeline is None:
            self.start()
        self.flush()
        self.shut_down()
        rows = [plain_row(row) for row in scenario.sqlite_rows(self.table)]
        assert {row["id"] for row in rows} == self.accepted
        assert all(row == events.expected_row(row["id"]) for row in rows)
        shutil.rmtree(self.directory, ignore_errors=True)  # an attempt of one that crashed may write still

    @property
    def running(self) -> AuditPipeline:
        assert self.pipeline is not None
        return self.pipeline

    @property
    def is_there(self) -> bool:
        return self.line.state == "there"

    def stored(self) -> set[str]:
        return {row["id"] for row in scenario.sqlite_rows(self.table)}


_dropped: list[object] = []


@pytest.mark.timeout(300)
def test_every_accepted_event_is_there_once_after_any_sequence() -> None:
    """Events, faults and restarts come in any order."""
    run_state_machine_as_test(
        DeliveryMachine,
        settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
