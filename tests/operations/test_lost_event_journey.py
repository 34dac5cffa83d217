"""The journey of a lost event: what everybody who looks says of it, which is the table of its page."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from otel_audit_exporter import AuditError, AuditPipeline, audit_event, compat, configure_audit, flush_audit
from otel_audit_exporter.operations.handler import OperationsHandler, OperationsRequest
from tests.operations.figures import Metrics
from tests.stack.waiting import wait_until
from tests.support.process_state import forget_pipelines

PAGE = Path(__file__).parents[2] / "docs" / "pages" / "operations" / "lost-event.md"
COLUMNS = ("bad id", "full outbox", "parked by the table", "lost with a damaged file")


def emit(**said: object) -> None:
    given = {"action": "approve", "entity_type": "part", "entity_id": str(uuid.uuid4()), "yacht_id": str(uuid.uuid4())}
    with suppress(AuditError):
        audit_event(**(given | {"user_id": str(uuid.uuid4())} | said))  # type: ignore[arg-type]  # as a wrong call is


def bad_id(pipeline: AuditPipeline) -> None:
    emit(entity_id="part-7")


def full_outbox(pipeline: AuditPipeline) -> None:
    emit(entity_id="00000000-0000-0000-0000-000000000007", new_values={"text": "x" * 3 * 2**20})


def parked_by_the_table(pipeline: AuditPipeline) -> None:
    emit(action="refused", entity_id="00000000-0000-0000-0000-000000000007")
    emit()
    flush_audit(60_000)
    wait_until(lambda: pipeline.stats().failed == 1, "it is parked", 60)


DIES = """
import os, signal, sys, uuid
from otel_audit_exporter import audit_event, configure_audit
configure_audit("sqlite", path=sys.argv[1], outbox_max_bytes=2**20, schedule_delay_millis=60_000)
for action in ("damaged", "whole"):
    audit_event(action, entity_type="part", entity_id=uuid.uuid4(), yacht_id=uuid.uuid4(), user_id=uuid.uuid4())
os.kill(os.getpid(), signal.SIGKILL)
"""


def lost_with_a_damaged_file(pipeline: AuditPipeline) -> None:
    """Have a process die with two events in its outbox, and a bit of the first one flip."""
    subprocess.run([sys.executable, "-c", DIES, pipeline.target.rsplit(" ", 1)[0]], check=False)
    for file in Path(os.environ["OTEL_AUDIT_OUTBOX_DIR"]).glob("*/*.log/*.seg"):
        file.write_bytes(file.read_bytes().replace(b'"damaged"', b'"damageD"'))
    pipeline.primary.channel.adopt_orphans()
    flush_audit(60_000)
    wait_until(lambda: pipeline.stats().lost == 1, "it is lost", 60)


CASES: dict[str, Callable[[AuditPipeline], None]] = dict(
    zip(COLUMNS, (bad_id, full_outbox, parked_by_the_table, lost_with_a_damaged_file), strict=True)
)


def shortened(text: str) -> str:
    return re.sub(r"/[^:]+\.log", "(...)", re.sub(r"\(/[^)]*\)", "(...)", text)).replace("|", "\\|")


def rejected_of(metrics: Metrics) -> float:
    emitted = metrics.read()["audit.records.emitted"]
    return sum(value for labels, value in emitted.items() if ("outcome", "rejected") in labels)


def observed(
    pipeline: AuditPipeline,
    metrics: Metrics,
    rejected_before: float,
    dropped_before: float,
    caplog: pytest.LogCaptureFixture,
) -> dict[str, str]:
    """Return what each of them says."""

    def ask(path: str) -> tuple[int, str]:
        path, _, query = path.partition("?")
        answer = OperationsHandler(guarded=True).answer(
            OperationsRequest("GET", path, query=dict([query.split("=")]) if query else {})
        )
        return answer.status, answer.body.decode()

    stats, health, sums, old = pipeline.stats(), pipeline.health(), metrics.sums(), compat.get_audit_stats()
    status = subprocess.run(
        [sys.executable, "-m", "otel_audit_exporter.cli", "status", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    (document,) = [json.loads(line) for line in status.stdout.splitlines()]
    lines = [one for one in caplog.records if "What to do" in one.message and "health" not in one.message]
    tiles = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", ask("/")[1]))
    return {
        "`stats()`": f"failed {stats.failed}, rejected {stats.rejected}, success_rate {stats.success_rate:.0f}",
        "`compat`": f"submitted {old['submitted']}, failed {old['failed']}, success_rate {old['success_rate']}",
        "`health()`": f"{health.level}: {shortened(health.reasons[-1])}",
        "`GET /health`": f"{ask('/health')[0]}, with `?strict=1` {ask('/health?strict=1')[0]}",
        "metrics": f"emitted as rejected {rejected_of(metrics) - rejected_before}, "
        f"dropped {sums['audit.records.dropped'] - dropped_before}, health {sums['audit.health']}",
        "page": f"Dead letters {tiles['Dead letters']}, Lost {tiles['Lost']}, Rejected {tiles['Rejected']}",
        "`otel-audit status`": f"pending {document['pending']}, parked {document['parked']}",
        "log": f"{lines[0].levelname}: {shortened(lines[0].getMessage())}",
    }


@pytest.mark.usefixtures("no_usual_look")
def test_the_table_of_the_page_is_what_everybody_says(
    metrics: Metrics, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, dict[str, str]] = {}
    for name, lose in CASES.items():
        monkeypatch.setenv("OTEL_AUDIT_OUTBOX_DIR", str(tmp_path / name / "outbox"))
        database = tmp_path / "audit.db"
        database.unlink(missing_ok=True)
        with configure_audit("sqlite", path=database) as first:
            emit()
            assert first.force_flush()
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON pms_audit_log WHEN NEW.action = 'refused' "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        forget_pipelines()
        caplog.clear()
        caplog.set_level(logging.ERROR)
        pipeline = configure_audit(
            "sqlite", path=database, outbox_max_bytes=2**20, meter_provider=metrics.provider, slow_write_seconds=0
        )
        emit()
        assert flush_audit(60_000)
        before, dropped = rejected_of(metrics), metrics.sums()["audit.records.dropped"]
        lose(pipeline)
        seen[name] = observed(pipeline, metrics, before, dropped, caplog)
        forget_pipelines()
    rows = [f"| {what} | {' | '.join(seen[name][what] for name in COLUMNS)} |" for what in seen[COLUMNS[0]]]
    table = "\n".join([f"| who | {' | '.join(COLUMNS)} |", "| --- " * 5 + "|", *rows])
    Path(tmp_path / "table.md").write_text(table)
    assert table in PAGE.read_text(encoding="utf-8"), table
