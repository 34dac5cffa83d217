"""The embedded table: its description by SQLite, and an insert that is rolled back."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault
from otel_audit_exporter.table.catalogs.base import note_refusal
from otel_audit_exporter.table.compatibility import CheckReport, Column, ColumnMapping, TableDescription
from otel_audit_exporter.table.defaults import COMPUTED, constant_of
from otel_audit_exporter.table.mapping import TableMapping

_SQLITE_GENERATED: Final = (2, 3)
_SQLITE_SECONDS: Final = 10.0


class SQLiteTable:
    """The embedded table, which is made on first use where it is missing."""

    finds_key = False
    untold = ""

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.path).absolute()
        self._table = settings.table
        self._there = False
        self.target = f"{self._path} {settings.table}"

    def describe(self) -> TableDescription | None:
        """Return the description from SQLite."""
        if not self._path.exists():
            return None
        try:
            with closing(sqlite3.connect(f"file:{quote(str(self._path))}?mode=ro", uri=True)) as connection:
                return self._read(connection)
        except sqlite3.Error as error:
            from otel_audit_exporter.sinks.sqlite import classify_sqlite

            raise SinkError(classify_sqlite(error), "the file cannot be read as a SQLite database") from None

    def try_insert(self, fit: ColumnMapping, row: bytes) -> CheckReport:
        """Look whether file and directory can be written to; into a table that is there insert, and roll back."""
        findings = CheckReport()
        for place in (self._path.parent, self._path):
            made_on_use = place == self._path and not place.exists()
            if not made_on_use and not os.access(place, os.W_OK):
                findings.faults.append(f"{place} cannot be written to by this process, or is not there")
        if self._there and not findings.faults:
            self._insert_and_roll_back(fit, row, findings)
        return findings

    def read_row(self, column: str, record_id: str) -> dict[str, Any] | None:
        """Read the row by its id."""
        table, key = (name.replace('"', '""') for name in (self._table, column))
        with closing(sqlite3.connect(f"file:{quote(str(self._path))}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            query = f'SELECT * FROM "{table}" WHERE "{key}" = ?'  # noqa: S608  # quoted names
            found = connection.execute(query, [record_id]).fetchone()
        return None if found is None else dict(found)

    def _insert_and_roll_back(self, fit: ColumnMapping, row: bytes, findings: CheckReport) -> None:
        from otel_audit_exporter.sinks.sqlite import SQLiteSink

        mapping = TableMapping(fit.columns, fit.defaults, "drop")
        sink = SQLiteSink(
            self._path,
            table=self._table,
            columns=mapping.columns,
            key_columns=fit.key_columns or (fit.id_column,),
            json_columns=mapping.json_columns,
        )
        with closing(sink):
            try:
                if not sink.try_insert(row, Clock.monotonic() + _SQLITE_SECONDS):
                    findings.faults.append("a trigger of the table drops the row")
            except SinkError as error:
                if error.verdict.fault is Fault.TRANSIENT:
                    raise
                note_refusal(error.verdict, str(error), error.code, findings)

    def _read(self, connection: sqlite3.Connection) -> TableDescription | None:
        described = connection.execute(
            'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)', [self._table]
        )
        rows = described.fetchall()
        if not rows:
            return None
        self._there = True
        listed = connection.execute("SELECT strict FROM pragma_table_list(?) WHERE type = 'table'", [self._table])
        strict = any(one for (one,) in listed)
        primary = tuple(name for name, *_, pk, _ in sorted(rows, key=lambda row: row[4]) if pk)
        columns = []
        for name, type_, not_null, default, pk, hidden in rows:
            rowid = bool(pk) and len(primary) == 1 and type_.upper() == "INTEGER"
            columns.append(
                Column(
                    name,
                    type_.lower() or "any",
                    bool(not_null),
                    default is not None or rowid or hidden in _SQLITE_GENERATED,
                    hidden in _SQLITE_GENERATED,
                    default=constant_of(default, type_.lower()) if default is not None else COMPUTED,
                    any_type=not rowid and not (strict and type_.upper() != "ANY"),
                )
            )
        return TableDescription(columns, [key for key in (primary, *self._unique(connection)) if key])

    def _unique(self, connection: sqlite3.Connection) -> Iterator[tuple[str, ...]]:
        query = "SELECT name FROM pragma_index_list(?) WHERE \"unique\" AND NOT partial AND origin <> 'pk'"
        for (index,) in connection.execute(query, [self._table]).fetchall():
            names = [
                name for (name,) in connection.execute("SELECT name FROM pragma_index_info(?) ORDER BY seqno", [index])
            ]
            if all(names):
                yield tuple(names)
