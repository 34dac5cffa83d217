"""Two pictures for the README: a handler before and after, and rows a second beside the limit."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.handlers import GROUP as HANDLER
from tests.benchmarks.rows import Row

_OURS: Final = "#1a7f64"
_THEIRS: Final = "#b8b8b8"
_STYLE: Final = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "otel-audit-exporter",  # the same rows give the same file
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Draw what the rows allow; return the files. Needs matplotlib (extra ``bench``)."""
    mpl: Any = import_module("matplotlib")
    mpl.use("svg")
    drawn: list[Path] = []
    with mpl.rc_context(_STYLE):
        handlers = [row for row in rows if row.group == HANDLER and row.theirs is not None]
        if handlers:
            drawn.append(_handler_latency(handlers, directory / "handler-latency.svg"))
        drains = [row for row in rows if row.group == "drain" and row.unit == "rows/s" and row.theirs is not None]
        if drains:
            drawn.append(_rows_a_second(drains, directory / "rows-per-second.svg"))
    return drawn


def _handler_latency(rows: Sequence[Row], path: Path) -> Path:
    figure, axes = _pairs(
        [row.what.removeprefix("audit in a handler, ") for row in rows],
        [row.ours / 1000 for row in rows],
        [(row.theirs or 0.0) / 1000 for row in rows],
        ("after: audit_event()", "before: an insert in the request"),
    )
    axes.set_xscale("log")
    axes.set_xlabel("what the audit adds to a handler, milliseconds (logarithmic)")
    return _save(figure, path)


def _rows_a_second(rows: Sequence[Row], path: Path) -> Path:
    figure, axes = _pairs(
        [f"{row.what}\nbeside: {row.against}".replace("`", "") for row in rows],
        [row.ours for row in rows],
        [row.theirs or 0.0 for row in rows],
        ("this library", "what it is held against"),
    )
    axes.set_xlabel("rows a second")
    return _save(figure, path)


def _pairs(labels: Sequence[str], ours: Sequence[float], theirs: Sequence[float], legend: tuple[str, str]) -> Any:
    figure: Any = import_module("matplotlib.figure").Figure(figsize=(9, 0.9 + 0.75 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(labels))
    for offset, values, color, name in ((-0.2, ours, _OURS, legend[0]), (0.2, theirs, _THEIRS, legend[1])):
        bars = axes.barh([place + offset for place in places], values, height=0.36, color=color, label=name)
        axes.bar_label(bars, [_short(value) for value in values], padding=4, fontsize=9)
    axes.set_yticks(list(places), labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    figure.legend(loc="outside upper right", frameon=False, ncols=2)
    return figure, axes


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None})
    return path
