"""Rows of the embedded table."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.sql_names import quoted
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.table.readers.base import Order
from otel_audit_exporter.table.readers.columns import Place
from otel_audit_exporter.table.readers.conditions import Condition
from otel_audit_exporter.table.readers.sql import Statement, column_of, path_of, select_count, select_rows

_NO_RIGHT: Final = Verdict(Fault.CONFIGURATION, "give this user the right to read the file and to search its directory")


class SQLiteDialect:
    """What SQLite says its own way."""

    holder = "?"

    def place(self, place: Place) -> str:
        column = quoted(column_of(place))
        if not path_of(place):
            return column
        path = "$" + "".join(f'."{name}"' for name in path_of(place))
        return f"(case when json_valid({column}) then json_extract({column}, '{path}') end)"

    def distinct(self, place: str) -> str:
        return f"{place} is not ?"

    def prefix(self, place: str) -> str:
        return f"instr({place}, ?) = 1"

    def prefix_value(self, text: str) -> str:
        return text

    def contains(self, place: str) -> str:
        return f"instr({place}, ?) > 0"

    def contains_value(self, text: str) -> str:
        return text


class SQLiteSource:
    """Reads the embedded table, without changing the file."""

    json_is_text = True
    dialect = SQLiteDialect()

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.path).absolute()
        self._table = quoted(settings.table)

    def rows(
        self, known: Sequence[str], conditions: Sequence[Condition], order: Order, limit: int
    ) -> list[Mapping[str, Any]]:
        """Return the next rows, with every column."""
        return self._run(select_rows(self.dialect, "*", self._table, conditions, order, limit))

    def count(self, conditions: Sequence[Condition], order: Order, most: int) -> int:
        """Return how many rows there are, or one more than ``most``."""
        (counted,) = self._run(select_count(self.dialect, self._table, conditions, most))[0].values()
        return int(counted)

    def searchable(self) -> bool:
        """Return False: there is no index for searching in values."""
        return False

    def close(self) -> None:
        """Nothing stays open."""

    def _run(self, statement: Statement) -> list[Mapping[str, Any]]:
        from otel_audit_exporter.sinks.sqlite import classify_sqlite

        self._check_file()
        try:
            with closing(sqlite3.connect(f"file:{quote(str(self._path))}?mode=ro", uri=True, timeout=10)) as connection:
                cursor = connection.execute(statement.text, statement.values)
                names = [column[0] for column in cursor.description]
                return [dict(zip(names, row, strict=True)) for row in cursor]
        except sqlite3.Error as error:
            raise SinkError(classify_sqlite(error), f"the file cannot be read: {error}") from None

    def _check_file(self) -> None:
        try:
            self._path.stat()
        except FileNotFoundError:
            raise AuditConfigurationError(f"{self._path} is not there (OTEL_AUDIT_SQLITE_PATH)") from None
        except OSError as error:
            raise SinkError(_NO_RIGHT, f"the file cannot be read: {error.strerror}") from None
        if not os.access(self._path, os.R_OK):
            raise SinkError(_NO_RIGHT, "this user may not read the file")
