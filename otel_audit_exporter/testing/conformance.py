"""What every sink keeps to, as a class of checks for pytest.

pytest is not needed to import this module, and the checks are plain methods that any runner may call.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, TypeVar

from otel_audit_exporter.delivery.bisect_insert import InsertOutcome, attempt
from otel_audit_exporter.event.audit_event import parse_json
from otel_audit_exporter.sinks.base import JSON_COLUMNS, Sink, SinkError
from otel_audit_exporter.sinks.verdict import Fault

Fields = dict[str, Any]
_Check = TypeVar("_Check", bound=Callable[..., None])

_VALUE: Final = "S3CRET-VALUE-OF-A-ROW"
_TEXTS: Final = (
    "plain",
    'it\'s "quoted" \\ 100 % {} $1 ?',
    "line\nline\r\n\ttab",
    "Zoë Ångström \u00fc \u0075\u0308",
    "\u65e5\u672c\u8a9e \u05e2\u05d1\u05e8\u05d9\u05ea \U0001f6a2\u200d\U0001f525 \u2028",
    "null",
    "2026-03-04",
    " spaces around ",
)
_DOCUMENTS: Final[tuple[Any, ...]] = (
    {},
    [],
    {"text": "x", "whole": 7, "zero": 0, "fraction": -2.5, "yes": True, "no": False, "nothing": None},
    {"nested": {"list": [1, [2, [3, {"deep": [{}, [], None, ""]}]]]}},
    {"Schlüssel \u65e5\u672c": 'a "quoted" \\ text\n', "": "empty key"},
    [1, "two", None, {"three": 3.25}],
    {"wide": 2**63 - 1, "wider": 2**70, "negative": -(2**70), "exact": 9007199254740993},
)
_LONG: Final = "0123456789 \u00fc \U0001f6a2 " * 6_000  # more than 100 kB
_THREADS: Final = 4

_NEEDS: Final[dict[str, str]] = {}


def _needs(offer: str) -> Callable[[_Check], _Check]:
    """Have a check collected only where the subclass defines the hook, or says the promise, ``offer``."""

    def note(check: _Check) -> _Check:
        _NEEDS[check.__name__] = offer
        return check

    return note


class SinkConformance:
    """Checks that a sink keeps to the contract on which delivery relies: subclass it in a test module.

    Give :meth:`sink` and :meth:`stored`; every check begins with an empty table. Each optional hook that is given
    (:meth:`bad_row`, :meth:`unreachable`, :meth:`misconfigured`, :meth:`reply_lost`) adds the checks that need it;
    without it they are not collected, so that nothing is skipped: :meth:`left_out` names them. What the hooks need
    is set up by an autouse fixture of the subclass, or by ``setup_method``::

        class TestMySink(SinkConformance):
            @pytest.fixture(autouse=True)
            def _database(self, tmp_path: Path) -> None:
                self.path = tmp_path / "rows.db"

            def sink(self) -> MySink:
                return MySink(self.path)

            def stored(self) -> list[dict[str, Any]]:
                return read_all(self.path)
    """

    secrets: Collection[str] = ()
    """Keys and passwords that the sink holds: no error, ``repr``, ``name`` or ``target`` may show them."""
    ignores_known_ids: ClassVar[bool] = True
    """False for a sink that cannot know what it has stored: then duplicates are not looked at."""
    survives_fork: ClassVar[bool] = False
    """True has the sink used in a forked child too, where there is fork."""
    id_column: ClassVar[str] = "id"
    """What makes a row the same row."""
    text_column: ClassVar[str] = "entity_type"
    """A column that takes any text."""
    json_column: ClassVar[str] = "new_values"
    """A column that takes any JSON document."""
    null_column: ClassVar[str] = "old_values"
    """A column that takes null."""
    json_columns: ClassVar[Collection[str]] = JSON_COLUMNS
    """The columns in which :meth:`stored` may give a JSON document as its text."""
    patience_seconds: ClassVar[float] = 20.0
    """The time within which a healthy sink stores anything here, and a mended one works again."""
    outage_seconds: ClassVar[float] = 2.0
    """The time that an insert is given while something is wrong."""
    grace_seconds: ClassVar[float] = 3.0
    """How long after its deadline an insert may still return."""

    _withheld: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        withheld = set()
        for name, offer in _NEEDS.items():
            if name in vars(cls):
                continue
            if not _offers(cls, offer):
                withheld.add(name)
                setattr(cls, name, None)
            elif name in cls._withheld:
                setattr(cls, name, vars(SinkConformance)[name])
        cls._withheld = frozenset(withheld)

    # What a subclass gives

    def sink(self) -> Sink:
        """Return a new, working sink; the check closes it."""
        raise NotImplementedError("give the sink to check")

    def stored(self) -> Sequence[Mapping[str, Any]]:
        """Return every row in the table, read by other means than the sink's.

        UUIDs and datetimes may be given as such.
        """
        raise NotImplementedError("give the rows in the table")

    def fields(self, **changes: Any) -> Fields:
        """Return a new row that the table takes, with an id of its own; by default of the nine default columns."""
        fields: Fields = {name: str(uuid.uuid4()) for name in (self.id_column, "yacht_id", "entity_id", "created_by")}
        fields |= {"entity_type": _VALUE, "action": "create", "created_at": "2026-03-04T05:06:07.123456+00:00"}
        return fields | {"old_values": None, "new_values": {"note": _VALUE}} | changes

    def encode(self, fields: Mapping[str, Any]) -> bytes:
        """Return a row as the sink is given it: by default a JSON object."""
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()

    def bad_row(self, row: Fields) -> Fields:
        """Return ``row``, made such that the sink refuses it as the record's own fault. Optional."""
        raise NotImplementedError

    def unreachable(self) -> AbstractContextManager[object]:
        """Have the sink's other side not answer, or not be there, for as long as this is open. Optional."""
        raise NotImplementedError

    def misconfigured(self) -> AbstractContextManager[object]:
        """Have a grant, a column, a key, ... missing for as long as this is open. Optional."""
        raise NotImplementedError

    def reply_lost(self) -> AbstractContextManager[object]:
        """Have every insert stored and its answer lost, for as long as this is open. Optional."""
        raise NotImplementedError

    @classmethod
    def checks(cls) -> list[str]:
        """Name the checks that are collected."""
        return [name for name in dir(cls) if name.startswith("test_") and getattr(cls, name) is not None]

    @classmethod
    def left_out(cls) -> dict[str, str]:
        """Name the checks that are not collected, each with the hook or promise that it waits for."""
        return {name: _NEEDS[name] for name in sorted(cls._withheld)}

    # What is stored

    def test_a_batch_is_stored_as_said(self) -> None:
        rows = [self.fields() for _ in range(25)]
        with self._opened() as sink:
            self._insert(sink, rows)
            self._holds(rows)

    def test_any_text_is_stored_as_said(self) -> None:
        rows = [self.fields(**{self.text_column: text}) for text in _TEXTS]
        with self._opened() as sink:
            self._insert(sink, rows)
            self._holds(rows)

    def test_any_document_is_stored_as_said_with_every_digit(self) -> None:
        rows = [self.fields(**{self.json_column: document}) for document in _DOCUMENTS]
        with self._opened() as sink:
            self._insert(sink, rows)
            self._holds(rows)

    def test_null_and_long_values_are_stored_as_said(self) -> None:
        null = self.fields(**{self.null_column: None})
        long = self.fields(**{self.text_column: _LONG, self.json_column: {"long": _LONG}})
        with self._opened() as sink:
            self._insert(sink, [null, long])
            self._holds([null, long])

    def test_an_empty_batch_stores_nothing(self) -> None:
        with self._opened() as sink:
            self._insert(sink, [])
            self._holds([])

    # Once

    @_needs("ignores_known_ids")
    def test_the_same_batch_twice_is_stored_once(self) -> None:
        rows = [self.fields() for _ in range(5)]
        with self._opened() as sink:
            self._insert(sink, rows)
            self._insert(sink, rows)
            self._holds(rows)

    @_needs("ignores_known_ids")
    def test_a_known_row_keeps_no_new_one_out(self) -> None:
        known, new = self.fields(), self.fields()
        with self._opened() as sink:
            self._insert(sink, [known])
            self._insert(sink, [known, new])
            self._holds([known, new])

    @_needs("ignores_known_ids")
    def test_a_row_that_is_twice_in_a_batch_is_stored_once(self) -> None:
        row, other = self.fields(), self.fields()
        with self._opened() as sink:
            self._insert(sink, [row, other, row])
            self._holds([row, other])

    @_needs("ignores_known_ids")
    def test_the_first_write_wins(self) -> None:
        first = self.fields()
        second = first | {self.text_column: "another", self.json_column: {"another": 1}}
        with self._opened() as sink:
            self._insert(sink, [first])
            self._insert(sink, [second])
            self._holds([first])

    # Rows at fault

    @_needs("bad_row")
    def test_a_bad_row_is_the_records_fault_and_its_batch_can_be_sent_again(self) -> None:
        good = [self.fields() for _ in range(4)]
        bad = self.bad_row(self.fields())
        with self._opened() as sink:
            error = self._refused(sink, [*good[:2], bad, *good[2:]])
            assert error.verdict.fault is Fault.RECORD, f"a bad row is called a fault of {error.verdict.fault}"
            if not self.ignores_known_ids:
                self._holds([])
            self._insert(sink, good)
            self._holds(good)

    @_needs("bad_row")
    def test_one_bad_row_of_a_hundred_is_found_and_the_others_are_delivered(self) -> None:
        good = [self.fields() for _ in range(99)]
        bad = self.bad_row(self.fields())
        with self._opened() as sink:
            result = self._delivered(sink, [*good[:61], bad, *good[61:]])
            assert [refused.item for refused in result.refused] == [bad], f"{len(result.refused)} rows are refused"
            assert not result.waiting, f"{len(result.waiting)} rows are neither stored nor refused"
            assert result.refused[0].error.verdict.fault is Fault.RECORD
            self._holds(good)

    # Trouble

    @_needs("unreachable")
    def test_a_sink_that_cannot_be_reached_says_so_in_time_and_works_again(self) -> None:
        before, during = self.fields(), self.fields()
        with self._opened() as sink:
            self._insert(sink, [before])
            with self.unreachable():
                error = self._refused(sink, [during], self.outage_seconds)
            fault = error.verdict.fault
            assert fault is Fault.TRANSIENT, f"an outage is called a fault of {fault}: {error}"
            self._works_again(sink, [before], during)

    @_needs("misconfigured")
    def test_a_wrong_configuration_is_called_that_and_the_sink_works_once_it_is_mended(self) -> None:
        before, during = self.fields(), self.fields()
        with self._opened() as sink:
            self._insert(sink, [before])
            with self.misconfigured():
                error = self._refused(sink, [during])
            fault = error.verdict.fault
            assert fault is Fault.CONFIGURATION, f"a wrong configuration is called a fault of {fault}: {error}"
            self._works_again(sink, [before], during)

    @_needs("reply_lost")
    def test_a_lost_reply_is_not_called_success_nor_surely_not_stored(self) -> None:
        before, during = self.fields(), self.fields()
        with self._opened() as sink:
            self._insert(sink, [before])
            with self.reply_lost():
                error = self._refused(sink, [during], self.outage_seconds)
            assert error.verdict.fault is Fault.TRANSIENT, f"a lost reply is called a fault of {error.verdict.fault}"
            assert error.verdict.perhaps_stored, f"the row may be stored, and the error says that it is not: {error}"
            if self.ignores_known_ids:
                self._works_again(sink, [before], during)

    def test_a_deadline_that_is_past_holds_nobody_up(self) -> None:
        row = self.fields()
        with self._opened() as sink:
            error = self._try(sink, [row], -1.0)
            if error is None:
                self._holds([row])
            else:
                assert error.verdict.fault is Fault.TRANSIENT, f"too late is called a fault of {error.verdict.fault}"

    # Threads, ends, forks

    def test_threads_lose_and_double_nothing(self) -> None:
        batches = [[self.fields() for _ in range(10)] for _ in range(_THREADS * 5)]
        with self._opened() as sink:
            self._insert_at_once(sink, [batches[at::_THREADS] for at in range(_THREADS)])
            self._holds([row for batch in batches for row in batch])

    @_needs("ignores_known_ids")
    def test_threads_with_the_same_rows_store_them_once(self) -> None:
        batches = [[self.fields() for _ in range(10)] for _ in range(5)]
        with self._opened() as sink:
            self._insert_at_once(sink, [batches] * _THREADS)
            self._holds([row for batch in batches for row in batch])

    def test_a_closed_sink_opens_again_or_says_that_it_is_closed(self) -> None:
        before, after = self.fields(), self.fields()
        with self._opened() as sink:
            self._insert(sink, [before])
            sink.close()
            sink.close()
            if self._try(sink, [after]) is None:
                self._holds([before, after])

    def test_name_target_and_repr_show_no_secret(self) -> None:
        with self._opened() as sink:
            assert isinstance(sink.name, str), "name is a string"
            assert sink.name, "name is not empty"
            assert isinstance(sink.target, str), "target is a string"
            self._shows_nothing(sink.name, sink.target, repr(sink))

    @_needs("survives_fork")
    def test_a_forked_child_and_its_parent_both_store_their_rows(self) -> None:
        before, of_child, of_parent = self.fields(), self.fields(), self.fields()
        with self._opened() as sink:
            self._insert(sink, [before])
            self._insert_in_child(sink, of_child)
            self._insert(sink, [of_parent])
            self._holds([before, of_child, of_parent])

    # How it is checked

    @contextmanager
    def _opened(self) -> Iterator[Sink]:
        left = len(self.stored())
        assert left == 0, f"the table holds {left} rows before the check begins"
        with closing(self.sink()) as sink:
            yield sink

    def _holds(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check that the table holds these rows as they were said, each once, and no others."""
        found = [self._plain(row) for row in self.stored()]
        said = {row[self.id_column]: self._plain(row) for row in rows}
        ids = [row[self.id_column] for row in found]
        lost, strange = said.keys() - set(ids), set(ids) - said.keys()
        assert not lost, f"{len(lost)} of {len(said)} rows are lost"
        assert not strange, f"{len(strange)} rows are stored that should not be"
        assert len(ids) == len(said), f"{len(ids)} rows are stored for {len(said)} ids"
        for row in found:
            self._is_as_said(said[row[self.id_column]], row)

    def _is_as_said(self, said: Fields, found: Fields) -> None:
        assert not said.keys() - found.keys(), f"columns are lost: {sorted(said.keys() - found.keys())}"
        for column, value in said.items():
            same = _canonical(value) == _canonical(found[column])
            assert same, f"{column}: {_short(value)} was said, {_short(found[column])} is stored"

    def _plain(self, row: Mapping[str, Any]) -> Fields:
        return {column: _plain(value, column in self.json_columns) for column, value in row.items()}

    def _insert(self, sink: Sink, rows: Sequence[Fields]) -> None:
        error = self._try(sink, rows)
        assert error is None, f"insert() failed: {error}"

    def _refused(self, sink: Sink, rows: Sequence[Fields], seconds: float | None = None) -> SinkError:
        error = self._try(sink, rows, seconds)
        assert error is not None, "insert() returned as if the rows were stored, and should have raised SinkError"
        return error

    def _try(self, sink: Sink, rows: Sequence[Fields], seconds: float | None = None) -> SinkError | None:
        """Insert; return the error, which has to be a :class:`SinkError` that shows nothing."""
        given = self.patience_seconds if seconds is None else seconds
        bodies = [self.encode(row) for row in rows]
        [error] = self._at_once([lambda: sink.insert(bodies, time.monotonic() + given)], given)
        if error is None:
            return None
        if not isinstance(error, SinkError):
            raise AssertionError(f"insert() raised {type(error).__name__}, not SinkError") from error
        said = "".join(traceback.format_exception(error))
        self._shows_nothing(said, repr(error), error.verdict.remedy, error.code or "", repr(sink))
        return error

    def _shows_nothing(self, *said: str) -> None:
        for text in said:
            assert _VALUE not in text, "an error shows what a row holds"
            assert not any(secret and secret in text for secret in self.secrets), "a secret is shown"

    def _works_again(self, sink: Sink, before: Sequence[Fields], row: Fields) -> None:
        """Check that a row whose insert failed gets stored by the same sink, once."""
        end = time.monotonic() + self.patience_seconds
        while (error := self._try(sink, [row])) is not None and time.monotonic() < end:
            time.sleep(0.1)
        assert error is None, f"the sink does not work again: {error}"
        if self.ignores_known_ids:
            self._holds([*before, row])

    def _delivered(self, sink: Sink, rows: Sequence[Fields]) -> InsertOutcome[Fields]:
        """Deliver rows as the library does it."""
        results: list[InsertOutcome[Fields]] = []
        told: list[Fields] = []

        def deliver() -> None:
            end = time.monotonic() + self.patience_seconds
            results.append(attempt(sink, rows, self._encoded, end, told.extend))

        [error] = self._at_once([deliver], self.patience_seconds)
        if error is not None:
            raise AssertionError(f"delivery raised {type(error).__name__}") from error
        assert told == results[0].stored
        return results[0]

    def _encoded(self, rows: Sequence[Fields]) -> list[bytes]:
        return [self.encode(row) for row in rows]

    def _insert_at_once(self, sink: Sink, shares: Sequence[Sequence[Sequence[Fields]]]) -> None:
        """Insert batches, every share of them in a thread of its own."""
        end = time.monotonic() + self.patience_seconds

        def insert(batches: Sequence[Sequence[Fields]]) -> None:
            for batch in batches:
                sink.insert([self.encode(row) for row in batch], end)

        works = [lambda share=share: insert(share) for share in shares]
        for error in self._at_once(works, self.patience_seconds):
            if error is not None:
                raise AssertionError(f"insert() raised {type(error).__name__} in a thread") from error

    def _at_once(self, works: Sequence[Callable[[], None]], seconds: float) -> list[BaseException | None]:
        """Run every piece of work in a thread; return what each raised. Who is late is not waited for."""
        outcomes: list[BaseException | None] = []

        def run(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:
                outcomes.append(error)
            else:
                outcomes.append(None)

        threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
        for thread in threads:
            thread.start()
        end = time.monotonic() + max(seconds, 0.0) + self.grace_seconds
        for thread in threads:
            thread.join(max(end - time.monotonic(), 0.0))
        assert len(outcomes) == len(works), f"insert() still runs {self.grace_seconds} s after its deadline"
        return outcomes

    def _insert_in_child(self, sink: Sink, row: Fields) -> None:
        body = self.encode(row)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: the process has threads
            pid = os.fork()
        if pid == 0:
            try:
                sink.renew_after_fork()
                sink.insert([body], time.monotonic() + self.patience_seconds)
                os._exit(0)
            finally:
                os._exit(1)
        code = _exit_code(pid, self.patience_seconds + self.grace_seconds)
        assert code is not None, "insert() hangs in a forked child"
        assert code == 0, "insert() fails in a forked child"


def _offers(cls: type[SinkConformance], offer: str) -> bool:
    given = getattr(cls, offer)
    if offer == "survives_fork":
        return bool(given) and hasattr(os, "fork")
    return given if isinstance(given, bool) else given is not getattr(SinkConformance, offer)


def _plain(value: Any, is_document: bool) -> Any:
    if is_document and isinstance(value, str):
        return parse_json(value.encode())
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value


def _canonical(value: Any) -> str:
    """Return what tells 1, 1.0 and True from one another."""
    return json.dumps(value, sort_keys=True, default=repr)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def _exit_code(pid: int, seconds: float) -> int | None:
    """Wait for a child, and return its exit code; kill it where it takes longer than that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None
