"""Jobs in interpreters of their own, so that no measurement finds what another one left behind.

A job is a function of a module: ``job(directory, **arguments)``. It gets an empty directory, and arguments and
result are JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

Result = dict[str, float]
Job = Callable[..., Result]

_ROOT: Final = Path(__file__).parents[2]
# Without compiled files each import would compile this package, and none of those that were installed.
_FOREIGN: Final = ("OTEL_", "SUPABASE_", "DATABASE_URL", "PYTHONDONTWRITEBYTECODE")


def run_apart(job: Job, arguments: Mapping[str, Any], directory: Path | None = None) -> Result:
    """Run ``job`` in a fresh interpreter; ``directory`` is a new one unless it is given."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="audit-bench-") as made:
            return run_apart(job, arguments, Path(made))
    said = {"job": f"{job.__module__}:{job.__name__}", "directory": str(directory), "arguments": dict(arguments)}
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(said),
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        env=plain_environment(),
        text=True,
        check=True,
    )
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def in_turns(
    rounds: int, sides: Mapping[str, Callable[[], Result]], told: Callable[[str], None] = lambda name: None
) -> dict[str, list[Result]]:
    """Measure every side once a round: what drifts on the machine drifts for all."""
    results: dict[str, list[Result]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, measure in sides.items():
            told(f"{name} ({number + 1}/{rounds})")
            results[name].append(measure())
    return results


def column(results: Sequence[Result], name: str) -> list[float]:
    """Return one figure of every round."""
    return [result[name] for result in results]


def plain_environment() -> dict[str, str]:
    """Return the environment without settings that would change what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}


def _main() -> None:
    said = json.load(sys.stdin)
    module, _, name = said["job"].partition(":")
    job: Job = getattr(importlib.import_module(module), name)
    print(json.dumps(job(Path(said["directory"]), **said["arguments"])), flush=True)
    os._exit(0)  # whatever still hangs is part of the measurement, and over with it


if __name__ == "__main__":
    _main()
