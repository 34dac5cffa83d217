"""How much is measured: a full run of a few minutes, or a quick one that shows that everything works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Sizes:
    """Counts of what is done; times in seconds."""

    rounds: int  # each side is measured so often, in turns
    few: int  # the same, for what has no budget
    bursts: int
    burst_calls: int
    calls_flat_out: int
    paced_seconds: float
    busy_seconds: float
    served_seconds: float
    synced_seconds: float
    imports: int
    backlog_rows: int
    pool_rows: int
    sustained_seconds: float
    away_events: int
    trail_rows: int
    answers: int
    handler_calls: int
    threads: tuple[int, ...]
    computing: tuple[int, ...]
    delays_millis: tuple[int, ...]
    connections: tuple[int, ...]


FULL: Final = Sizes(
    rounds=7,
    few=1,
    bursts=30,
    burst_calls=512,
    calls_flat_out=30_000,
    paced_seconds=2.0,
    busy_seconds=1.2,
    served_seconds=2.0,
    synced_seconds=0.7,
    imports=11,
    backlog_rows=100_000,
    pool_rows=1_000,
    sustained_seconds=2.0,
    away_events=1_000_000,
    trail_rows=1_000_000,
    answers=20,
    handler_calls=100,
    threads=(4, 16),
    computing=(0, 1, 3),
    delays_millis=(0, 300),
    connections=(1, 2, 4),
)

QUICK: Final = Sizes(
    rounds=1,
    few=1,
    bursts=2,
    burst_calls=512,
    calls_flat_out=2_000,
    paced_seconds=0.3,
    busy_seconds=0.2,
    served_seconds=0.3,
    synced_seconds=0.1,
    imports=1,
    backlog_rows=4_000,
    pool_rows=100,
    sustained_seconds=0.3,
    away_events=5_000,
    trail_rows=20_000,
    answers=3,
    handler_calls=10,
    threads=(4,),
    computing=(0, 1, 3),
    delays_millis=(0, 300),
    connections=(2,),
)
