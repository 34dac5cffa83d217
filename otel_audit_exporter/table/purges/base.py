"""What every remover is: something that deletes the oldest rows of a table, or says what is in the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.sqlstate_rules import APPEND_ONLY
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.table.readers.base import NO_RIGHT, Order
from otel_audit_exporter.table.readers.conditions import Compare, Condition
from otel_audit_exporter.table.readers.query import QueryError
from otel_audit_exporter.table.readers.sql import ConditionWriter, Dialect, Statement

_APPEND_ONLY: Final = Verdict(
    Fault.CONFIGURATION,
    "its rows stay, and that is meant: let them go by whole partitions (otel-audit schema --partitioned "
    "--retention-months N, then select <table>_drop_partitions()), or have the table's owner drop the trigger first",
)
_NO_RIGHT: Final = Verdict(
    Fault.CONFIGURATION,
    "run this as another role, or grant this one delete on the table, and select on the column of the time; the role "
    "that writes events is better without",
)
_REFERRED_TO: Final = Verdict(Fault.CONFIGURATION, "drop that foreign key, or let the rows of that table go first")
_HIDDEN: Final = Verdict(
    Fault.CONFIGURATION,
    "see whether row-level security has a policy for delete that lets this role delete all rows, and whether a trigger "
    "passes over them; or run this as the table's owner",
)
_REFUSED_BY_TRIGGER: Final = frozenset({"SQLITE_CONSTRAINT_TRIGGER", "09000", "27000"})
_REFERENCES: Final = frozenset({"23503", "23001", "SQLITE_CONSTRAINT_FOREIGNKEY"})


class Remover(Protocol):
    """Deletes rows of one table. Raises :class:`SinkError` where that cannot be done."""

    def count(self, conditions: Sequence[Condition], order: Order, most: int) -> int:
        """Return how many rows there are, or a number above ``most`` where there are more."""

    def holds_times(self, order: Order) -> bool:
        """Tell whether the column of the time compares as times do."""

    def try_delete(self, order: Order) -> None:
        """Find out, as far as that can be told with no row gone, whether rows may be deleted."""

    def delete_batch(self, conditions: Sequence[Condition], order: Order, most: int) -> int:
        """Delete about ``most`` rows in one transaction, more where many are of one moment; return how many went."""

    def close(self) -> None:
        """Close what is open."""


def delete_oldest(dialect: Dialect, table: str, conditions: Sequence[Condition], order: Order, most: int) -> Statement:
    """Return the statement that deletes the oldest rows: a moment at a time, as a row need not have an id."""
    inner, outer = ConditionWriter(dialect), ConditionWriter(dialect)
    at = dialect.place(order.at)
    oldest = f"select {at} as moment from {table} where {inner.all(conditions)} order by 1 limit {int(most)}"  # noqa: S608  # quoted names
    where = f"{outer.all(conditions)} and {at} <= (select max(moment) from ({oldest}) oldest)"  # noqa: S608
    return Statement(f"delete from {table} where {where}", outer.values + inner.values)  # noqa: S608


def refuses_no_time(count: Callable[[Sequence[Condition], Order, int], int], order: Order) -> bool:
    """Tell whether a database with types takes a column for one of times: then it refuses to compare it with a text."""
    try:
        count([Compare(order.at, "<", "no time")], order, 0)
    except QueryError:
        return True
    return False


def delete_error(error: SinkError) -> SinkError:
    """Return an error in the words of somebody who deletes."""
    code = error.code or ""
    if error.message.endswith(APPEND_ONLY):
        return _said(error, _APPEND_ONLY, "the table is append-only: a trigger refuses to delete")
    if code == NO_RIGHT:
        return _said(error, _NO_RIGHT, "the role may not delete rows of the table, or not see their times")
    if code in _REFUSED_BY_TRIGGER or code.startswith("P0"):
        return _said(error, _APPEND_ONLY, "a trigger of the table refuses to delete")
    if code in _REFERENCES:
        return _said(error, _REFERRED_TO, "rows of another table refer to rows that would go")
    return error


def still_there(count: int) -> SinkError:
    """Return the error for rows that stay although nobody refused to delete them."""
    return SinkError(_HIDDEN, f"{count:,} of these rows are still there, though nothing was refused")


def _said(error: SinkError, verdict: Verdict, message: str) -> SinkError:
    return SinkError(verdict, message, code=error.code, status=error.status)
