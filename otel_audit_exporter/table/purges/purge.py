"""Rows older than a moment, counted and deleted, in every stretch of time with a mapping of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.table.purges.base import Remover, still_there
from otel_audit_exporter.table.purges.postgres import PostgresRemover
from otel_audit_exporter.table.purges.postgrest import PostgRESTRemover
from otel_audit_exporter.table.purges.sqlite import SQLiteRemover
from otel_audit_exporter.table.readers.base import Order
from otel_audit_exporter.table.readers.conditions import Condition, conditions_of
from otel_audit_exporter.table.readers.query import EventQuery, QueryError
from otel_audit_exporter.table.readers.reader import Segment, order_of, segments_of
from otel_audit_exporter.table.target import table_exporter

BATCH: Final = 2_000
"""How many rows go in one transaction."""
_ALL: Final = 2**40

_REMOVERS: Final[Mapping[str, Callable[[Settings], Remover]]] = {
    "postgres": PostgresRemover,
    "supabase": PostgRESTRemover,
    "sqlite": SQLiteRemover,
}


class Purge:
    """The rows of one table by their age. Each method raises :class:`SinkError` where it cannot be done.

    Rows without a time have no age: they stay.
    """

    def __init__(self, remover: Remover, segments: Sequence[Segment], *, ids: str = "uuid") -> None:
        self._remover = remover
        self._segments = tuple(segments)
        self._ids = ids

    @property
    def takes_tenant(self) -> bool:
        """Whether a column takes the tenant of a new event."""
        return "yacht_id" in self._segments[-1].columns.of

    def count(self, before: datetime) -> int:
        """Return how many rows are older. Raises :class:`QueryError` where the table has no times to tell by."""
        self._check_times()
        return sum(self._remover.count(conditions, order, _ALL) for conditions, order in self._parts(before))

    def try_delete(self) -> None:
        """Find out whether rows may be deleted, with none of them gone."""
        self._remover.try_delete(order_of(self._segments[-1]))

    def delete(self, before: datetime) -> Iterator[int]:
        """Delete what is older; yield how many went, batch by batch.

        Each batch is a transaction, and stays done where a later one is refused.
        """
        for conditions, order in self._parts(before):
            while gone := self._remover.delete_batch(conditions, order, BATCH):
                yield gone
        left = self.count(before)
        if left:
            raise still_there(left)

    def close(self) -> None:
        """Close what is open."""
        self._remover.close()

    def _parts(self, before: datetime) -> Iterator[tuple[Sequence[Condition], Order]]:
        for segment in self._segments:
            query = segment.narrowed(EventQuery(until=before))
            conditions = query and conditions_of(query, segment.columns, ids=self._ids, searchable=False)
            if conditions:
                yield conditions, order_of(segment)

    def _check_times(self) -> None:
        """Make sure that times are compared with times: texts are in another order."""
        for segment in self._segments:
            order = order_of(segment)
            if not self._remover.holds_times(order):
                raise QueryError(f'column "{order.at.name}" is no column of times, so that no row has an age')


def open_purge(settings: Settings) -> Purge:
    """Return what deletes rows of the first chosen exporter with a table.

    Raises :class:`AuditConfigurationError` where there is none, or its settings are missing or wrong.
    """
    name = table_exporter(settings)
    try:
        return Purge(_REMOVERS[name](settings), segments_of(settings), ids=settings.ids)
    except AuditConfigurationError:
        raise
    except (ValueError, ImportError) as error:
        raise AuditConfigurationError(f"exporter {name}: {error}") from None
