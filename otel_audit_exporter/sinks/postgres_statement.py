"""The one statement that rows enter a PostgreSQL table by, made to fit the table as it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

DESCRIBE_TABLE: Final = files(__package__).joinpath("sql", "describe_table.sql")


@dataclass(frozen=True)
class TableShape:
    """What a table has: the type of each column, and its unique keys, the shortest first."""

    types: Mapping[str, str]
    keys: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Insert:
    """What is to be written: ``key_columns`` None looks for the shortest unique key that holds ``id_column``."""

    schema: str
    table: str
    columns: Sequence[str]
    id_column: str
    key_columns: Sequence[str] | None
    json_columns: Collection[str]

    @property
    def name(self) -> str:
        """The table's name, as SQL has it."""
        return f"{quoted(self.schema)}.{quoted(self.table)}"

    def statement(self, shape: TableShape, document: str = "$1") -> str:
        """Return the insert of one JSON array of rows; a row whose key is known is ignored.

        ``document`` is the parameter's place. Raises :class:`ShapeError` where the table has no such column or key.
        """
        for column in self.columns:
            if column not in shape.types:
                raise ShapeError("42703", f'column "{column}" of relation "{self.table}" does not exist')
        # jsonb is the faster one; json keeps the text of a document as it was sent.
        types = shape.types
        texts = any(types[column] != "jsonb" for column in set(self.json_columns).intersection(self.columns))
        kind = "json" if texts or "json" in {types[column] for column in self.columns} else "jsonb"
        columns = ", ".join(quoted(column) for column in self.columns)
        typed = ", ".join(f"{quoted(column)} {types[column]}" for column in self.columns)
        arbiter = ", ".join(quoted(key) for key in self._key(shape))
        return (
            f"INSERT INTO {self.name} ({columns}) SELECT {columns}"  # noqa: S608  # quoted names
            f" FROM pg_catalog.{kind}_to_recordset({document}::pg_catalog.{kind}) AS r ({typed})"
            f" ON CONFLICT ({arbiter}) DO NOTHING"
        )

    def _key(self, shape: TableShape) -> Sequence[str]:
        if self.key_columns is not None:
            return self.key_columns
        for key in shape.keys:
            if self.id_column in key and set(key) <= set(self.columns):
                return key
        raise ShapeError("42P10", "")


class ShapeError(Exception):
    """Say that a table cannot take the insert, as the server would: its SQLSTATE and its words."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(code)


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'
