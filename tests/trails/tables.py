"""What the tests of trails configure, and look for in a file's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.support.rows import sqlite_rows

LEDGER: Final = {"ledger": {"table": "ledger_events"}}


def actions(path: Path, table: str = "pms_audit_log") -> list[str]:
    """The actions of the rows in a table, in their order."""
    return [row["action"] for row in sqlite_rows(path, table)]
