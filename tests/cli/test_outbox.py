"""`otel-audit outbox`: what waits on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter.outbox.inspection import read_outbox_status
from tests.cli.conftest import Workspace


@pytest.fixture
def late(workspace: Workspace) -> Path:
    """A SQLite file in a directory that is not there yet: events for it wait."""
    return workspace.directory / "late" / "audit.db"


def _status(workspace: Workspace) -> list[dict[str, Any]]:
    return workspace.run("outbox", "status", "--format", "json").lines


def _contents(directory: Path) -> dict[str, bytes]:
    names = (path for path in sorted(directory.rglob("*")) if path.is_file() and not path.name.endswith("-shm"))
    return {str(path): path.read_bytes() for path in names}


def test_status_says_so_where_there_is_nothing(workspace: Workspace) -> None:
    done = workspace.run("outbox", "status")
    assert (done.code, done.out) == (0, "")
    assert "0 events pending, 0 parked" in done.err
    assert _status(workspace) == []


def test_status_separates_events_of_dead_processes_from_those_of_living_ones(workspace: Workspace, late: Path) -> None:
    workspace.leave_orphan(late, events=3)
    with workspace.living_process(workspace.directory / "other" / "audit.db", events=2) as pid:
        done = workspace.run("outbox", "status")
        of_late, of_other = sorted(_status(workspace), key=lambda status: str(status["place"]))
    assert [(file["live"], file["pending"]) for file in of_late["processes"]] == [(False, 3)]
    assert [(file["live"], file["pending"], file["pid"]) for file in of_other["processes"]] == [(True, 2, pid)]
    assert (of_late["exporter"], of_late["table"], of_late["place"]) == ("sqlite", "pms_audit_log", str(late))
    assert of_late["processes"][0]["oldest_pending_seconds"] > 0
    assert "orphaned" in done.out
    assert "live" in done.out


def test_status_changes_nothing(workspace: Workspace, late: Path) -> None:
    workspace.leave_orphan(late, events=3)
    before = _contents(workspace.outbox)
    workspace.run("outbox", "status")
    assert _contents(workspace.outbox) == before


def test_status_shows_logs_that_are_newer_or_cannot_be_read(workspace: Workspace, late: Path) -> None:
    workspace.leave_orphan(late, events=1)
    [folder] = [path for path in workspace.outbox.iterdir() if path.is_dir()]
    for name, text in (("1-aa.log", '{"format": 999, "id": ""}'), ("2-bb.log", "no description")):
        (folder / name).mkdir()
        (folder / name / "log.json").write_text(text)
        (folder / name / "lock").touch()
    [status] = _status(workspace)
    newer, damaged, usual = sorted(status["processes"], key=lambda file: file["pid"])
    assert (newer["pending"], "format 999 is newer" in newer["problem"]) == (None, True)
    assert (damaged["pending"], "cannot be read" in damaged["problem"]) == (None, True)
    assert (usual["pending"], usual["problem"]) == (1, "")
    table = workspace.run("outbox", "status").out
    assert "format 999" in table
    assert "cannot be read" in table


def test_status_counts_dead_letters(workspace: Workspace) -> None:
    workspace.create_table("action <> 'refused'")
    workspace.run("emit", "--timeout", 60, workspace.write_lines(*map(workspace.event, ("refused", "good"))))
    [status] = _status(workspace)
    assert (status["parked"], status["processes"]) == (1, [])


def test_status_shows_a_folder_whose_description_is_gone(workspace: Workspace, late: Path) -> None:
    workspace.leave_orphan(late, events=1)
    [description] = workspace.outbox.rglob("destination.json")
    description.unlink()
    [status] = _status(workspace)
    assert (status["exporter"], len(status["processes"])) == (None, 1)
    assert Path(status["folder"]).name in workspace.run("outbox", "status").out


def test_a_directory_of_the_outbox_can_be_named(workspace: Workspace, late: Path) -> None:
    workspace.leave_orphan(late, events=1)
    os.rename(workspace.outbox, workspace.directory / "moved")
    assert workspace.run("outbox", "status", "--outbox-dir", "moved", "--format", "json").lines


def test_other_directories_beside_the_destinations_are_passed_over(workspace: Workspace) -> None:
    (workspace.outbox / "lost+found").mkdir(parents=True)
    (workspace.outbox / "file").write_text("")
    assert read_outbox_status(workspace.outbox) == []


def test_drain_delivers_what_dead_processes_left(workspace: Workspace, late: Path) -> None:
    workspace.leave_orphan(late, events=3)
    workspace.leave_orphan(late, events=2)
    late.parent.mkdir()
    done = workspace.run("outbox", "drain", "--path", late)
    assert (done.code, done.err) == (0, "5 events found, 5 delivered, 0 parked\n")
    assert len(workspace.rows(late)) == 5
    assert [status["processes"] for status in _status(workspace)] == [[]]


def test_a_failed_drain_keeps_every_event_and_has_exit_code_1(workspace: Workspace, late: Path) -> None:
    workspace.leave_orphan(late, events=3)
    done = workspace.run("outbox", "drain", "--path", late, "--timeout", 0.1)
    assert done.code == 1
    assert "3 events not delivered within 0.1 s" in done.err
    assert sum(file["pending"] for status in _status(workspace) for file in status["processes"]) == 3


def test_drain_leaves_alone_what_living_processes_hold_and_what_goes_elsewhere(
    workspace: Workspace, late: Path
) -> None:
    workspace.leave_orphan(workspace.directory / "elsewhere" / "audit.db", events=2)
    with workspace.living_process(late, events=3):
        assert workspace.run("outbox", "drain", "--path", workspace.database).code == 0
        counts = [file["pending"] for status in _status(workspace) for file in status["processes"]]
    assert sorted(counts) == [2, 3]


def test_drain_with_nothing_to_do_is_done(workspace: Workspace) -> None:
    assert workspace.run("outbox", "drain").code == 0


def test_draining_an_outbox_in_memory_is_refused_with_exit_code_2(
    workspace: Workspace, environment: Callable[[str, object], None]
) -> None:
    environment("OTEL_AUDIT_OUTBOX", "memory")
    done = workspace.run("outbox", "drain")
    assert done.code == 2
    assert "nothing of it is on disk" in done.err
