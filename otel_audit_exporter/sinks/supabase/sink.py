"""Rows into a table of a Supabase project, by PostgREST's bulk insert."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from otel_audit_exporter.event.joined import json_array
from otel_audit_exporter.sinks.base import SinkError, not_stored, unproved
from otel_audit_exporter.sinks.sqlstate_rules import UNIQUE_VIOLATION
from otel_audit_exporter.sinks.supabase.id_lookup import found_in, ids_of, questions, quoted_list, total_in
from otel_audit_exporter.sinks.supabase.rest_client import RestClient, RestRequests
from otel_audit_exporter.sinks.supabase.token import Token
from otel_audit_exporter.sinks.verdict import Fault

if TYPE_CHECKING:
    import httpx

_PREFER: Final = "resolution=ignore-duplicates,return=minimal,count=exact"
_PREFER_PLAIN: Final = "return=minimal,count=exact"


class SupabaseSink:
    """Insert rows through PostgREST; a row whose key is known is ignored.

    PostgREST says how many rows the table took. Where they are fewer than it was given, it is asked which of their
    ids the table has, and a row that is not there is refused.

    ``url``: the project's address. ``key``: any of its keys (``apikey`` header). ``token``: the token of a
    lesser role, or a callable that gives one, called once per insert in a thread of its own (it should be quick,
    and cache). ``columns``: those that every row has. ``key_columns``: what a unique constraint of the
    table is on, ``id_column`` that of them which is a row's id (the first). Proxies come from the environment.
    Raises ``ValueError`` for what cannot work.
    """

    name = "supabase"

    def __init__(
        self,
        url: str,
        key: str,
        *,
        token: Token | None = None,
        table: str = "pms_audit_log",
        schema: str = "public",
        columns: Sequence[str],
        key_columns: Sequence[str] = ("id",),
        id_column: str | None = None,
    ) -> None:
        self._rest = RestClient(url, key, token=token, schema=schema)
        self._table = table
        written = {"columns": quoted_list(columns)}
        self._plain_address = self._rest.address(table, written)
        self._address = self._rest.address(table, {"on_conflict": quoted_list(key_columns), **written})
        self._id_column = id_column or key_columns[0]

    @property
    def target(self) -> str:
        return f"{self._rest.url} {self._rest.schema}.{self._table}"

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Store every row whose key is not there yet, in one request and one transaction."""
        if not rows:
            return
        with self._rest.requests(deadline) as requests:
            inserted = self._insert(requests, self._address, _PREFER, rows)
            if inserted is not None and inserted < len(rows):
                self._look_for(requests, rows)

    def close(self) -> None:
        """Close every connection; a later insert opens a new one."""
        self._rest.close()

    def renew_after_fork(self) -> None:
        """Forget the parent's connections, which stay referenced so that nothing closes them."""
        self._rest.renew_after_fork()

    def __repr__(self) -> str:
        return f"<SupabaseSink {self.target}>"

    def _insert(self, requests: RestRequests, address: httpx.URL, prefer: str, rows: Sequence[bytes]) -> int | None:
        """Insert rows; return how many of them the table took, where that is said."""
        headers = {"Content-Profile": self._rest.schema, "Content-Type": "application/json", "Prefer": prefer}
        answer = requests.ask("POST", address, headers, json_array(rows))
        if not answer.stored:
            raise answer.refusal()
        return total_in(answer.headers.get("content-range", ""))

    def _look_for(self, requests: RestRequests, rows: Sequence[bytes]) -> None:
        """See whether the rows that the table did not take just now are those that it had already."""
        there: list[int] = []
        try:
            for places, found in self._look_up(requests, ids_of(rows, self._id_column)):
                there.extend(place for place, is_there in zip(places, found, strict=True) if is_there)
        except SinkError as error:
            if error.verdict.fault is Fault.TRANSIENT:
                raise unproved(error, there) from None
            return  # who may not look has to believe the table
        if len(there) < len(rows) and not (len(rows) == 1 and self._is_known(requests, rows)):
            raise not_stored(there)

    def _look_up(self, requests: RestRequests, ids: Sequence[str]) -> Iterator[tuple[range, list[bool]]]:
        headers = {"Accept-Profile": self._rest.schema, "Prefer": "count=exact"}
        for places, query in questions(ids, self._id_column):
            answer = requests.ask("GET", self._address.copy_with(query=query), headers)
            asked = [ids[place] for place in places]
            found = found_in(answer.body, answer.headers.get("content-range", ""), asked, self._id_column)
            if answer.status != 200 or found is None:
                raise answer.refusal()
            yield places, found

    def _is_known(self, requests: RestRequests, rows: Sequence[bytes]) -> bool:
        """Tell by an insert that ignores nothing whether a row is there that the role does not see."""
        try:
            return self._insert(requests, self._plain_address, _PREFER_PLAIN, rows) != 0
        except SinkError as error:
            if error.code == UNIQUE_VIOLATION:
                return True
            raise
