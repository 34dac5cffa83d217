"""Rows in a list, for tests and for trying things out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.runtime.threads import Lock


class MemorySink:
    """Keep decoded rows in memory, in the order they came; a row whose key is known is ignored.

    ``key_columns`` are the columns whose values together make a row the same row.
    """

    name = "memory"
    target = "memory"

    def __init__(self, *, key_columns: Sequence[str] = ("id",)) -> None:
        self._key_columns = tuple(key_columns)
        self._rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._lock = Lock()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows so far: a new list, of the dicts that the sink holds."""
        with self._lock:
            return list(self._rows.values())

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Keep every row whose key is not there yet."""
        decoded = [loads_exact(row) for row in rows]
        with self._lock:
            for row in decoded:
                self._rows.setdefault(tuple(row[column] for column in self._key_columns), row)

    def clear(self) -> None:
        """Forget every row and every id."""
        with self._lock:
            self._rows.clear()

    def close(self) -> None:
        """Do nothing: the rows stay, to be looked at."""

    def renew_after_fork(self) -> None:
        """Start with an empty list: what the parent has is the parent's."""
        self._lock = Lock()
        self._rows = {}

    def __repr__(self) -> str:
        return "<MemorySink>"
