"""Nowhere: auditing that is switched off on purpose."""

from __future__ import annotations

from collections.abc import Sequence


class NullSink:
    """Takes every row and keeps none."""

    name = "none"
    target = "nowhere"

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Throw the rows away."""

    def close(self) -> None:
        """Nothing is open."""

    def renew_after_fork(self) -> None:
        """Nothing is inherited."""
