"""What a measurement gives: rows of the table, each with what it is held against and its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Verdict = Literal["pass", "over", ""]


@dataclass(frozen=True)
class Budget:
    """A limit of the ratio (design section 9)."""

    limit: float
    at_least: bool = False

    def keeps(self, ratio: float) -> bool:
        """Tell whether the ratio is within the budget."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ``ours`` and ``theirs`` are medians over the rounds, in ``unit``; ``ratio`` is the median of the rounds'
    ratios, and ``ratios`` are all of them. A row without ``against`` stands by itself.
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

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios."""
        return median(self.ratios) if self.ratios else None

    @property
    def verdict(self) -> Verdict:
        """Whether the row is within its budget; empty where it has none."""
        if self.budget is None or self.ratio is None:
            return ""
        return "pass" if self.budget.keeps(self.ratio) else "over"


def alone(group: str, what: str, values: Sequence[float], unit: str, note: str = "") -> Row:
    """Return a row that is held against nothing."""
    return Row(group, what, median(values), unit, note=note)


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
) -> Row:
    """Return a row of two sides that were measured in turns: the n-th of one beside the n-th of the other."""
    ratios = tuple(mine / other for mine, other in zip(ours, theirs, strict=True))
    return Row(group, what, median(ours), unit, against, median(theirs), ratios, budget, note)
