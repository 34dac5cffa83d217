"""Large batches by COPY: half the work for the server, and all or nothing.

COPY cannot ignore keys that are known, and takes values otherwise than an INSERT in some columns. So it is used for
rows and tables where both surely store the same. Where COPY is refused for any reason, an INSERT of the same rows
decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import orjson

from otel_audit_exporter.event.joined import joined
from otel_audit_exporter.sinks.postgres.statements import Insert, TableShape
from otel_audit_exporter.sinks.sql_names import quoted_names

# The types whose input is the same text in both; that of a JSON string between its quotes, and of jsonb the JSON.
_TEXTS: Final = frozenset({"text", "uuid", "timestamp with time zone", "character varying"})
_DOCUMENT: Final = "jsonb"

TABLE_CHANGED: Final = "22012"
"""The SQLSTATE (division by zero) with which :attr:`Copy.commands` end where the table is not what it was."""

# The words of a text are no null, and nothing in it is written in one way in JSON and in another for COPY.
_NULL: Final = "null"
_TEXT_WITHOUT_ESCAPES: Final = rb'"(?!null")(.*)"'
_TEXT_OR_NULL: Final = rb'"?((?<=")(?!null")[^"\\\n]*(?=")|(?<=\n)null(?=\n))"?'


class Copy:
    """How rows are copied into a table of one shape."""

    def __init__(self, insert: Insert, shape: TableShape, index: int) -> None:
        columns = quoted_names(insert.columns)
        # Only the unique index keeps a row from being stored twice, and COPY knows no rules. Where the one has gone or
        # the others have come since the table was looked at, the division ends it all.
        self.commands: Final = (
            "SELECT 1 / count(*) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid"  # noqa: S608
            f" WHERE i.indexrelid = {index} AND i.indisvalid AND NOT c.relhasrules;"
            f" COPY {insert.name} ({columns}) FROM STDIN WITH (NULL '{_NULL}')"
        ).encode()
        self._quick = _pattern(insert.columns, shape, _TEXT_WITHOUT_ESCAPES)
        self._thorough = _pattern(insert.columns, shape, _TEXT_OR_NULL)

    def data(self, rows: Sequence[bytes]) -> bytes | None:
        """Return what is sent for these rows; None where COPY is not sure to store what an INSERT would."""
        text = joined(rows)
        values = self._quick.findall(text) if b"\\" not in text else []
        if len(values) != len(rows):
            values = self._thorough.findall(text.replace(b"\\", b"\\\\"))
        if len(values) != len(rows):
            return None
        return b"\n".join(map(b"\t".join, values)) + b"\n"


def copy_for(insert: Insert, shape: TableShape) -> Copy | None:
    """Return how rows are copied into a table; None where that may be another thing than to insert them."""
    indexes = dict(zip(map(frozenset, shape.keys), shape.copy_indexes, strict=False))
    index = indexes.get(frozenset(insert.key(shape)))
    types = {shape.types[column] for column in insert.columns}
    if index is None or len(insert.columns) < 2 or not types <= _TEXTS | {_DOCUMENT}:
        return None
    return Copy(insert, shape, index)


def _pattern(columns: Sequence[str], shape: TableShape, text: bytes) -> re.Pattern[bytes]:
    """Return what finds the values of a row, written with one value to a line (event/serialization.py)."""
    values = (
        re.escape(orjson.dumps(column)) + b":\n" + (b"(.*)" if shape.types[column] == _DOCUMENT else text)
        for column in columns
    )
    return re.compile(rb"\{" + b"\n,".join(values) + rb"\n\}")
