"""Pipelines in pytest's own process, for what needs no kill and no fork."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter import AuditPipeline, PendingReceipt, audit_event, configure_audit
from tests.faults import events
from tests.faults.worker import new_id
from tests.stack import AuditTable, Stack
from tests.stack.waiting import wait_until


@dataclass
class Running:
    """A pipeline to a table of the real stack, and what was emitted into it."""

    pipeline: AuditPipeline
    table: AuditTable
    outbox_dir: Path
    said: dict[str, bool]
    """Every id that was emitted, and whether the table is made to refuse it."""

    def emit(self, count: int, **changes: Any) -> list[PendingReceipt]:
        """Emit so many events that the table takes."""
        return [self.emit_one(bad=False, **changes) for _ in range(count)]

    def emit_one(self, *, bad: bool, **changes: Any) -> PendingReceipt:
        record_id = new_id()
        receipt = audit_event(**{**events.arguments(record_id), **changes})
        self.said[record_id] = bad
        return receipt

    @property
    def good(self) -> set[str]:
        return {record_id for record_id, bad in self.said.items() if not bad}

    def wait_until_delivered(self, timeout: float = 60.0) -> None:
        """Return once every event is settled, by the pipeline's own doing."""
        wait_until(lambda: self.pipeline.stats().pending == 0, "every event is settled", timeout)

    def assert_each_good_one_stored_once(self) -> None:
        rows = {row["id"]: row for row in map(events.plain_row, self.table.rows())}
        assert rows.keys() == self.good
        assert all(row == events.expected_row(record_id) for record_id, row in rows.items())

    def assert_nothing_stored(self) -> None:
        stats = self.pipeline.stats()
        assert (self.table.count(), stats.succeeded, stats.failed) == (0, 0, 0)


Start = Callable[..., Running]


@pytest.fixture
def start(stack: Stack, audit_table: AuditTable, tmp_path: Path) -> Iterator[Start]:
    """Start a pipeline to the test's own table; keyword arguments are those of `configure_audit`."""
    started: list[AuditPipeline] = []

    def begin(**options: Any) -> Running:
        directory = tmp_path / "outbox"
        settings = {
            "exporter": "supabase",
            "url": stack.url,
            "key": stack.service_key,
            "table": audit_table.name,
            "outbox_dir": str(directory),
            "schedule_delay_millis": 10,
        }
        started.append(configure_audit(**{**settings, **options}))
        return Running(started[-1], audit_table, directory, {})

    yield begin
    stack.gateway.clear()
    for pipeline in started:
        pipeline.shutdown(2000)
