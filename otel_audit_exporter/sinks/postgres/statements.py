"""The one statement that rows enter a PostgreSQL table by, made to fit the table as it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from otel_audit_exporter.sinks.sql_names import quoted, quoted_names

DESCRIBE_TABLE: Final = files(__package__).joinpath("describe_table.sql")


@dataclass(frozen=True)
class TableShape:
    """What a table has: the type of each column, and its unique keys, the shortest first.

    ``copy_indexes``: the index of each of the keys, where COPY does the same as an INSERT; else empty.
    """

    types: Mapping[str, str]
    keys: Sequence[Sequence[str]]
    copy_indexes: Sequence[int] = ()


@dataclass(frozen=True)
class Insert:
    """What is to be written: ``key_columns`` None looks for the shortest unique key that holds ``id_column``.

    ``compared_columns``: those in which a row whose key is known should equal the one that is there.
    """

    schema: str
    table: str
    columns: Sequence[str]
    id_column: str
    key_columns: Sequence[str] | None
    json_columns: Collection[str]
    compared_columns: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The table's name, as SQL has it."""
        return f"{quoted(self.schema)}.{quoted(self.table)}"

    def statement(self, shape: TableShape, document: str = "$1") -> str:
        """Return the insert of one JSON array of rows; a row whose key is known is ignored.

        ``document`` is the parameter's place. Raises :class:`ShapeError` where the table has no such column or key.
        """
        return f"{self.plain_statement(shape, document)} ON CONFLICT ({quoted_names(self.key(shape))}) DO NOTHING"

    def plain_statement(self, shape: TableShape, document: str = "$1") -> str:
        """Return the same insert, except that it refuses a row whose key is known."""
        columns = quoted_names(self.columns)
        recordset = self._recordset(shape, self.columns, document)
        return f"INSERT INTO {self.name} ({columns}) SELECT {columns} FROM {recordset}"  # noqa: S608  # quoted names

    def look_up(self, shape: TableShape, document: str = "$1") -> str:
        """Return the query for the places, from one on, of those rows in the array whose key the table has.

        A key with a null in it equals no other key. A row with such a key cannot be checked: it counts as there.
        """
        keys = self.key(shape)
        rows = self._recordset(shape, keys, document)
        equal = " AND ".join(f"t.{quoted(key)} = k{at}" for at, key in enumerate(keys))
        null = " OR ".join(f"k{at} IS NULL" for at, _ in enumerate(keys))
        aliases = ", ".join(f"k{at}" for at, _ in enumerate(keys))
        return (
            f"SELECT place FROM ROWS FROM ({rows}) WITH ORDINALITY AS r ({aliases}, place)"  # noqa: S608  # quoted
            f" WHERE {null} OR EXISTS (SELECT FROM {self.name} AS t WHERE {equal})"
        )

    def differences(self, shape: TableShape, document: str = "$1") -> str:
        """Return the query for those rows whose key the table has with other content.

        Each comes as a text: the places of the differing columns in ``compared_columns``, with commas between them.
        """
        keys = self.key(shape)
        compared = {at: name for at, name in enumerate(self.compared_columns) if name not in keys}
        rows = self._recordset(shape, [*keys, *compared.values()], document)
        aliases = ", ".join([*(f"k{at}" for at, _ in enumerate(keys)), *(f"c{at}" for at in compared)])
        equal = " AND ".join(f"t.{quoted(key)} = k{at}" for at, key in enumerate(keys))
        differ = {at: _differs(f"t.{quoted(name)}", f"c{at}", shape.types[name]) for at, name in compared.items()}
        places = ", ".join(f"CASE WHEN {condition} THEN {at} END" for at, condition in differ.items())
        return (
            f"SELECT concat_ws(',', {places}) FROM ROWS FROM ({rows}) AS r ({aliases})"  # noqa: S608  # quoted
            f" JOIN {self.name} AS t ON {equal} WHERE {' OR '.join(differ.values())}"
        )

    def differing_columns(self, places: str) -> list[str]:
        """Return the names of the columns that an answer to :meth:`differences` counts up."""
        return [self.compared_columns[int(at)] for at in places.split(",") if at]

    def _recordset(self, shape: TableShape, columns: Sequence[str], document: str) -> str:
        for column in self.columns:
            if column not in shape.types:
                raise ShapeError("42703", f'column "{column}" of relation "{self.table}" does not exist')
        # jsonb is the faster one; json keeps the text of a document as it was sent.
        types = shape.types
        texts = any(types[column] != "jsonb" for column in set(self.json_columns).intersection(self.columns))
        kind = "json" if texts or "json" in {types[column] for column in self.columns} else "jsonb"
        typed = ", ".join(f"{quoted(column)} {types[column]}" for column in columns)
        return f"pg_catalog.{kind}_to_recordset({document}::pg_catalog.{kind}) AS ({typed})"

    def key(self, shape: TableShape) -> Sequence[str]:
        """Return the columns of the unique key by which a row is known; raises :class:`ShapeError` without one."""
        if self.key_columns is not None:
            return self.key_columns
        for key in shape.keys:
            if self.id_column in key and set(key) <= set(self.columns):
                return key
        raise ShapeError("42P10", "")


class Statements:
    """The statements for a table of one shape. Raises :class:`ShapeError` where it cannot take the insert."""

    def __init__(self, insertion: Insert, shape: TableShape) -> None:
        self.insert: Final = insertion.statement(shape).encode()
        self._insertion = insertion
        self._shape = shape

    @property
    def plain_insert(self) -> bytes:
        """The insert that a known key has refused."""
        return self._insertion.plain_statement(self._shape).encode()

    @property
    def look_up(self) -> bytes:
        """The query for the rows that are there."""
        return self._insertion.look_up(self._shape).encode()

    @property
    def differences(self) -> bytes:
        """The query for the rows that are there with other content."""
        return self._insertion.differences(self._shape).encode()


class ShapeError(Exception):
    """Say that a table cannot take the insert, as the server would: its SQLSTATE and its words."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(code)


def _differs(there: str, sent: str, type_name: str) -> str:
    """Return the condition that two values of a column differ; not every type can be compared as it is."""
    cast = {"jsonb": "", "json": "::pg_catalog.jsonb"}.get(type_name, "::pg_catalog.text")
    return f"{there}{cast} IS DISTINCT FROM {sent}{cast}"
