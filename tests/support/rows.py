"""What is in a table, read as other tools read it."""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any


def sqlite_rows(path: str | os.PathLike[str], table: str = "pms_audit_log") -> list[dict[str, Any]]:
    """Read the embedded table as other tools do, its documents decoded; none where there is no file yet."""
    if not Path(path).exists():
        return []
    connection = sqlite3.connect(f"file:{os.fspath(path)}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is None:
            return []  # the file is just being made
        rows = [dict(row) for row in connection.execute(f'SELECT * FROM "{table}" ORDER BY created_at, id')]
    finally:
        connection.close()
    for row in rows:
        for name in ("old_values", "new_values"):
            row[name] = None if row[name] is None else json.loads(row[name])
        row["created_at"] = datetime.fromisoformat(row["created_at"])
    return rows
