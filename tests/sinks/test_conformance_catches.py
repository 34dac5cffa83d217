"""The published suite fails for a sink that is broken, and says by which check; a good one passes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import orjson
import pytest

from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.memory import MemorySink
from otel_audit_exporter.sinks.sqlite import SQLiteSink
from otel_audit_exporter.sinks.verdict import OUT_OF_TIME, Fault, Verdict
from otel_audit_exporter.testing import FaultySink, SinkConformance
from tests.sinks.rows import COLUMNS

Row = dict[str, Any]
PASSWORD: Final = "PASSW0RD"


class Good:
    """A sink on a table in memory; what breaks it is a subclass."""

    name = "good"
    target = "memory"

    def __init__(self) -> None:
        self.table = MemorySink()
        self.faulty = FaultySink(self.table)
        self.faulty.refuse_rows(is_bad)
        self.coming = threading.Condition()
        self.came = 0

    def wait_for_another(self) -> None:
        """In a thread, wait until another one is here as well, for a moment at most: one of them is the last."""
        if threading.current_thread() is threading.main_thread():
            return
        with self.coming:
            self.came += 1
            place = self.came
            self.coming.notify_all()
            self.coming.wait_for(lambda: self.came > place, 0.25)

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        self.faulty.insert(rows, deadline)

    def close(self) -> None:
        """Nothing is open."""

    def renew_after_fork(self) -> None:
        """Nothing is inherited."""

    def rows(self) -> list[Row]:
        return self.table.rows


def is_bad(row: Any) -> bool:
    return row["action"] is None


class SwallowsErrors(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        with suppress(SinkError):
            super().insert(rows, deadline)


class KnowsNoIds(Good):
    """A table without a unique key."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Row] = []

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        try:
            super().insert(rows, deadline)
        except SinkError as error:
            if error.verdict.perhaps_stored:
                self.kept += map(loads_exact, rows)
            raise
        self.kept += map(loads_exact, rows)

    def rows(self) -> list[Row]:
        return self.kept


class StoresTheGoodPart(Good):
    """Not all or none, but a row at a time: allowed, as it can be sent again."""

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        for row in rows:
            super().insert([row], deadline)


class StoresTheGoodPartAndKnowsNoIds(KnowsNoIds):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        for row in rows:
            super().insert([row], deadline)


class DropsTheBadRow(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        super().insert([row for row in rows if not is_bad(loads_exact(row))], deadline)


class MakesFreshIds(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        super().insert([orjson.dumps(orjson.loads(row) | {"id": str(uuid4())}) for row in rows], deadline)


class LastWriteWins(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        super().insert(rows, deadline)
        for row in map(loads_exact, rows):
            next(known for known in self.table.rows if known["id"] == row["id"]).update(row)


class RefusesKnownIds(Good):
    """A plain INSERT: a unique violation is called the record's fault."""

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        ids = [row["id"] for row in map(loads_exact, rows)]
        if len(set(ids)) < len(ids) or {row["id"] for row in self.table.rows} & set(ids):
            raise SinkError(Verdict(Fault.RECORD), "duplicate key")
        super().insert(rows, deadline)


class LeavesOutBatchesWithKnownIds(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        ids = {row["id"] for row in map(loads_exact, rows)}
        super().insert([] if {row["id"] for row in self.table.rows} & ids else rows, deadline)


class Truncates(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        cut = [row | {"entity_type": row["entity_type"][:255]} for row in map(loads_exact, rows)]
        super().insert([orjson.dumps(row) for row in cut], deadline)


class LosesDigits(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        super().insert([orjson.dumps(orjson.loads(row)) for row in rows], deadline)


class TakesLatin1(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        super().insert([row.decode().encode("latin-1", "replace").decode("latin-1").encode() for row in rows], deadline)


class RefusesAnEmptyBatch(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        if not rows:
            raise IndexError("no rows")
        super().insert(rows, deadline)


class KnowsNoDeadline(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        try:
            super().insert(rows, deadline)
        except SinkError as error:
            if error.verdict == OUT_OF_TIME:
                time.sleep(2.0)
            raise


class HangsWhenItIsLate(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        if time.monotonic() > deadline:
            time.sleep(2.0)
        super().insert(rows, deadline)


class RaisesItsClientsErrors(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        try:
            super().insert(rows, deadline)
        except SinkError as error:
            raise ConnectionError(str(error)) from error


class CallsEverythingTheRecordsFault(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        try:
            super().insert(rows, deadline)
        except SinkError as error:
            raise SinkError(Verdict(Fault.RECORD, perhaps_stored=True), error.message) from None


class CallsEverythingTransient(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        try:
            super().insert(rows, deadline)
        except SinkError as error:
            raise SinkError(Verdict(Fault.TRANSIENT, perhaps_stored=True), error.message) from None


class IsSureOfNothingStored(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        try:
            super().insert(rows, deadline)
        except SinkError as error:
            raise SinkError(Verdict(error.verdict.fault), error.message) from None


class StaysBroken(Good):
    broken = False

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        if self.broken:
            raise SinkError(Verdict(Fault.TRANSIENT), "the connection is broken")
        try:
            super().insert(rows, deadline)
        except SinkError:
            self.broken = True
            raise


class QuotesTheRow(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        try:
            super().insert(rows, deadline)
        except SinkError as error:
            raise SinkError(error.verdict, f"{error.message}: failing row contains {rows[0]!r}") from None


class ShowsItsPassword(Good):
    target = f"postgresql://user:{PASSWORD}@host/db"


class QuotesItsPassword(Good):
    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        try:
            super().insert(rows, deadline)
        except SinkError as error:
            raise SinkError(error.verdict, "no login") from ConnectionError(f"password={PASSWORD}")


class LooksBeforeItLeaps(KnowsNoIds):
    """Looks for known ids and inserts then, without a lock or a unique key."""

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        known = {row["id"] for row in self.kept}
        self.wait_for_another()
        super().insert([row for row in rows if loads_exact(row)["id"] not in known], deadline)


class SharesABuffer(Good):
    """One buffer for all threads."""

    buffer: Sequence[bytes] = ()

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        self.buffer = rows
        self.wait_for_another()
        super().insert(self.buffer, deadline)


class ClosesOnce(Good):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


class ForgetsWhatItTakesAfterClose(ClosesOnce):
    def close(self) -> None:
        self.closed = True

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        super().insert([] if self.closed else rows, deadline)


class Model(SinkConformance):
    """The suite for a sink in memory, run by hand."""

    secrets = (PASSWORD,)
    patience_seconds = 1.0
    outage_seconds = 0.2
    grace_seconds = 0.5

    def __init__(self, make: Callable[[], Good]) -> None:
        self.made = make()
        self.faulty = self.made.faulty

    def sink(self) -> Good:
        return self.made

    def stored(self) -> list[Row]:
        return self.made.rows()

    def bad_row(self, row: Row) -> Row:
        return row | {"action": None}

    def unreachable(self) -> AbstractContextManager[None]:
        self.faulty.delay(10.0)
        return self.healed()

    def misconfigured(self) -> AbstractContextManager[None]:
        self.faulty.fail_next(Verdict(Fault.CONFIGURATION), times=None)
        return self.healed()

    def reply_lost(self) -> AbstractContextManager[None]:
        self.faulty.lose_replies(times=None)
        return self.healed()

    @contextmanager
    def healed(self) -> Iterator[None]:
        yield
        self.faulty.heal()


class PatientModel(Model):
    """With the times that users' sinks are given: a good one passes on a busy machine, too."""

    patience_seconds = SinkConformance.patience_seconds
    grace_seconds = SinkConformance.grace_seconds


def failures(make: type[Good], model: type[Model] = Model) -> frozenset[str]:
    """Run every check for a sink of its own, and name those that fail; they fail by an assertion."""
    failed = set()
    for name in model.checks():
        try:
            getattr(model(make), name)()
        except AssertionError:
            failed.add(name)
        except RuntimeError as error:
            assert str(error) == "closed already"  # noqa: PT017  # the one error that a check lets through
            failed.add(name)
    return frozenset(failed)


BAD_ROW = "test_a_bad_row_is_the_records_fault_and_its_batch_can_be_sent_again"
OF_A_HUNDRED = "test_one_bad_row_of_a_hundred_is_found_and_the_others_are_delivered"
AWAY = "test_a_sink_that_cannot_be_reached_says_so_in_time_and_works_again"
CONFIGURATION = "test_a_wrong_configuration_is_called_that_and_the_sink_works_once_it_is_mended"
REPLY = "test_a_lost_reply_is_not_called_success_nor_surely_not_stored"
TWICE = "test_the_same_batch_twice_is_stored_once"
IN_A_BATCH = "test_a_row_that_is_twice_in_a_batch_is_stored_once"
FIRST = "test_the_first_write_wins"
KNOWN = "test_a_known_row_keeps_no_new_one_out"
LONG = "test_null_and_long_values_are_stored_as_said"
LATE = "test_a_deadline_that_is_past_holds_nobody_up"
THREADS = "test_threads_lose_and_double_nothing"
SAME_ROWS = "test_threads_with_the_same_rows_store_them_once"
CLOSED = "test_a_closed_sink_opens_again_or_says_that_it_is_closed"
SHOWN = "test_name_target_and_repr_show_no_secret"
EMPTY = "test_an_empty_batch_stores_nothing"
TEXT = "test_any_text_is_stored_as_said"
DOCUMENT = "test_any_document_is_stored_as_said_with_every_digit"
BATCH = "test_a_batch_is_stored_as_said"

CAUGHT: dict[type[Good], set[str]] = {
    SwallowsErrors: {BAD_ROW, OF_A_HUNDRED, AWAY, CONFIGURATION, REPLY},
    KnowsNoIds: {TWICE, IN_A_BATCH, FIRST, KNOWN, SAME_ROWS, REPLY},
    StoresTheGoodPartAndKnowsNoIds: {BAD_ROW, OF_A_HUNDRED, TWICE},
    DropsTheBadRow: {BAD_ROW, OF_A_HUNDRED},
    MakesFreshIds: {BATCH, TWICE},
    LastWriteWins: {FIRST},
    RefusesKnownIds: {TWICE, IN_A_BATCH, FIRST, KNOWN, REPLY},
    LeavesOutBatchesWithKnownIds: {KNOWN},
    Truncates: {LONG},
    LosesDigits: {DOCUMENT},
    TakesLatin1: {TEXT, LONG, DOCUMENT},
    RefusesAnEmptyBatch: {EMPTY},
    KnowsNoDeadline: {AWAY},
    HangsWhenItIsLate: {LATE},
    RaisesItsClientsErrors: {BAD_ROW, OF_A_HUNDRED, AWAY, CONFIGURATION, REPLY},
    CallsEverythingTheRecordsFault: {AWAY, CONFIGURATION, REPLY},
    CallsEverythingTransient: {BAD_ROW, OF_A_HUNDRED, CONFIGURATION},
    IsSureOfNothingStored: {REPLY},
    StaysBroken: {BAD_ROW, OF_A_HUNDRED, AWAY, CONFIGURATION, REPLY},
    QuotesTheRow: {BAD_ROW, AWAY, CONFIGURATION, REPLY},
    ShowsItsPassword: {SHOWN},
    QuotesItsPassword: {BAD_ROW, AWAY, CONFIGURATION, REPLY},
    LooksBeforeItLeaps: {SAME_ROWS},
    SharesABuffer: {THREADS},
    ClosesOnce: {CLOSED},
    ForgetsWhatItTakesAfterClose: {CLOSED},
}


@pytest.mark.parametrize("make", [Good, StoresTheGoodPart])
def test_a_good_sink_passes(make: type[Good]) -> None:
    assert failures(make, PatientModel) == set()


@pytest.mark.parametrize("make", CAUGHT, ids=lambda make: make.__name__)
def test_a_broken_sink_is_caught(make: type[Good]) -> None:
    assert CAUGHT[make] - failures(make) == set()


def test_every_check_catches_something() -> None:
    assert set().union(*CAUGHT.values()) == set(Model.checks())


class SQLiteModel(SinkConformance):
    """The suite for a file, in which a child's rows are seen."""

    survives_fork = True
    patience_seconds = 2.0

    def __init__(self, make: Callable[..., SQLiteSink], path: Path) -> None:
        self.make, self.path = make, path

    def sink(self) -> SQLiteSink:
        return self.make(self.path, columns=COLUMNS)

    def stored(self) -> list[Row]:
        if not self.path.exists():
            return []
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM pms_audit_log")]


class DiesWithItsParent(SQLiteSink):
    def renew_after_fork(self) -> None:
        os._exit(3)


class HangsInAChild(SQLiteSink):
    def renew_after_fork(self) -> None:
        threading.Event().wait(60.0)


class LosesWhatAChildSays(SQLiteSink):
    def renew_after_fork(self) -> None:
        os._exit(0)


@pytest.mark.parametrize("make", [DiesWithItsParent, HangsInAChild, LosesWhatAChildSays])
def test_a_sink_that_does_not_survive_a_fork_is_caught(make: type[SQLiteSink], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"child|lost"):
        SQLiteModel(make, tmp_path / "a.db").test_a_forked_child_and_its_parent_both_store_their_rows()


# What is collected


def test_a_later_hook_restores_its_checks_but_no_removed_check() -> None:
    class Bare(SinkConformance):
        test_an_empty_batch_stores_nothing = None  # type: ignore[assignment]  # the user's own choice

    class WithBadRow(Bare):
        def bad_row(self, row: Row) -> Row:
            return row

    assert not {BAD_ROW, OF_A_HUNDRED, AWAY, EMPTY} & set(Bare.checks())
    assert Bare.left_out()[BAD_ROW] == "bad_row"
    assert set(WithBadRow.checks()) - set(Bare.checks()) == {BAD_ROW, OF_A_HUNDRED}
    assert EMPTY not in WithBadRow.checks()


_SUITE = """
from otel_audit_exporter.sinks.memory import MemorySink
from otel_audit_exporter.testing import SinkConformance

class TestMine(SinkConformance):
    def setup_method(self):
        self.table = MemorySink()

    def sink(self):
        return self.table

    def stored(self):
        return self.table.rows
"""


def test_pytest_collects_what_applies_and_skips_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(_SUITE, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    run = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout
    assert "14 passed in" in run.stdout


def test_importing_the_suite_imports_no_pytest() -> None:
    program = "import sys, otel_audit_exporter.testing; print('pytest' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "False"


# The fault kit


def test_a_faulty_sink_hangs_until_it_is_released() -> None:
    sink = Good()
    sink.faulty.hang()
    thread = threading.Thread(target=sink.insert, args=([b'{"id":1,"action":"x"}'], 0.0))
    thread.start()
    sink.faulty.wait_until_hanging()
    assert sink.rows() == []
    sink.faulty.release()
    thread.join()
    assert (len(sink.rows()), sink.faulty.inserts) == (1, 1)
    with pytest.raises(TimeoutError):
        sink.faulty.wait_until_hanging(timeout=0.01)


def test_a_faulty_sink_fails_as_often_as_ordered() -> None:
    table = MemorySink()
    sink = FaultySink(table)
    sink.fail_next(Verdict(Fault.TRANSIENT), times=2, message="away", code="X1")
    for _ in range(2):
        with pytest.raises(SinkError, match=r"away \(X1\)"):
            sink.insert([b'{"id":1}'], time.monotonic() + 1)
    sink.insert([b'{"id":1}'], time.monotonic() + 1)
    assert table.rows == [{"id": 1}]
    sink.lose_replies()
    with pytest.raises(SinkError) as caught:
        sink.insert([b'{"id":2}'], time.monotonic() + 1)
    assert caught.value.verdict.perhaps_stored
    assert len(table.rows) == 2
