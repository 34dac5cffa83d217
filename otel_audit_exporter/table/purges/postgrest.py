"""Rows of PostgreSQL deleted through PostgREST, each batch by a request of its own."""

from __future__ import annotations

from collections.abc import Sequence

from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.table.purges.base import delete_error, refuses_no_time
from otel_audit_exporter.table.readers.base import Order
from otel_audit_exporter.table.readers.conditions import Compare, Condition, Null
from otel_audit_exporter.table.readers.postgrest import PostgRESTSource, filters, name_of


class PostgRESTRemover(PostgRESTSource):
    """Deletes through PostgREST, which takes no number of rows to delete: so the time of the last one is asked for."""

    def holds_times(self, order: Order) -> bool:
        """Tell whether the column of the time is one of times."""
        return refuses_no_time(self.count, order)

    def try_delete(self, order: Order) -> None:
        """Delete no row: that asks for the right, and for triggers of the whole statement."""
        self._delete([Null(order.at), Null(order.at, negated=True)])

    def delete_batch(self, conditions: Sequence[Condition], order: Order, most: int) -> int:
        """Delete the oldest rows; return how many went."""
        name = name_of(order.at)
        parameters = [("select", name), ("order", f"{name}.asc"), ("limit", "1"), ("offset", str(most - 1))]
        last = self._get([*parameters, *filters(conditions)])
        until = [Compare(order.at, "<=", str(row[order.at.name])) for row in last]  # none: fewer are left
        return self._delete([*conditions, *until])

    def _delete(self, conditions: Sequence[Condition]) -> int:
        try:
            return self._rest.delete(self._path, filters(conditions))
        except SinkError as error:
            raise delete_error(error) from None
