"""A sink to check: what its test class gives, and what a check does with it."""

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
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from otel_audit_exporter.delivery.bisect_insert import InsertOutcome, attempt
from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.base import JSON_COLUMNS, Sink, SinkError

Fields = dict[str, Any]
Check = TypeVar("Check", bound=Callable[..., None])

VALUE: Final = "S3CRET-VALUE-OF-A-ROW"


class Need(NamedTuple):
    """A check, and the hook or promise without which it is not collected."""

    offer: str
    check: Callable[..., None]


NEEDS: Final[dict[str, Need]] = {}


def needs(offer: str) -> Callable[[Check], Check]:
    """Have a check collected only where the subclass defines the hook or makes the promise ``offer``."""

    def note(check: Check) -> Check:
        NEEDS[check.__name__] = Need(offer, check)
        return check

    return note


class CheckedSink:
    """The sink to check, as a test class gives it."""

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
        for name, (offer, _) in NEEDS.items():
            if name in vars(cls):
                continue
            if not _offers(cls, offer):
                withheld.add(name)
                setattr(cls, name, None)
            elif name in cls._withheld:
                setattr(cls, name, NEEDS[name].check)
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
        fields |= {"entity_type": VALUE, "action": "create", "created_at": "2026-03-04T05:06:07.123456+00:00"}
        return fields | {"old_values": None, "new_values": {"note": VALUE}} | changes

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
        return {name: NEEDS[name].offer for name in sorted(cls._withheld)}


class SinkExpectations(CheckedSink):
    """What a check does with the sink, and expects of it."""

    @contextmanager
    def _opened(self) -> Iterator[Sink]:
        left = len(self.stored())
        assert left == 0, f"the table holds {left} rows before the check begins"
        with closing(self.sink()) as sink:
            yield sink

    def _holds(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check that the table holds these rows as they were given, each once, and no others."""
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
        [error] = self._at_once([lambda: sink.insert(bodies, Clock.monotonic() + given)], given)
        if error is None:
            return None
        if not isinstance(error, SinkError):
            raise AssertionError(f"insert() raised {type(error).__name__}, not SinkError") from error
        said = "".join(traceback.format_exception(error))
        self._shows_nothing(said, repr(error), error.verdict.remedy, error.code or "", repr(sink))
        return error

    def _shows_nothing(self, *said: str) -> None:
        for text in said:
            assert VALUE not in text, "an error shows what a row holds"
            assert not any(secret and secret in text for secret in self.secrets), "a secret is shown"

    def _works_again(self, sink: Sink, before: Sequence[Fields], row: Fields) -> None:
        """Check that a row whose insert failed gets stored by the same sink, once."""
        end = Clock.monotonic() + self.patience_seconds
        while (error := self._try(sink, [row])) is not None and Clock.monotonic() < end:
            time.sleep(0.1)
        assert error is None, f"the sink does not work again: {error}"
        if self.ignores_known_ids:
            self._holds([*before, row])

    def _delivered(self, sink: Sink, rows: Sequence[Fields]) -> InsertOutcome[Fields]:
        """Deliver rows as the library does it."""
        results: list[InsertOutcome[Fields]] = []
        told: list[Fields] = []

        def deliver() -> None:
            end = Clock.monotonic() + self.patience_seconds
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
        end = Clock.monotonic() + self.patience_seconds

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
        end = Clock.monotonic() + max(seconds, 0.0) + self.grace_seconds
        for thread in threads:
            thread.join(max(end - Clock.monotonic(), 0.0))
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
                sink.insert([body], Clock.monotonic() + self.patience_seconds)
                os._exit(0)
            finally:
                os._exit(1)
        code = _exit_code(pid, self.patience_seconds + self.grace_seconds)
        assert code is not None, "insert() hangs in a forked child"
        assert code == 0, "insert() fails in a forked child"


def _offers(cls: type[CheckedSink], offer: str) -> bool:
    given = getattr(cls, offer)
    if offer == "survives_fork":
        return bool(given) and hasattr(os, "fork")
    return given if isinstance(given, bool) else given is not getattr(CheckedSink, offer)


def _plain(value: Any, is_document: bool) -> Any:
    if is_document and isinstance(value, str):
        return loads_exact(value.encode())
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value


def _canonical(value: Any) -> str:
    """Return a key that distinguishes 1, 1.0 and True."""
    return json.dumps(value, sort_keys=True, default=repr)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def _exit_code(pid: int, seconds: float) -> int | None:
    """Wait for a child, and return its exit code; kill it where it takes longer than that."""
    end = Clock.monotonic() + seconds
    while Clock.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None
