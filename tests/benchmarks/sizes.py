"""How much is measured: a full run of a few minutes, or a quick one that shows that everything works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Sizes:
    """Counts of what is done; times in seconds."""

    rounds: int  # each side is measured so often, in turns
    bursts: int
    burst_calls: int
    calls_flat_out: int
    paced_seconds: float
    imports: int
    backlog_rows: int
    backlog_rounds: int
    pool_rows: int
    sustained_seconds: float
    away_events: int
    handler_calls: int
    threads: tuple[int, ...]
    delays_millis: tuple[int, ...]
    connections: tuple[int, ...]

    @property
    def few(self) -> int:
        """Rounds for what takes long."""
        return max(self.rounds // 2, 1)


FULL: Final = Sizes(
    rounds=7,
    bursts=40,
    burst_calls=512,
    calls_flat_out=30_000,
    paced_seconds=6.0,
    imports=21,
    backlog_rows=100_000,
    backlog_rounds=5,
    pool_rows=3_000,
    sustained_seconds=6.0,
    away_events=1_000_000,
    handler_calls=200,
    threads=(4, 16),
    delays_millis=(0, 30, 300),
    connections=(1, 2, 4),
)

QUICK: Final = Sizes(
    rounds=1,
    bursts=2,
    burst_calls=512,
    calls_flat_out=2_000,
    paced_seconds=0.3,
    imports=1,
    backlog_rows=4_000,
    backlog_rounds=1,
    pool_rows=100,
    sustained_seconds=0.3,
    away_events=5_000,
    handler_calls=10,
    threads=(4,),
    delays_millis=(0, 300),
    connections=(2,),
)
