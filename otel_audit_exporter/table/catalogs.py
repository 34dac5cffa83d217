"""Where a table's description comes from, and a trial of the insert that leaves nothing behind: one per sink."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote

import orjson

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.sql_names import for_psycopg, quoted
from otel_audit_exporter.sinks.sqlstate_rules import classify_sqlstate, describe_sqlstate
from otel_audit_exporter.sinks.supabase.id_lookup import quoted_list
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.table.compatibility import CheckReport, Column, ColumnMapping, TableDescription
from otel_audit_exporter.table.mapping import TableMapping
from otel_audit_exporter.table.target import table_exporter

if TYPE_CHECKING:
    import psycopg

_SQL: Final = files(__package__).joinpath("sql", "describe_for_check.sql")
_NO_TABLE: Final = "42P01"
_GENERATED: Final = "428C9"
# A check or a trigger, which may let other events pass.
_OWN_RULES: Final = frozenset({"23514", "P0001", "SQLITE_CONSTRAINT_CHECK", "SQLITE_CONSTRAINT_TRIGGER"})
_SQLITE_GENERATED: Final = (2, 3)
_SQLITE_SECONDS: Final = 10.0


class TableCatalog(Protocol):
    """Looks at the table that one sink writes to. Each method raises :class:`SinkError` where it cannot."""

    target: str
    finds_key: bool

    def describe(self) -> TableDescription | None:
        """Return what the table has; None where that cannot be known, or the table is made on first use."""

    def try_insert(self, fit: ColumnMapping, row: bytes) -> CheckReport:
        """Say what an insert by these settings would be refused for, without leaving a row."""


def table_source(settings: Settings) -> TableCatalog:
    """Return the source for the first chosen exporter with a table.

    Raises :class:`AuditConfigurationError` where there is none, or its settings are missing or wrong.
    """
    name = table_exporter(settings)
    makers: dict[str, Callable[[Settings], TableCatalog]] = {
        "postgres": PostgresTable,
        "supabase": PostgrestTable,
        "sqlite": SQLiteTable,
    }
    try:
        return makers[name](settings)
    except (ValueError, ImportError) as error:
        raise AuditConfigurationError(f"exporter {name}: {error}") from None


def _judge(verdict: Verdict, said: str, code: str | None, findings: CheckReport) -> None:
    """Sort what a trial insert was refused for."""
    said = f"{said}: {verdict.remedy}" if verdict.remedy else said
    if verdict.foreign_key:
        findings.notes.append(f"a trial event was refused for its made-up ids: {said}; try with --yacht and --user")
    elif code in _OWN_RULES and verdict.fault is Fault.RECORD:
        findings.notes.append(f"a trial event was refused: {said}; see whether your own events pass")
    else:
        findings.faults.append(said)


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


class PostgresTable:
    """The table over a direct connection: the catalogue, and a transaction that is rolled back."""

    finds_key = True

    def __init__(self, settings: Settings) -> None:
        from otel_audit_exporter.sinks.postgres.dsn import read_dsn
        from otel_audit_exporter.sinks.postgres.sink import PostgresSink

        self._parameters = read_dsn(settings.dsn or "")
        self._schema, self._table = settings.schema, settings.table
        self.target = PostgresSink(settings.dsn or "", table=settings.table, schema=settings.schema, columns=()).target
        self._known: dict[str, Any] = {}

    def describe(self) -> TableDescription:
        """Return what the catalogue says."""
        with self._connected() as connection:
            found = connection.execute(_SQL.read_text(encoding="utf-8"), [self._schema, self._table]).fetchone()
            if found is None:
                raise self._no_table(connection)
        self._known = orjson.loads(found[0])
        columns = [
            Column(
                one["name"],
                one["type"],
                one["not_null"],
                one["filled"],
                one["generated"],
                labels=tuple(one["labels"] or ()),
            )
            for one in self._known["columns"]
        ]
        return TableDescription(columns, [tuple(key) for key in self._known["keys"]])

    def try_insert(self, fit: ColumnMapping, row: bytes) -> CheckReport:
        """Look at privileges and policies, then insert and roll back."""
        findings = CheckReport()
        self._missing_privileges(fit, findings)
        if not findings.faults:
            self._insert_and_roll_back(fit, row, findings)
        return findings

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
        _judge(classify_sqlstate(code, message), f"{describe_sqlstate(code, message)} ({code})", code, findings)

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
        return _no_such_table(f"{self._schema}.{self._table}", others)


def _no_such_table(name: str, others: Sequence[str]) -> SinkError:
    message = f'relation "{name}" does not exist'
    verdict = classify_sqlstate(_NO_TABLE, message)
    there = f" (there are: {', '.join(others)})" if others else ""
    said = Verdict(verdict.fault, verdict.remedy + there)
    return SinkError(said, describe_sqlstate(_NO_TABLE, message), code=_NO_TABLE)


# --- PostgREST ----------------------------------------------------------------------------------------------------


@dataclass
class _Trial:
    """Inserts that PostgREST cannot carry out, and what each is refused for where everything else is right."""

    parameters: dict[str, str]
    rows: bytes
    prefer: str
    expected: str | None


class PostgrestTable:
    """The table through PostgREST: its own description, and inserts that cannot succeed.

    PostgREST has no transaction to roll back (Supabase allows no ``Prefer: tx=rollback``). So what is tried is an
    insert of no row at all, which asks for table, columns, key and privileges; of one row twice, which its own key
    refuses when everything else has let it through; and of the row with one of nulls after it, which is refused when
    the key and the policy for select have let the first one through.
    """

    finds_key = False

    def __init__(self, settings: Settings) -> None:
        from otel_audit_exporter.sinks.supabase.rest_client import RestClient

        self._rest = RestClient(settings.url or "", settings.key or "", token=settings.token, schema=settings.schema)
        self._table = settings.table
        self._schema = settings.schema
        self.target = f"{settings.url} {settings.schema}.{settings.table}"
        self._facts: TableDescription | None = None

    def describe(self) -> TableDescription | None:
        """Return what PostgREST's OpenAPI description says; None where the server keeps it to itself."""
        try:
            described = self._rest.get("", accept="application/openapi+json, application/json")
        except SinkError as error:
            if error.code is None and error.status in (401, 403, 404, 406):
                self._require_table()
                return None
            raise
        definitions = described.get("definitions") if isinstance(described, dict) else None
        if not isinstance(definitions, dict):
            raise SinkError(
                Verdict(Fault.CONFIGURATION, "check that SUPABASE_URL is the project's own address"),
                "the answer is not PostgREST's",
            )
        if self._table not in definitions:
            raise self._not_described(definitions)
        self._facts = self._read(definitions[self._table])
        return self._facts

    def try_insert(self, fit: ColumnMapping, row: bytes) -> CheckReport:
        """Try inserts that cannot succeed."""
        findings = CheckReport()
        for trial in self._trials(fit, row):
            refusal = self._rest.insert(self._table, trial.parameters, trial.rows, trial.prefer)
            if refusal is None and trial.expected is not None:
                findings.faults.append("a trigger of the table drops rows or changes ids: a trial row may be stored")
            if refusal is not None and refusal.verdict.fault is Fault.TRANSIENT:
                raise refusal
            if refusal is not None and refusal.code != trial.expected:
                _judge(refusal.verdict, str(refusal), refusal.code, findings)
            if findings.faults or findings.notes:
                break
        return findings

    def _trials(self, fit: ColumnMapping, row: bytes) -> Iterator[_Trial]:
        columns = quoted_list(TableMapping(fit.columns, fit.defaults, "drop").columns)
        upsert = {"columns": columns, "on_conflict": quoted_list(fit.key_columns or (fit.id_column,))}
        ignoring = "resolution=ignore-duplicates,return=minimal,tx=rollback"
        yield _Trial(upsert, b"[]", ignoring, None)
        yield _Trial({"columns": columns}, b"[" + row + b"," + row + b"]", "return=minimal,tx=rollback", "23505")
        nulls = self._row_of_nulls(fit, row)
        if nulls:
            yield _Trial(upsert, b"[" + row + b"," + nulls + b"]", ignoring, "23502")

    def _row_of_nulls(self, fit: ColumnMapping, row: bytes) -> bytes | None:
        """Return the row with null wherever the table takes none, but for the yacht; None where that is too little."""
        required = {column.name for column in self._facts.columns if column.not_null} if self._facts else set()
        values = orjson.loads(row)
        nulls = [name for name in values if name in required and fit.columns.get(name) != "yacht_id"]
        return orjson.dumps(values | dict.fromkeys(nulls)) if fit.id_column in nulls and len(nulls) > 1 else None

    def _read(self, definition: dict[str, Any]) -> TableDescription:
        required = set(definition.get("required", ()))
        columns, primary = [], []
        for name, said in definition.get("properties", {}).items():
            type_ = str(said.get("format", "text"))
            if "maxLength" in said:
                type_ = f"{type_}({said['maxLength']})"
            # Sequences and identities are not described, so a number may be filled.
            filled = True if "default" in said else None if said.get("type") in ("integer", "number") else False
            labels = tuple(map(str, said.get("enum", ())))
            columns.append(Column(name, type_, name in required, filled, labels=labels))
            if "<pk/>" in str(said.get("description", "")):
                primary.append(name)
        keys = [tuple(primary)] if primary else []
        keys += [(column.name,) for column in columns if (column.name,) not in keys and self._is_unique(column)]
        return TableDescription([self._completed(column) for column in columns], keys)

    def _completed(self, column: Column) -> Column:
        """Ask whether a column is generated, which is not described."""
        if not column.not_null or column.filled:
            return column
        refusal = self._insert_nothing({"columns": quoted_list((column.name,))})
        generated = refusal is not None and refusal.code == _GENERATED
        return replace(column, filled=True, generated=True) if generated else column

    def _is_unique(self, column: Column) -> bool:
        """Ask whether a column that may be an id has a unique constraint, which is not described."""
        if column.type.partition("(")[0] not in ("uuid", "text", "character varying"):
            return False
        if not column.name.lower().endswith(("id", "uuid", "key")):
            return False
        name = quoted_list((column.name,))
        ignoring = "resolution=ignore-duplicates,return=minimal,tx=rollback"
        return self._insert_nothing({"columns": name, "on_conflict": name}, ignoring) is None

    def _insert_nothing(
        self, parameters: Mapping[str, str], prefer: str = "return=minimal,tx=rollback"
    ) -> SinkError | None:
        return self._rest.insert(self._table, parameters, b"[]", prefer)

    def _require_table(self) -> None:
        refusal = self._insert_nothing({})
        if refusal is not None:
            raise refusal

    def _not_described(self, definitions: dict[str, Any]) -> SinkError:
        """Say why a table is not described: it is not there, or the role has no right to it at all."""
        refusal = self._insert_nothing({})
        if refusal is not None and refusal.code == "42501":
            return refusal
        others = [
            name for name in definitions if any(word in name.lower() for word in ("audit", "history", "activity"))
        ]
        return _no_such_table(f"{self._schema}.{self._table}", others[:5])


# --- SQLite -------------------------------------------------------------------------------------------------------


class SQLiteTable:
    """The embedded table, which is made on first use where it is missing."""

    finds_key = False

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.path).absolute()
        self._table = settings.table
        self._there = False
        self.target = f"{self._path} {settings.table}"

    def describe(self) -> TableDescription | None:
        """Return what SQLite says."""
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
                if not sink.try_insert(row, time.monotonic() + _SQLITE_SECONDS):
                    findings.faults.append("a trigger of the table drops the row")
            except SinkError as error:
                if error.verdict.fault is Fault.TRANSIENT:
                    raise
                _judge(error.verdict, str(error), error.code, findings)

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
