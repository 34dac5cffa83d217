"""Rows into a table of a Supabase project, by PostgREST's bulk insert."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.joined import json_array
from otel_audit_exporter.sinks.accepted_size import AcceptedSize
from otel_audit_exporter.sinks.base import SinkError, not_stored, unproved
from otel_audit_exporter.sinks.known_rows import KnownRows
from otel_audit_exporter.sinks.sqlstate_rules import UNIQUE_VIOLATION
from otel_audit_exporter.sinks.supabase.id_lookup import (
    Row,
    all_rows_in,
    are_others,
    found_of,
    ids_of,
    questions,
    quoted_list,
    rows_in,
    total_in,
)
from otel_audit_exporter.sinks.supabase.refusals import another_answer
from otel_audit_exporter.sinks.supabase.rest_client import RestAnswer, RestClient, RestRequests
from otel_audit_exporter.sinks.supabase.token import Token
from otel_audit_exporter.sinks.verdict import Fault

if TYPE_CHECKING:
    import httpx

_IGNORE_KNOWN: Final = "resolution=ignore-duplicates,"
_NOT_ALLOWED: Final = "42501"
_ANSWER_BYTES: Final = 64 * 1024
_COMPARED_BYTES: Final = 8 * 2**20  # rows that are more than this together are found by their ids alone


@dataclass(frozen=True)
class _Taken:
    """How many rows the table took; ``in_doubt``: it may be the count of other rows."""

    count: int
    in_doubt: bool = False


class SupabaseSink:
    """Insert rows through PostgREST; a row whose key is known is ignored.

    An answer is believed where it says which request it is to (:mod:`binding`), or names the rows. PostgREST says how
    many rows the table took. Where they are fewer than it was given, it is asked which of them the table has. A row
    that is not there is refused, and one that is there with other content is logged and counted in ``known_rows``.

    ``url``: the project's address. ``key``: any of its keys (``apikey`` header). ``token``: the token of a
    lesser role, or a callable that gives one, called once per insert in a thread of its own (it should be quick,
    and cache). ``columns``: those that every row has. ``key_columns``: what a unique constraint of the
    table is on, ``id_column`` that of them which is a row's id (the first). ``compared_columns``: those in which a row
    whose id is there should equal the one in the table. Proxies come from the environment. Raises ``ValueError`` for
    what cannot work.
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
        compared_columns: Collection[str] | None = None,
    ) -> None:
        self._rest = RestClient(url, key, token=token, schema=schema)
        self._table = table
        written = {"columns": quoted_list(columns)}
        self._plain_address = self._rest.address(table, written)
        self._address = self._rest.address(table, {"on_conflict": quoted_list(key_columns), **written})
        self._id_column = id_column or key_columns[0]
        self._quoted_id = quoted_list([self._id_column])
        self.known_rows = KnownRows(columns, compared_columns)
        self._size = AcceptedSize()
        self._may_read = True
        self._short_answers_prove = (
            False  # until one answer does: PostgREST 12 and later, where nothing on the way cuts it
        )

    @property
    def target(self) -> str:
        return f"{self._rest.url} {self._rest.schema}.{self._table}"

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Store every row whose key is not there yet, in one request and one transaction."""
        if not rows:
            return
        with self._rest.requests(deadline) as requests:
            taken = self._insert(requests, rows)
            if taken.count < len(rows):
                self._look_for(requests, rows, taken)

    def use_key(self, key: str) -> None:
        """Ask with another key from now on."""
        self._rest.use_key(key)

    def close(self) -> None:
        """Close every connection; a later insert opens a new one."""
        self._rest.close()

    def renew_after_fork(self) -> None:
        """Forget the parent's connections, which stay referenced so that nothing closes them."""
        self._rest.renew_after_fork()

    def __repr__(self) -> str:
        return f"<SupabaseSink {self.target}>"

    def _insert(self, requests: RestRequests, rows: Sequence[bytes], prefer: str = _IGNORE_KNOWN) -> _Taken:
        """Insert rows; say how many of them the table took, as the answer proves it."""
        refused = None
        if not self._short_answers_prove:
            try:
                return self._insert_by_ids(requests, rows, prefer)
            except SinkError as error:
                if error.code != _NOT_ALLOWED:
                    raise
                refused = error  # perhaps for the ids in the answer alone
        answer = self._post(requests, self._where(prefer), f"{prefer}return=minimal,count=exact", rows)
        taken = total_in(answer.headers.get("content-range", ""))
        self._short_answers_prove = answer.proved
        if answer.proved:  # where the answer has no count, all rows are taken as stored
            return _Taken(len(rows) if taken is None else taken)
        if refused is not None:
            raise refused
        return self._insert_by_ids(requests, rows, prefer)

    def _where(self, prefer: str) -> httpx.URL:
        return self._address if prefer else self._plain_address

    def _insert_by_ids(self, requests: RestRequests, rows: Sequence[bytes], prefer: str) -> _Taken:
        """Insert rows where the answer may not repeat the preferences: the ids in it are the proof."""
        address = self._where(prefer).copy_merge_params({"select": self._quoted_id})
        answer = self._post(requests, address, f"{prefer}return=representation,count=exact", rows)
        self._short_answers_prove = answer.proved
        taken = rows_in(answer.body, self._id_column)
        if taken is None or are_others(taken, ids_of(rows, self._id_column), self._id_column):
            if answer.fresh:
                raise another_answer()
            return self._insert_by_ids(requests, rows, prefer)  # on another connection
        if taken:  # an empty list may be the answer to any request
            requests.trust()
        return _Taken(len(taken), in_doubt=not (answer.proved or answer.fresh))

    def _post(self, requests: RestRequests, address: httpx.URL, prefer: str, rows: Sequence[bytes]) -> RestAnswer:
        headers = {"Content-Profile": self._rest.schema, "Content-Type": "application/json", "Prefer": prefer}
        body = json_array(rows)
        answer = requests.ask("POST", address, headers, body, max_bytes=_ANSWER_BYTES + len(body))
        if not answer.stored:
            raise self._size.judged(answer.refusal(), len(rows), len(body))
        if answer.proved:
            self._size.note(len(body))
        return answer

    def _look_for(self, requests: RestRequests, rows: Sequence[bytes], taken: _Taken) -> None:
        """See whether the rows that the table did not take just now are those that it had already."""
        there: list[int] = []
        try:
            self._look_up(requests, rows, there)
        except SinkError as error:
            if error.verdict.fault is Fault.TRANSIENT:
                raise unproved(error, there) from None
            if taken.in_doubt:
                raise another_answer() from None
            return  # who may not look has to believe the table
        if len(there) == len(rows) or (len(rows) == 1 and self._is_known(requests, rows)):
            return
        raise another_answer(there) if taken.in_doubt else not_stored(there)

    def _look_up(self, requests: RestRequests, rows: Sequence[bytes], there: list[int]) -> None:
        """Put the places of the rows that are there into ``there``; where the role may read them, compare them."""
        ids = ids_of(rows, self._id_column)
        compares = self._may_read and sum(map(len, rows)) <= _COMPARED_BYTES
        try:
            for place, found in self._find(requests, ids, self.known_rows.columns if compares else ()):
                there.append(place)
                self.known_rows.compare(self.target, loads_exact(rows[place]), found)
        except SinkError as error:
            if error.code != _NOT_ALLOWED or not compares:
                raise
            self._may_read = False
            self._look_up(requests, rows, there)

    def _find(self, requests: RestRequests, ids: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
        """Give the places of the ids that are there, each with these columns of its row."""
        headers = {"Accept-Profile": self._rest.schema, "Prefer": "count=exact"}
        wanted = list(dict.fromkeys([self._id_column, *columns]))
        for places, query in questions(ids, self._id_column, wanted):
            answer = requests.ask("GET", self._address.copy_with(query=query), headers, max_bytes=math.inf)
            rows = all_rows_in(answer.body, answer.headers.get("content-range", ""), self._id_column)
            if answer.status != 200 or rows is None:
                raise answer.refusal()
            asked = [ids[place] for place in places]
            if not answer.proved:
                if are_others(rows, asked, self._id_column) or not (rows or answer.fresh):
                    raise another_answer()
                requests.trust()
            found = found_of(asked, rows, self._id_column)
            yield from ((place, row) for place, row in zip(places, found, strict=True) if row is not None)

    def _is_known(self, requests: RestRequests, rows: Sequence[bytes]) -> bool:
        """Find out, by an insert that ignores nothing, whether there is a row that the role does not see."""
        try:
            return self._insert(requests, rows, prefer="").count != 0
        except SinkError as error:
            if error.code == UNIQUE_VIOLATION:
                return True
            raise
