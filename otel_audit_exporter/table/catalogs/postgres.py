"""The table over a direct connection: the catalogue, and a transaction that is rolled back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import orjson

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.sql_names import for_psycopg, quoted
from otel_audit_exporter.sinks.sqlstate_rules import classify_sqlstate, describe_sqlstate
from otel_audit_exporter.table.catalogs.base import no_such_table, note_refusal
from otel_audit_exporter.table.compatibility import CheckReport, Column, ColumnMapping, TableDescription
from otel_audit_exporter.table.defaults import COMPUTED, constant_of
from otel_audit_exporter.table.mapping import TableMapping

if TYPE_CHECKING:
    import psycopg

_TEXT: Final = re.compile(r"'((?:[^']|'')*)'")
_LISTED: Final = re.compile(
    r"CHECK \(\((?:\(?\"?\w+\"?\)?(?:::text)?) = "
    r"(?:ANY \(\(?ARRAY\[(.*?)\]\)?(?:::text\[\])?\)|('(?:[^']|'')*'::\w+))\)\)"
)
_SQL: Final = files("otel_audit_exporter.table").joinpath("sql", "describe_for_check.sql")


def _column(one: dict[str, Any]) -> Column:
    allowed = next(filter(None, map(_listed_values, one["checks"] or ())), ())
    return Column(
        one["name"],
        one["type"],
        one["not_null"],
        one["filled"],
        one["generated"],
        labels=tuple(one["labels"] or ()) or allowed,
        checked=bool(allowed),
        default=constant_of(one["default"], one["type"]) if one["default"] else COMPUTED,
        references=one["references"],
    )


def _listed_values(check: str) -> tuple[str, ...]:
    """Return the texts that a CHECK lists; none where it is any other check."""
    found = _LISTED.fullmatch(check)
    return tuple(text.replace("''", "'") for text in _TEXT.findall(found[1] or found[2])) if found else ()


class PostgresTable:
    """The table over a direct connection: the catalogue, and a transaction that is rolled back."""

    finds_key = True
    untold = ""

    def __init__(self, settings: Settings) -> None:
        from otel_audit_exporter.sinks.postgres.dsn import read_dsn
        from otel_audit_exporter.sinks.postgres.sink import PostgresSink

        self._parameters = read_dsn(settings.dsn or "")
        self._schema, self._table = settings.schema, settings.table
        self.target = PostgresSink(settings.dsn or "", table=settings.table, schema=settings.schema, columns=()).target
        self._known: dict[str, Any] = {}

    def describe(self) -> TableDescription:
        """Return the description from the catalogue."""
        with self._connected() as connection:
            found = connection.execute(_SQL.read_text(encoding="utf-8"), [self._schema, self._table]).fetchone()
            if found is None:
                raise self._no_table(connection)
        self._known = orjson.loads(found[0])
        columns = [_column(one) for one in self._known["columns"]]
        return TableDescription(columns, [tuple(key) for key in self._known["keys"]])

    def try_insert(self, fit: ColumnMapping, row: bytes) -> CheckReport:
        """Look at privileges and policies, then insert and roll back."""
        findings = CheckReport()
        self._missing_privileges(fit, findings)
        if not findings.faults:
            self._insert_and_roll_back(fit, row, findings)
        return findings

    def read_row(self, column: str, record_id: str) -> dict[str, Any] | None:
        """Read the row by its id, with the rights of the configured role."""
        schema, table, key = map(quoted, (self._schema, self._table, column))
        query = for_psycopg(f"select row_to_json(t)::text from {schema}.{table} t where {key}::text") + " = %s"  # noqa: S608  # quoted names
        with self._connected() as connection:
            found = connection.execute(query.encode(), [record_id]).fetchone()
        return None if found is None else orjson.loads(found[0])

    def _missing_privileges(self, fit: ColumnMapping, findings: CheckReport) -> None:
        known, role = self._known, self._known["role"]
        if not known["usage"]:
            findings.faults.append(f'role "{role}" lacks usage on schema "{self._schema}"')
        mapping = TableMapping(fit.columns, fit.defaults, "drop")
        lacking = [one["name"] for one in known["columns"] if one["name"] in mapping.columns and not one["insert"]]
        if lacking:
            findings.faults.append(f'role "{role}" lacks insert on {", ".join(lacking)}')
        keys = fit.key_columns or (fit.id_column,)
        unseen = [one["name"] for one in known["columns"] if one["name"] in keys and not one["select"]]
        if unseen:
            findings.faults.append(f'role "{role}" lacks select on {", ".join(unseen)}, which finds ids that are there')
        if known["secured"]:
            for command, letter in (("insert", "a"), ("select", "r")):
                if not {letter, "*"}.intersection(known["policies"]):
                    findings.faults.append(
                        f'row-level security refuses the row: no policy for {command} applies to role "{role}"'
                    )

    def _insert_and_roll_back(self, fit: ColumnMapping, row: bytes, findings: CheckReport) -> None:
        import psycopg

        from otel_audit_exporter.sinks.postgres.statements import Insert, ShapeError, TableShape

        mapping = TableMapping(fit.columns, fit.defaults, "drop")
        insert = Insert(
            self._schema, self._table, mapping.columns, fit.id_column, fit.key_columns, mapping.json_columns
        )
        shape = TableShape({one["name"]: one["type"] for one in self._known["columns"]}, self._known["keys"])
        try:
            statement = for_psycopg(insert.statement(shape, "\0")).replace("\0", "%s")
        except ShapeError as error:
            self._judge(error.code, error.message, findings)
            return
        with self._connected() as connection:
            try:
                connection.execute(statement.encode(), [f"[{row.decode()}]"])
                connection.execute("set constraints all immediate")
                if not self._is_there(connection, fit, row):
                    findings.faults.append("a trigger or rule of the table drops the row, or changes its id")
            except psycopg.Error as error:
                if error.sqlstate is None:
                    raise
                self._judge(error.sqlstate, error.diag.message_primary or "", findings)

    @staticmethod
    def _judge(code: str, message: str, findings: CheckReport) -> None:
        note_refusal(classify_sqlstate(code, message), f"{describe_sqlstate(code, message)} ({code})", code, findings)

    def _is_there(self, connection: psycopg.Connection[Any], fit: ColumnMapping, row: bytes) -> bool:
        schema, table, column = map(quoted, (self._schema, self._table, fit.id_column))
        query = for_psycopg(f"select exists (select from {schema}.{table} where {column}") + " = %s)"  # noqa: S608  # quoted names
        found = connection.execute(query.encode(), [orjson.loads(row)[fit.id_column]]).fetchone()
        return found is not None and bool(found[0])

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Any]]:
        """Open a connection whose work is rolled back; errors come as :class:`SinkError`."""
        from otel_audit_exporter.sinks.postgres.connection import open_session, server_errors

        with closing(open_session(self._parameters, autocommit=False)) as connection, server_errors():
            connection.execute("set local statement_timeout = '20s'; set local lock_timeout = '10s'")
            yield connection
            connection.rollback()

    def _no_table(self, connection: psycopg.Connection[Any]) -> SinkError:
        query = (
            "select n.nspname, c.relname from pg_catalog.pg_class c join pg_catalog.pg_namespace n"
            " on n.oid = c.relnamespace where c.relkind in ('r', 'p') and not c.relispartition"
            " and c.relname ~* 'audit|history|activity' and n.nspname !~ '^(pg_|information_schema$)'"
            " order by 1, 2 limit 5"
        )
        others = [f"{schema}.{table}" for schema, table in connection.execute(query)]
        return no_such_table(f"{self._schema}.{self._table}", others)
