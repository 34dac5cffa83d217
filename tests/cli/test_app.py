"""The command as a whole, and how it speaks."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from otel_audit_exporter.cli import console as talk
from tests.cli.conftest import Workspace

COMMANDS = [
    ("emit",),
    ("demo",),
    *(("dead-letters", command) for command in ("list", "show", "retry", "export", "drop")),
    *(("outbox", command) for command in ("status", "drain")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(workspace: Workspace, command: tuple[str, ...]) -> None:
    done = workspace.run(*command, "--help")
    assert done.code == 0
    assert "Usage: " in done.out


def test_the_version_is_that_of_the_package(workspace: Workspace) -> None:
    assert workspace.run("--version").out == f"otel-audit {version('otel-audit-exporter')}\n"


def test_an_unknown_option_is_refused_with_exit_code_2(workspace: Workspace) -> None:
    assert workspace.run("emit", "-", "--key", "x").code == 2


def test_it_runs_as_a_module(workspace: Workspace) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "otel_audit_exporter.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("otel-audit ")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_library_is_reported_with_what_to_install(missing: str) -> None:
    program = f"import sys; sys.modules['{missing}'] = None; from otel_audit_exporter.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f'otel-audit needs {missing}, which is not installed: pip install "otel-audit-exporter[cli]"\n'
    )


def test_the_library_itself_loads_neither_typer_nor_rich() -> None:
    program = "import sys, otel_audit_exporter; print(sorted({'typer', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_text_from_elsewhere_cannot_steer_a_terminal() -> None:
    assert talk.clean("a\x1b[31m\r\x00b\nc é €") == "a\\x1b[31m\\r\\x00b\nc é €"


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**30, "1.0 GiB"), (2**60, "1048576.0 TiB")]
)
def test_sizes_are_shown_as_people_read_them(count: int, shown: str) -> None:
    assert talk.size(count) == shown


def test_a_table_in_a_pipe_is_neither_cut_nor_dressed(capsys: pytest.CaptureFixture[str]) -> None:
    talk.print_table(("name", "count"), [("x" * 300, "1"), ("[bold]y", "22")], right=("count",))
    assert capsys.readouterr().out == (f"name{' ' * 298}count\n{'x' * 300}      1\n[bold]y{' ' * 295}   22\n")
