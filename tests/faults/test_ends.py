"""However a process ends, what it was told is accepted is in the table then, or after the next start."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import scenario
from tests.faults.events import BAD_ACTION
from tests.faults.scenario import Scenario
from tests.faults.scripts import run, signalled
from tests.stack import AuditTable, Stack
from tests.stack.faults import bad_gateway_page

pytestmark = pytest.mark.timeout(300)  # a script has four minutes

_A_MINUTE = 60_000


@pytest.fixture
def ending(tmp_path: Path) -> Scenario:
    """A scenario in which nothing is delivered before the end."""
    return scenario.on_sqlite(tmp_path, schedule_delay_millis=_A_MINUTE)


def undelivered(ending: Scenario) -> set[str]:
    return ending.said.accepted - {str(row["id"]) for row in ending.rows()}


class TestInABareScript:
    @pytest.mark.parametrize(
        ("name", "status"),
        [("sys_exit", 3), ("end_of_script", 0), ("uncaught_exception", 1), ("atexit_handlers_that_emit", 0)],
    )
    def test_all_is_delivered_at_the_interpreter_s_exit(self, ending: Scenario, name: str, status: int) -> None:
        assert run(name, ending)[0] == status
        assert undelivered(ending) == set()
        assert ending.violations() == []

    def test_sigterm_delivers_and_leaves_the_exit_status_as_it_is(self, ending: Scenario) -> None:
        assert signalled("sigterm", ending, signal.SIGTERM) == -signal.SIGTERM
        assert undelivered(ending) == set()
        assert ending.violations() == []

    def test_sigint_delivers(self, ending: Scenario) -> None:
        assert signalled("sigterm", ending, signal.SIGINT) in (-signal.SIGINT, 130)
        assert undelivered(ending) == set()
        assert ending.violations() == []

    def test_sigterm_during_calls_ends_the_process_and_loses_nothing(self, ending: Scenario) -> None:
        assert signalled("sigterm_in_a_busy_loop", ending, signal.SIGTERM) == -signal.SIGTERM
        assert len(ending.rows()) >= ending.job.events
        assert ending.violations() == []

    def test_the_application_s_own_handler_of_sigterm_is_left_alone(self, ending: Scenario) -> None:
        assert signalled("sigterm_with_a_handler_of_the_application", ending, signal.SIGTERM) == 7
        assert undelivered(ending) == set()
        assert ending.violations() == []

    def test_os_exit_leaves_the_events_to_the_next_process(self, ending: Scenario) -> None:
        assert run("os_exit", ending)[0] == 5
        assert undelivered(ending) == ending.said.accepted
        assert ending.violations() == []


class TestSignalHandlers:
    @pytest.mark.parametrize("outbox", ["disk", "fsync"])
    def test_signal_handlers_that_emit_during_calls_neither_deadlock_nor_lose(
        self, ending: Scenario, outbox: str
    ) -> None:
        ending.job.options["outbox"] = outbox
        assert run("signal_handlers_that_emit", ending) == (0, "True")
        assert ending.violations() == []

    def test_interrupts_anywhere_in_a_call_leave_a_pipeline_that_works(self, ending: Scenario) -> None:
        assert run("interrupted", ending)[0] == 0
        assert ending.violations() == []


class TestChildren:
    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_a_multiprocessing_child_that_ends_normally_has_delivered(self, ending: Scenario, method: str) -> None:
        assert run(f"multiprocessing_{method}", ending)[0] == 0
        assert undelivered(ending) == set()
        assert len(ending.said.accepted) == ending.job.events + 1
        assert ending.violations() == []

    def test_a_forked_child_that_configures_for_itself_has_delivered(self, ending: Scenario) -> None:
        assert run("forked_child_of_an_unconfigured_parent", ending)[0] == 0
        assert undelivered(ending) == set()
        assert ending.violations() == []

    def test_forks_under_load_neither_deadlock_nor_lose(self, tmp_path: Path) -> None:
        busy = scenario.on_sqlite(tmp_path)
        assert run("forks_under_load", busy, visits=25)[0] == 0
        assert busy.violations() == []

    def test_forks_under_load_on_the_real_stack(self, stack: Stack, audit_table: AuditTable, tmp_path: Path) -> None:
        busy = scenario.on_stack(tmp_path, stack, audit_table)
        assert run("forks_under_load", busy, visits=10)[0] == 0
        assert busy.violations() == []

    @pytest.mark.parametrize("exporter", ["sqlite", "supabase", "postgres"])
    def test_a_delivery_imports_nothing_that_a_fork_could_interrupt(
        self, stack: Stack, audit_table: AuditTable, tmp_path: Path, exporter: str
    ) -> None:
        audit_table.alter(f"add constraint no_bad_action check (action <> '{BAD_ACTION}')")
        delivery = scenario.on_stack(tmp_path, stack, audit_table, path=str(tmp_path / "t.db"), dsn=stack.dsn())
        delivery.job.options["exporter"] = exporter
        delivery.job = replace(delivery.job, bad_every=50)
        stack.gateway.inject(bad_gateway_page())
        assert run("imports_of_a_delivery", delivery) == (0, "")

    def test_a_child_takes_over_the_file_of_its_killed_parent(self, ending: Scenario) -> None:
        assert run("parent_killed_before_its_child", ending)[0] == -signal.SIGKILL
        assert ending.violations() == []


class TestShutdown:
    def test_it_delivers_and_later_events_come_with_the_next_process(self, ending: Scenario) -> None:
        """The call returns True."""
        status, said = run("shutdown_call", ending, visits=60)
        assert (status, said.split()[0]) == (0, "True")
        assert len(undelivered(ending)) == 1
        assert ending.violations() == []

    def test_while_threads_emit_it_loses_nothing_that_was_accepted(self, ending: Scenario) -> None:
        assert run("shutdown_under_load", ending)[0] == 0
        assert ending.violations() == []

    def test_it_returns_in_time_while_the_sink_is_away(
        self, stack: Stack, audit_table: AuditTable, tmp_path: Path
    ) -> None:
        """The call returns False, and the next process delivers."""
        away = scenario.on_stack(tmp_path, stack, audit_table)
        with stack.gateway.refusing():
            status, said = run("shutdown_call", away, visits=2)
        delivered, seconds = said.split()
        assert (status, delivered) == (0, "False")
        assert float(seconds) < 8.0  # 2 s were given; an attempt of 10 s or a back-off would show
        assert audit_table.count() == 0
        assert away.violations() == []
