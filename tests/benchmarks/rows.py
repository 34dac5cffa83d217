"""What a measurement gives: rows of the table, each with what it is held against and its budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final, Literal

Verdict = Literal["held", "not held", "proves nothing", ""]
_MOST_SPREAD: Final = 0.25  # of the budget
_FEWEST_PAIRS: Final = 7


@dataclass(frozen=True)
class Budget:
    """A limit of the ratio (design section 9)."""

    limit: float
    at_least: bool = False

    def keeps(self, ratio: float, spread: float = 0.0) -> bool:
        """Tell whether the ratio is within the budget, or beyond it by no more than ``spread``."""
        return ratio + spread >= self.limit if self.at_least else ratio - spread <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ``ours`` and ``theirs`` are medians over the rounds, in ``unit``; ``ratio`` is the median of the rounds'
    ratios, and ``ratios`` are all of them. A row without ``against`` stands by itself. ``noise`` tells how far the
    same code is from itself, from one round to the next; None where one thread alone was measured.
    """

    group: str
    what: str
    ours: float
    unit: str
    against: str = ""
    theirs: float | None = None
    ratios: tuple[float, ...] = ()
    budget: Budget | None = None
    note: str = ""
    noise: float | None = None

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios."""
        return median(self.ratios) if self.ratios else None

    @property
    def spread(self) -> float | None:
        """The A/A spread, in the unit of the ratio: by so much it differs where nothing differs."""
        if self.noise is None or self.ratio is None:
            return None
        return self.noise * (self.ratio if self.budget is None else min(self.ratio, self.budget.limit))

    @property
    def verdict(self) -> Verdict:
        """Whether the row holds; empty where it has no budget."""
        if self.budget is None or self.ratio is None:
            return ""
        spread = self.spread or 0.0
        if self.spread is not None and (len(self.ratios) < _FEWEST_PAIRS or spread > _MOST_SPREAD * self.budget.limit):
            return "proves nothing"
        return "held" if self.budget.keeps(self.ratio, spread) else "not held"


def alone(group: str, what: str, values: Sequence[float], unit: str, note: str = "") -> Row:
    """Return a row that is held against nothing."""
    return Row(group, what, median(values), unit, note=note)


def limited(
    group: str, what: str, values: Sequence[float], unit: str, limit: float, *, note: str = "", noisy: bool = True
) -> Row:
    """Return a row that is held against a fixed limit; ``noisy``: it takes several rounds to tell."""
    ratios = tuple(value / limit for value in values)
    noise = spread_of(values) if noisy else None
    return Row(group, what, median(values), unit, "at most", limit, ratios, Budget(1.0), note, noise)


def compared(
    group: str,
    what: str,
    ours: Sequence[float],
    against: str,
    theirs: Sequence[float],
    unit: str,
    *,
    budget: Budget | None = None,
    note: str = "",
    threads: bool = True,
) -> Row:
    """Return a row of two sides that were measured in turns: the n-th of one beside the n-th of the other.

    ``threads``: more than one thread had a part in it, so that the A/A spread is told, too.
    """
    ratios = tuple(mine / other for mine, other in zip(ours, theirs, strict=True))
    noise = max(spread_of(ours), spread_of(theirs)) if threads else None
    return Row(group, what, median(ours), unit, against, median(theirs), ratios, budget, note, noise)


def spread_of(values: Sequence[float]) -> float:
    """Return how far a round is from the next one of the same code, as a share: the median of all such pairs."""
    steps = [abs(math.log(one / other)) for one, other in pairwise(values) if one > 0 and other > 0]
    return math.expm1(median(steps)) if steps else 0.0
