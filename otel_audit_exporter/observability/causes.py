"""Why something is not on its way to the table."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """Why something is not on its way to the table, and what to do."""

    text: str
    remedy: str
