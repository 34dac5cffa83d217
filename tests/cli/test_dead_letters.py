"""`otel-audit dead-letters`: what the table refused."""

from __future__ import annotations

import stat
from collections.abc import Callable

import orjson
import pytest

from tests.cli.conftest import Workspace


@pytest.fixture
def parked(workspace: Workspace) -> Workspace:
    """Two events parked by a constraint of the table, and one row in it."""
    workspace.create_table("action NOT LIKE 'refused%'")
    # The good one last, so that it proves the others to be at fault, however the rows come in batches.
    file = workspace.write_lines(*map(workspace.event, ("refused_1", "refused_2", "good")))
    assert workspace.run("emit", "--timeout", 60, file).code == 1
    return workspace


def _ids(workspace: Workspace) -> list[str]:
    return [letter["record_id"] for letter in workspace.run("dead-letters", "list", "--format", "json").lines]


def test_list_shows_each_with_its_reason(parked: Workspace) -> None:
    done = parked.run("dead-letters", "list")
    head, *rows = done.out.splitlines()
    assert done.code == 0
    assert head.split() == ["id", "action", "entity", "error", "tries", "parked"]
    assert ["refused_1" in rows[0], "refused_2" in rows[1], len(rows)] == [True, True, 2]
    assert all("SQLITE_CONSTRAINT_CHECK" in row for row in rows)


def test_list_as_json_has_the_row_the_reason_and_the_times(parked: Workspace) -> None:
    first, _ = parked.run("dead-letters", "list", "--format", "json").lines
    assert first["row"]["action"] == "refused_1"
    assert first["code"] == "SQLITE_CONSTRAINT_CHECK"
    assert {"record_id", "error", "attempts", "first_failed_at", "parked_at"} < first.keys()


def test_list_says_so_where_there_are_none(workspace: Workspace) -> None:
    done = workspace.run("dead-letters", "list")
    assert (done.code, done.out, done.err) == (0, "", "no dead letters\n")
    assert workspace.run("dead-letters", "list", "--format", "json").out == ""


def test_show_prints_the_row_as_it_would_be_written(parked: Workspace) -> None:
    first, _ = _ids(parked)
    done = parked.run("dead-letters", "show", first.upper())
    details, _, row = done.out.partition("row\n")
    assert "SQLITE_CONSTRAINT_CHECK" in details
    assert orjson.loads(row)["action"] == "refused_1"
    assert parked.run("dead-letters", "show", first, "--format", "json").lines[0]["record_id"] == first


@pytest.mark.parametrize("command", ["show", "retry", "drop"])
def test_an_unknown_id_is_reported_with_exit_code_1(parked: Workspace, command: str) -> None:
    done = parked.run("dead-letters", command, "0190e0f4-0000-7000-8000-000000000000")
    assert done.code == 1
    assert "there is no dead letter with the id" in done.err


def test_retry_lands_them_all_once_the_table_takes_them(parked: Workspace) -> None:
    parked.relax_table()
    done = parked.run("dead-letters", "retry")
    assert (done.code, done.err) == (0, "2 of 2 dead letters in the table now\n")
    assert [row["action"] for row in parked.rows()] == ["refused_1", "refused_2", "good"]
    assert _ids(parked) == []


def test_retry_of_one_leaves_the_others(parked: Workspace) -> None:
    first, second = _ids(parked)
    parked.relax_table()
    assert parked.run("dead-letters", "retry", second).code == 0
    assert _ids(parked) == [first]


def test_what_is_refused_again_stays_and_the_exit_code_is_1(parked: Workspace) -> None:
    done = parked.run("dead-letters", "retry")
    assert done.code == 1
    assert "2 refused again" in done.err
    letters = parked.run("dead-letters", "list", "--format", "json").lines
    assert [letter["attempts"] for letter in letters] == [2, 2]


def test_retry_changes_nothing_where_the_sink_is_away(parked: Workspace) -> None:
    before = parked.run("dead-letters", "list", "--format", "json").lines
    parked.database.unlink()
    parked.database.mkdir()
    done = parked.run("dead-letters", "retry")
    assert done.code == 1
    assert "SQLITE_CANTOPEN" in done.err
    assert parked.run("dead-letters", "list", "--format", "json").lines == before


def test_export_writes_a_line_of_json_each_for_this_user_alone(parked: Workspace) -> None:
    target = parked.directory / "letters.jsonl"
    done = parked.run("dead-letters", "export", target)
    assert (done.code, done.err) == (0, f"2 dead letters written to {target}\n")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.read_text() == parked.run("dead-letters", "export", "-").out
    assert [orjson.loads(line)["record_id"] for line in target.read_text().splitlines()] == _ids(parked)


def test_export_writes_over_no_file(parked: Workspace) -> None:
    target = parked.directory / "letters.jsonl"
    target.write_text("mine")
    done = parked.run("dead-letters", "export", target)
    assert done.code == 2
    assert "File exists" in done.err
    assert target.read_text() == "mine"


def test_an_integer_of_any_size_is_shown_and_exported_in_full(workspace: Workspace) -> None:
    workspace.create_table("action <> 'refused'")
    line = orjson.dumps(workspace.event("refused", new_values={"n": 0})).decode().replace('"n":0', f'"n":{10**30}')
    workspace.run("emit", "--timeout", 60, workspace.write_lines(line, workspace.event("good")))
    [record_id] = _ids(workspace)
    for arguments in (("list", "--format", "json"), ("show", record_id), ("export", "-")):
        assert str(10**30) in workspace.run("dead-letters", *arguments).out


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_drop_asks_and_leaves_it_without_a_yes(parked: Workspace, answer: str) -> None:
    first, second = _ids(parked)
    done = parked.run("dead-letters", "drop", first, stdin=answer)
    assert done.code == 1
    assert f"Remove {first}" in done.err
    assert _ids(parked) == [first, second]
    assert not list(parked.directory.glob("dropped-*"))


def test_drop_keeps_what_it_removes_in_a_file(parked: Workspace) -> None:
    first, second = _ids(parked)
    assert parked.run("dead-letters", "drop", first, stdin="y\n").code == 0
    assert parked.run("dead-letters", "drop", second, "--yes", "--to", "kept.json").code == 0
    assert _ids(parked) == []
    for record_id, name in ((first, f"dropped-{first}.json"), (second, "kept.json")):
        assert orjson.loads((parked.directory / name).read_bytes())["record_id"] == record_id


def test_drop_removes_nothing_that_it_cannot_keep(parked: Workspace) -> None:
    first, second = _ids(parked)
    (parked.directory / f"dropped-{first}.json").write_text("an earlier one")
    assert parked.run("dead-letters", "drop", first, "--yes").code == 2
    assert parked.run("dead-letters", "drop", first, "--yes", "--to", "nowhere/kept.json").code == 2
    assert _ids(parked) == [first, second]


def test_looking_takes_over_nothing_that_waits(parked: Workspace) -> None:
    elsewhere = parked.directory / "nowhere" / "audit.db"
    parked.leave_orphan(elsewhere, events=3)
    before = sorted(path.name for path in parked.outbox.rglob("*.log"))
    for command in ("list", "retry"):
        parked.run("dead-letters", command, "--path", elsewhere)
    assert sorted(path.name for path in parked.outbox.rglob("*.log")) == before


def test_every_destination_has_dead_letters_of_its_own(parked: Workspace) -> None:
    other = parked.directory / "other.db"
    assert parked.run("dead-letters", "list", "--path", other).err == "no dead letters\n"


@pytest.mark.parametrize("exporter", ["memory", "console"])
def test_exporters_that_keep_nothing_are_reported_with_exit_code_2(workspace: Workspace, exporter: str) -> None:
    done = workspace.run("dead-letters", "list", "--exporter", exporter)
    assert done.code == 2
    assert "keeps no dead letters on disk" in done.err


def test_a_list_of_exporters_means_the_first_one(parked: Workspace, environment: Callable[[str, object], None]) -> None:
    environment("OTEL_AUDIT_EXPORTER", "sqlite, memory")
    assert len(_ids(parked)) == 2


def test_dead_letters_with_huge_or_deep_values_are_listed_and_exported(workspace: Workspace) -> None:
    workspace.create_table("action NOT LIKE 'refused%'")
    values = ["[1" + "0" * 5000 + "]", *('{"a":' * depth + "1" + "}" * depth for depth in (400, 3_000))]
    refused = [{**workspace.event(f"refused_{index}"), "new_values": value} for index, value in enumerate(values)]
    workspace.run("emit", "--timeout", 60, workspace.write_lines(*refused, workspace.event("good")))
    assert len(_ids(workspace)) == 3
    assert workspace.run("dead-letters", "export", "letters.jsonl").code == 0
    for record_id in _ids(workspace):
        assert workspace.run("dead-letters", "show", record_id).code == 0
