"""The table through PostgREST: its own description, and inserts that cannot succeed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

import orjson

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.supabase.id_lookup import quoted_list
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.table.catalogs.base import no_such_table, note_refusal
from otel_audit_exporter.table.compatibility import CheckReport, Column, ColumnMapping, TableDescription
from otel_audit_exporter.table.defaults import COMPUTED, constant_of, described_constant
from otel_audit_exporter.table.mapping import TableMapping

_GENERATED: Final = "428C9"


def _constant(default: Any, type_: str) -> Any:
    """Return a default of the description as JSON has it; a text with a call in it is computed."""
    if not isinstance(default, str):
        return default
    if re.search(r"\w\(.*\)|^(?:now|current_\w+|localtime\w*)$", default, re.IGNORECASE):
        return COMPUTED
    if default[:1] == "'":
        return constant_of(default, type_)
    return described_constant(default.replace("''", "'"), type_)


def _may_be_filled(said: dict[str, Any], type_: str) -> bool:
    """Return whether a default may be there that is not described: sequences and identities, documents, arrays."""
    return said.get("type") in ("integer", "number", "array") or type_.startswith("json") or type_.endswith("[]")


def _referenced(note: str) -> str | None:
    found = re.search(r"<fk table='([^']*)' column='([^']*)'/>", note)
    return f"{found[1]} ({found[2]})" if found else None


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
    untold = (
        "PostgREST's description tells no CHECK constraints, triggers, policies, defaults of json and array columns, "
        "types of domains over domains, or keys but the primary one: unique columns were asked for one by one, of the "
        "rest only a trial event tells"
    )

    def __init__(self, settings: Settings) -> None:
        from otel_audit_exporter.sinks.supabase.rest_client import RestClient

        self._rest = RestClient(settings.url or "", settings.key or "", token=settings.token, schema=settings.schema)
        self._table = settings.table
        self._schema = settings.schema
        self.target = f"{settings.url} {settings.schema}.{settings.table}"
        self._facts: TableDescription | None = None

    def describe(self) -> TableDescription | None:
        """Return PostgREST's OpenAPI description of the table; None where the server does not give it."""
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
                note_refusal(refusal.verdict, str(refusal), refusal.code, findings)
            if findings.faults or findings.notes:
                break
        return findings

    def read_row(self, column: str, record_id: str) -> dict[str, Any] | None:
        """Read the row by its id, with the rights of the configured token."""
        rows = self._rest.get(quote(self._table, safe=""), {quoted_list((column,)): f"eq.{record_id}"})
        return rows[0] if rows else None

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
        """Return the row with null in each column that takes none, except the yacht; None where that is too little."""
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
            filled = True if "default" in said else None if _may_be_filled(said, type_) else False
            labels = tuple(map(str, said.get("enum", ())))
            note = str(said.get("description", ""))
            columns.append(
                Column(
                    name,
                    type_,
                    name in required,
                    filled,
                    labels=labels,
                    default=_constant(said["default"], type_) if "default" in said else COMPUTED,
                    references=_referenced(note),
                )
            )
            if "<pk/>" in note:
                primary.append(name)
        keys = [tuple(primary)] if primary else []
        keys += [(column.name,) for column in columns if (column.name,) not in keys and self._is_unique(column)]
        return TableDescription(self._completed(columns), keys)

    def _completed(self, columns: Sequence[Column]) -> Sequence[Column]:
        """Ask which columns are generated, which is not described: of all at once, and where any is, one by one."""
        if not self._is_any_generated(columns):
            return columns
        return [
            replace(column, filled=True, generated=True) if self._is_any_generated([column]) else column
            for column in columns
        ]

    def _is_any_generated(self, columns: Sequence[Column]) -> bool:
        refusal = self._insert_nothing({"columns": quoted_list([column.name for column in columns])})
        return refusal is not None and refusal.code == _GENERATED

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
        return no_such_table(f"{self._schema}.{self._table}", others[:5])
