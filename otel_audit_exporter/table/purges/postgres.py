"""Rows of PostgreSQL deleted over a direct connection, each batch in a transaction of its own."""

from __future__ import annotations

from collections.abc import Sequence

from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.table.purges.base import delete_error, delete_oldest, refuses_no_time
from otel_audit_exporter.table.readers.base import Order
from otel_audit_exporter.table.readers.conditions import Condition
from otel_audit_exporter.table.readers.postgres import PostgresSource
from otel_audit_exporter.table.readers.sql import Statement


class PostgresRemover(PostgresSource):
    """Deletes over a direct connection, which stays open until it is closed."""

    def holds_times(self, order: Order) -> bool:
        """Tell whether the column of the time is one of times."""
        return refuses_no_time(self.count, order)

    def try_delete(self, order: Order) -> None:
        """Delete no row: that asks for the right, and for triggers of the whole statement."""
        at = self.dialect.place(order.at)
        self._delete(Statement(f"delete from {self._table} where {at} is null and {at} is not null", []))  # noqa: S608  # quoted names

    def delete_batch(self, conditions: Sequence[Condition], order: Order, most: int) -> int:
        """Delete the oldest rows; return how many went."""
        return self._delete(delete_oldest(self.dialect, self._table, conditions, order, most))

    def _delete(self, statement: Statement) -> int:
        counted = f"with gone as ({statement.text} returning 1) select count(*) from gone"  # noqa: S608  # quoted names
        try:
            return int(self._run(Statement(counted, statement.values))[0][0])
        except SinkError as error:
            raise delete_error(error) from None
