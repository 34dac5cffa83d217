"""`otel-audit demo`: what the library does, in a few seconds and without a server."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from rich.text import Text

from otel_audit_exporter.api.events import audit_event
from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.cli.demo_service import YachtService, a_day_on_board
from otel_audit_exporter.config.options import SETTINGS
from otel_audit_exporter.config.settings import Settings, load_settings
from otel_audit_exporter.pipeline.configure import configure_audit
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.pipeline.sink_factories import SQLiteSinkFactory
from otel_audit_exporter.sinks.base import Sink
from otel_audit_exporter.table.mapping import TableMapping

DELAY_SECONDS: Final = 0.3
WRITES: Final = 10
_DATABASE: Final = "pms_audit_log.db"
_FLUSH_MILLIS: Final = 30_000


class SlowSink:
    """A sink that takes 300 ms longer for every write, as a database far away does."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.name = sink.name
        self.target = sink.target

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Wait, and write."""
        time.sleep(DELAY_SECONDS)
        self._sink.insert(rows, deadline)

    def close(self) -> None:
        """Close the sink."""
        self._sink.close()

    def renew_after_fork(self) -> None:
        """Have the sink start again in a forked child."""
        self._sink.renew_after_fork()


class SlowSQLiteSinkFactory(SQLiteSinkFactory):
    """The embedded default, behind a slow network."""

    def make_sink(self, settings: Settings, mapping: TableMapping) -> Sink:
        return SlowSink(super().make_sink(settings, mapping))


@dataclass(frozen=True)
class Costs:
    """What the same ten writes cost their caller, in seconds, and how long the rows took then."""

    blocking: float
    calls: float
    landed: float


def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the SQLite file and the outbox go.", file_okay=False)
    ] = Path("otel-audit-demo"),
) -> None:
    """Run a small API's handlers, and show what their audit costs and the rows that land.

    Everything stays in one directory; no server is needed, and the environment's settings are left aside.
    """
    database = _prepare(directory)
    with _without_environment(), _pipeline(database, directory / "outbox") as pipeline:
        service = YachtService(yacht_id=uuid.uuid4(), user_id=uuid.uuid4())
        a_day_on_board(service)
        with talk.NOTES.status(f"writing {WRITES} rows the blocking way, then {WRITES} with audit_event()"):
            costs = _measure(pipeline, service)
        delivered = pipeline.force_flush(_FLUSH_MILLIS)
    talk.print_text(
        "A yacht's maintenance API has just run: parts, receivings and documents, a small service in memory. Its "
        "handlers call audit_event(), and the rows go to a SQLite file. To stand for a database far away, each "
        f"write to it takes {_duration(DELAY_SECONDS)} longer."
    )
    _show_costs(costs)
    _show_rows(database, [receipt.record_id for receipt in service.receipts])
    _show_stats(pipeline)
    _show_next(directory, database)
    if not delivered:
        talk.problem("not everything has landed: run otel-audit outbox status")
        raise typer.Exit(1)


def _prepare(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    ignored = directory / ".gitignore"
    if not ignored.exists():
        ignored.write_text("*\n", encoding="utf-8")
    return directory / _DATABASE


@contextmanager
def _without_environment() -> Iterator[None]:
    """Leave the environment's settings aside: the demo shows the defaults."""
    variables = {variable for setting in SETTINGS for variable in setting.variables} | {"OTEL_SDK_DISABLED"}
    aside = {variable: os.environ.pop(variable) for variable in variables if variable in os.environ}
    try:
        yield
    finally:
        os.environ.update(aside)


@contextmanager
def _pipeline(database: Path, outbox: Path) -> Iterator[AuditPipeline]:
    places: dict[str, Any] = {"path": str(database), "outbox_dir": str(outbox)}
    exporter = AuditExporter(SlowSQLiteSinkFactory(), settings=load_settings(places))
    with configure_audit(exporter) as pipeline:
        yield pipeline


def _measure(pipeline: AuditPipeline, service: YachtService) -> Costs:
    pipeline.force_flush(_FLUSH_MILLIS)
    counts = [_count(service, number) for number in range(WRITES)]
    exporter = pipeline.primary

    start = time.perf_counter()
    for count in counts:
        row = exporter.mapping.row(exporter.rules.compose(count).body)
        exporter.channel.sink.insert([row], time.monotonic() + 10)
    blocking = time.perf_counter() - start

    start = time.perf_counter()
    for count in counts:
        audit_event(**count)
    calls = time.perf_counter() - start

    pipeline.force_flush(_FLUSH_MILLIS)
    return Costs(blocking, calls, time.perf_counter() - start)


def _count(service: YachtService, number: int) -> dict[str, Any]:
    return {
        "action": "count_stock",
        "entity_type": "part",
        "entity_id": uuid.uuid4(),
        "yacht_id": service.yacht_id,
        "user_id": service.user_id,
        "old_values": {"stock": number},
        "new_values": {"stock": number + 1},
    }


# --- what is shown ----------------------------------------------------------------------------------------------


def _heading(text: str) -> None:
    console = talk.data()
    console.print()
    console.print(Text(text, style="bold cyan"))


def _show_costs(costs: Costs) -> None:
    _heading(f"What {WRITES} audit writes cost the handlers")
    rows = (
        ("insert, and wait for it", _duration(costs.blocking), _duration(costs.blocking / WRITES)),
        ("audit_event()", _duration(costs.calls), _duration(costs.calls / WRITES)),
    )
    talk.print_table(("", "all calls", "one call"), rows, right=("all calls", "one call"))
    talk.print_text(
        f"The calls took {costs.blocking / costs.calls:,.0f} times less. Each event was committed to the outbox on "
        f"disk before its call returned; the {WRITES} rows were in the table {_duration(costs.landed)} after the "
        "first call."
    )


def _show_rows(database: Path, ids: Sequence[str]) -> None:
    _heading("The rows of a day on board")
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        holders = ", ".join("?" * len(ids))
        sql = f"SELECT * FROM pms_audit_log WHERE id IN ({holders}) ORDER BY created_at, id"  # noqa: S608  # holders
        rows = connection.execute(sql, list(ids)).fetchall()
        total = connection.execute("SELECT count(*) FROM pms_audit_log").fetchone()[0]
    talk.print_table(
        ("created_at (UTC)", "action", "entity", "changed"),
        [(row["created_at"][11:23], row["action"], row["entity_type"], _changes(row)) for row in rows],
    )
    talk.print_text(
        "The token that came with the document was redacted, and the approval that failed says so. "
        f"The table in {database} holds {total:,} rows now, those of the {2 * WRITES} timed writes included."
    )


def _changes(row: sqlite3.Row) -> Text:
    """Return the changes that a row records, one field on each line."""
    old = orjson.loads(row["old_values"] or "{}")
    new = orjson.loads(row["new_values"] or "{}")
    changes = Text()
    for name, value in new.items():
        changes.append("\n" if changes else "")
        changes.append(f"{name}: ", style="dim")
        if name in old:
            changes.append(_value(old[name]), style="red")
            changes.append(" -> ")
        changes.append(_value(value), style="green")
    return changes


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(_value(part) for part in value.values())
    return str(value)


def _show_stats(pipeline: AuditPipeline) -> None:
    _heading("get_audit_stats()")
    stats = pipeline.stats()
    shown = ("submitted", "recovered", "succeeded", "failed", "pending", "rejected")
    numbers = [f"{getattr(stats, name):,}" for name in shown]
    talk.print_table((*shown, "success_rate"), [[*numbers, f"{stats.success_rate:.1f} %"]], right=shown)


def _show_next(directory: Path, database: Path) -> None:
    _heading("Where to go next")
    command = _command()
    for what, how in (
        ("Look at the rows:", f"sqlite3 {database} .dump"),
        ("See what waits:", f"{command} outbox status --outbox-dir {directory / 'outbox'}"),
        ("Write events of your own:", f"{command} emit --help"),
        ("Put it into an API:", "README.md has the call that configures it, and the one that emits"),
    ):
        print(f"{what:<26}{how}")


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.3g} ms" if seconds >= 0.001 else f"{seconds * 1e6:.0f} µs"


def _command() -> str:
    """Return how this command is called here."""
    called = Path(sys.argv[0])
    if called.name != "otel-audit":
        return "python -m otel_audit_exporter.cli"
    return called.name if shutil.which(called.name) else os.path.relpath(called)
