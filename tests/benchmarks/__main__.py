"""Measure what the library costs: `make bench`, or `make bench ARGS=--quick`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.status import Status

from tests.benchmarks.backlogs import BACKLOGS
from tests.benchmarks.busy import BUSY
from tests.benchmarks.calls import CALLS
from tests.benchmarks.drains import DRAINS
from tests.benchmarks.durable import DURABLE
from tests.benchmarks.handlers import HANDLERS
from tests.benchmarks.hot import HOT
from tests.benchmarks.imports import IMPORTS
from tests.benchmarks.measurement import Bench, Measurement
from tests.benchmarks.outages import OUTAGES
from tests.benchmarks.pictures import draw
from tests.benchmarks.project import Project
from tests.benchmarks.reading import READING
from tests.benchmarks.report import show, write_into_readme, write_results
from tests.benchmarks.responses import RESPONSES
from tests.benchmarks.rows import Row
from tests.benchmarks.servers import SERVERS
from tests.benchmarks.sizes import FULL, QUICK, Sizes
from tests.benchmarks.starts import STARTS
from tests.benchmarks.sustained import SUSTAINED

MEASUREMENTS: Final = (
    *(IMPORTS, CALLS, BUSY, SERVERS, DURABLE, HANDLERS, BACKLOGS),
    *(HOT, SUSTAINED, DRAINS, OUTAGES, STARTS, RESPONSES, READING),
)
_ROOT: Final = Path(__file__).parents[2]
_FILE_WIDTH: Final = 200
_KEPT: Final = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    chosen = [one for one in MEASUREMENTS if not options.only or one.name in options.only]
    whole = len(chosen) == len(MEASUREMENTS) and not options.quick
    directory = options.out or (_KEPT if whole else _ROOT / "build" / "bench")
    console = Console(stderr=True)
    rows = _measure(chosen, QUICK if options.quick else FULL, console)
    show(rows, Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH))
    directory.mkdir(parents=True, exist_ok=True)
    write_results(rows, directory / "results.json", "quick" if options.quick else "full")
    _draw(rows, directory, console)
    if whole and not options.out:
        write_into_readme(rows, _ROOT / "README.md")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [one.name for one in MEASUREMENTS]
    about = "; ".join(f"{one.name}: {one.about}" for one in MEASUREMENTS)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__, epilog=about)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, not how fast")
    parser.add_argument("--only", action="append", choices=names, help="this measurement (may be repeated)")
    parser.add_argument("--out", type=Path, metavar="DIRECTORY", help="where results and pictures go")
    return parser.parse_args(arguments)


def _measure(chosen: Sequence[Measurement], sizes: Sizes, console: Console) -> list[Row]:
    rows: list[Row] = []
    with (
        closing(Project()) as project,
        tempfile.TemporaryDirectory(prefix="audit-bench-") as directory,
        console.status("starting") as status,
    ):
        for one in chosen:
            bench = Bench(sizes, project, Path(directory), partial(_tell, status, one.name))
            rows += one.run(bench)
    return rows


def _tell(status: Status, name: str, doing: str) -> None:
    status.update(f"{name}: {doing}")


def _draw(rows: Sequence[Row], directory: Path, console: Console) -> None:
    try:
        draw(rows, directory)
    except ImportError:
        console.print('no pictures without matplotlib: pip install -e ".[bench]"')


if __name__ == "__main__":
    main()
