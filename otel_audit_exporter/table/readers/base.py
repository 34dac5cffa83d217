"""What every source of rows is: something that reads a table, and knows nothing of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.table.readers.columns import Column
from otel_audit_exporter.table.readers.conditions import Condition
from otel_audit_exporter.table.readers.query import QueryError

# Asked for something that the column's type cannot hold: no text of such a type, no time.
NO_SUCH_VALUE: Final = frozenset({"22P02", "22007", "22008"})
NO_RIGHT: Final = "42501"
_MAY_NOT_READ: Final = Verdict(
    Fault.CONFIGURATION,
    "grant usage on its schema and select on the table to the role that reads; with row-level security it needs a "
    "policy for select, too",
)


@dataclass(frozen=True)
class Order:
    """The order of time and id."""

    at: Column
    key: Column
    newest_first: bool


class Source(Protocol):
    """Reads one table. Raises :class:`SinkError` where that cannot be done, :class:`QueryError` for a wrong value."""

    json_is_text: bool
    """Whether every JSON document is text in the table."""

    def rows(
        self, known: Sequence[str], conditions: Sequence[Condition], order: Order, limit: int
    ) -> list[Mapping[str, Any]]:
        """Return the next rows, at most ``limit``, with every column that may be read; ``known`` are needed."""

    def count(self, conditions: Sequence[Condition], order: Order, most: int) -> int:
        """Return how many rows there are, or a number above ``most`` where there are more."""

    def searchable(self) -> bool:
        """Return whether the table has the column for searching in values."""

    def close(self) -> None:
        """Close what is open; a later call opens it again."""


def no_such_value() -> QueryError:
    """Return the error for a value that a column cannot hold."""
    return QueryError(
        "what was asked for holds a value that its column cannot hold: compare OTEL_AUDIT_IDS with the types of the "
        "table's columns"
    )


def read_error(error: SinkError) -> SinkError:
    """Return an error in the words of somebody who reads."""
    if error.code != NO_RIGHT:
        return error
    return SinkError(_MAY_NOT_READ, "the role may not read the table", code=error.code, status=error.status)
