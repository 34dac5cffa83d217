"""What every sink keeps to, as a class of checks for pytest.

pytest is not needed to import this module, and the checks are plain methods that any runner may call.
"""

from __future__ import annotations

from typing import Any, Final

from otel_audit_exporter.sinks.verdict import Fault
from otel_audit_exporter.testing.checked_sink import SinkExpectations, needs

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


class SinkConformance(SinkExpectations):
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

    @needs("ignores_known_ids")
    def test_the_same_batch_twice_is_stored_once(self) -> None:
        rows = [self.fields() for _ in range(5)]
        with self._opened() as sink:
            self._insert(sink, rows)
            self._insert(sink, rows)
            self._holds(rows)

    @needs("ignores_known_ids")
    def test_a_known_row_keeps_no_new_one_out(self) -> None:
        known, new = self.fields(), self.fields()
        with self._opened() as sink:
            self._insert(sink, [known])
            self._insert(sink, [known, new])
            self._holds([known, new])

    @needs("ignores_known_ids")
    def test_a_row_that_is_twice_in_a_batch_is_stored_once(self) -> None:
        row, other = self.fields(), self.fields()
        with self._opened() as sink:
            self._insert(sink, [row, other, row])
            self._holds([row, other])

    @needs("ignores_known_ids")
    def test_the_first_write_wins(self) -> None:
        first = self.fields()
        second = first | {self.text_column: "another", self.json_column: {"another": 1}}
        with self._opened() as sink:
            self._insert(sink, [first])
            self._insert(sink, [second])
            self._holds([first])

    # Rows at fault

    @needs("bad_row")
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

    @needs("bad_row")
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

    @needs("unreachable")
    def test_a_sink_that_cannot_be_reached_says_so_in_time_and_works_again(self) -> None:
        before, during = self.fields(), self.fields()
        with self._opened() as sink:
            self._insert(sink, [before])
            with self.unreachable():
                error = self._refused(sink, [during], self.outage_seconds)
            fault = error.verdict.fault
            assert fault is Fault.TRANSIENT, f"an outage is called a fault of {fault}: {error}"
            self._works_again(sink, [before], during)

    @needs("misconfigured")
    def test_a_wrong_configuration_is_called_that_and_the_sink_works_once_it_is_mended(self) -> None:
        before, during = self.fields(), self.fields()
        with self._opened() as sink:
            self._insert(sink, [before])
            with self.misconfigured():
                error = self._refused(sink, [during])
            fault = error.verdict.fault
            assert fault is Fault.CONFIGURATION, f"a wrong configuration is called a fault of {fault}: {error}"
            self._works_again(sink, [before], during)

    @needs("reply_lost")
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

    @needs("ignores_known_ids")
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

    @needs("survives_fork")
    def test_a_forked_child_and_its_parent_both_store_their_rows(self) -> None:
        before, of_child, of_parent = self.fields(), self.fields(), self.fields()
        with self._opened() as sink:
            self._insert(sink, [before])
            self._insert_in_child(sink, of_child)
            self._insert(sink, [of_parent])
            self._holds([before, of_child, of_parent])
