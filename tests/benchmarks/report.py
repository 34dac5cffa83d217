"""The table on the screen and in the README, and the results as JSON."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.benchmarks.rows import Row

_STYLES: Final = {"held": "green", "not held": "bold red", "proves nothing": "yellow", "": ""}
_NUMBERS: Final = ("ours", "theirs", "ratio", "A/A spread", "budget")
_IN_README: Final = re.compile(r"(?<=<!-- bench -->\n).*?(?=<!-- /bench -->)", re.DOTALL)


# The README is short; `results.json` has every row.
_FIRST_ASKED: Final = frozenset({
    "`audit_event()`, outbox in memory, mean",
    "`audit_event()`, outbox on disk, mean",
    "`audit_event()`, outbox on disk, p99",
    "redaction, 40 text fields, 2 kB, mean",
    "1,000 calls a second: sink hangs, p99",
    "one call a millisecond, 3 computing thread(s), mean",
    "one call a millisecond, 3 computing thread(s), p99",
    "`audit_event()`, outbox fsync, 16 threads, 5 ms each",
    "`from otel_audit_exporter import audit_event, configure_audit`",
    "`result()` with 1,000,000 events pending",
    "one thread, from event to row",
    "backlog through PostgREST",
    "backlog, direct PostgreSQL",
    "backlog through PostgREST, 300 ms added to every response",
    "opening an outbox with 1,000,000 pending, time",
    "anonymous memory, 1,000,000 events with the sink away",
})  # fmt: skip


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table, a group after the other."""
    table = Table(title="What it costs, beside what it is held against")
    for name in ("what", "ours", "against", "theirs", "ratio", "A/A spread", "budget", ""):
        table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
    group = rows[0].group if rows else ""
    for row in rows:
        if row.group != group:
            table.add_section()
            group = row.group
        table.add_row(*_cells(row), row.verdict, style=_STYLES[row.verdict])
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.what}: {row.note}", style="dim", highlight=False)


def write_results(rows: Sequence[Row], path: Path, size: str) -> None:
    """Write everything that was measured, and on what."""
    content = {"size": size, "machine": _machine(), "rows": [_as_json(row) for row in rows]}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_into_readme(rows: Sequence[Row], path: Path) -> bool:
    """Write the rows that users ask for first between the README's markers; False where it has none."""
    readme = path.read_text(encoding="utf-8")
    shown = [row for row in rows if row.budget is not None and row.what in _FIRST_ASKED]
    lines = [
        "| what | measured | against | measured | ratio | A/A spread | budget | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(f"| {' | '.join((*_cells(row), row.verdict))} |" for row in shown),
    ]
    written, count = _IN_README.subn(lambda _: "\n".join(lines) + "\n", readme, count=1)
    path.write_text(written, encoding="utf-8")
    return bool(count)


def _cells(row: Row) -> Iterable[str]:
    theirs = "" if row.theirs is None else f"{_number(row.theirs)} {row.unit}"
    ratio = "" if row.ratio is None else f"{_number(row.ratio)} x"
    spread = "" if row.spread is None or len(row.ratios) < 2 else f"± {_number(row.spread)} x"
    budget = "" if row.budget is None else f"{row.budget} x"
    return row.what, f"{_number(row.ours)} {row.unit}", row.against, theirs, ratio, spread, budget


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2g}" if abs(value) < 0.1 else f"{value:.2f}"


def _as_json(row: Row) -> dict[str, Any]:
    budget = None if row.budget is None else str(row.budget)
    return {**asdict(row), "budget": budget, "ratio": row.ratio, "spread": row.spread, "verdict": row.verdict}


def _machine() -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("otel-audit-exporter", "opentelemetry-sdk", "supabase", "psycopg")},
    }
