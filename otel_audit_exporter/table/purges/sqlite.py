"""Rows of the embedded table deleted, each batch in a transaction of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Final
from urllib.parse import quote

from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.table.purges.base import delete_error, delete_oldest
from otel_audit_exporter.table.readers.base import Order
from otel_audit_exporter.table.readers.columns import Place
from otel_audit_exporter.table.readers.conditions import Condition
from otel_audit_exporter.table.readers.sql import ConditionWriter, Statement
from otel_audit_exporter.table.readers.sqlite import SQLiteDialect, SQLiteSource

_BUSY_SECONDS: Final = 10


class _Moments(SQLiteDialect):
    """Compares moments and not texts: what another program has written looks otherwise, and what is no time stays."""

    holder = "julianday(?)"

    def place(self, place: Place) -> str:
        return f"julianday({super().place(place)})"


class SQLiteRemover(SQLiteSource):
    """Deletes rows of the embedded table; what they held is overwritten in the file."""

    dialect = _Moments()
    _rowid: bool | None = None

    def holds_times(self, order: Order) -> bool:
        """Tell that each value is looked at by itself: one that is no time stays."""
        return True

    def try_delete(self, order: Order) -> None:
        """Delete the oldest row, and roll back."""
        self._delete(delete_oldest(self.dialect, self._table, (), order, 1), keep=False)

    def delete_batch(self, conditions: Sequence[Condition], order: Order, most: int) -> int:
        """Delete some of the rows; return how many went."""
        return self._delete(self._batch(conditions, order, most), keep=True)

    def _batch(self, conditions: Sequence[Condition], order: Order, most: int) -> Statement:
        """Return the statement for any of the rows: to find the oldest, all of them would be read for each batch."""
        if self._rowid is None:
            self._rowid = self._has_rowid()
        if not self._rowid:
            return delete_oldest(self.dialect, self._table, conditions, order, most)
        inner, outer = ConditionWriter(self.dialect), ConditionWriter(self.dialect)
        some = f"select rowid from {self._table} where {inner.all(conditions)} limit {int(most)}"  # noqa: S608  # quoted names
        where = f"{outer.all(conditions)} and rowid in ({some})"
        return Statement(f"delete from {self._table} where {where}", outer.values + inner.values)  # noqa: S608

    def _has_rowid(self) -> bool:
        try:
            self._run(Statement(f"select rowid from {self._table} limit 0", []))  # noqa: S608
        except SinkError:
            return False
        return True

    def _delete(self, statement: Statement, *, keep: bool) -> int:
        from otel_audit_exporter.sinks.sqlite import sqlite_error

        self._check_file()
        address = f"file:{quote(str(self._path))}?mode=rw"
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS)) as connection:
                connection.execute("PRAGMA secure_delete = ON")
                gone = connection.execute(statement.text, statement.values).rowcount
                if keep:
                    connection.commit()
                return gone
        except sqlite3.Error as error:
            raise delete_error(sqlite_error(error)) from None
