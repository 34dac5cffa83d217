"""What every measurement is given, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.apart import Result, in_turns
from tests.benchmarks.project import Project
from tests.benchmarks.rows import Row
from tests.benchmarks.sizes import Sizes


@dataclass(frozen=True)
class Bench:
    """One run: how much to measure, the stack, and a directory for files that jobs hand on."""

    sizes: Sizes
    project: Project
    directory: Path
    tell: Callable[[str], None]

    def in_turns(self, rounds: int, sides: Mapping[str, Callable[[], Result]]) -> dict[str, list[Result]]:
        """Measure every side once a round."""
        return in_turns(rounds, sides, self.tell)


@dataclass(frozen=True)
class Measurement:
    """One subject of the benchmark: its name on the command line, and what measures it."""

    name: str
    about: str
    run: Callable[[Bench], Sequence[Row]]
