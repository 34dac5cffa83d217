"""Every block of code of the documentation runs.

`python` blocks run as they stand, after what their `setup` comment holds; `sh` blocks run in a shell. `bash` is for
what needs the reader's own server or keys, and `console` shows output.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from otel_audit_exporter.config.options import SETTINGS
from tests.docs.pages import ROOT, Block, all_pages, blocks
from tests.stack import AuditTable, Stack

BLOCKS = list(blocks())
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHOWN_ONLY = {"bash", "console", "text", "sql", "yaml", "json"}
CONFIGURES = re.compile(r"^configure_audit\(|AuditExporter\(", re.MULTILINE)
EMITS_TO_SQLITE = re.compile(
    r"^(?!.*(InMemory|MemorySink|FileSink))(?!.*def test_).*"
    r"(audit_event\(|write_audit_log_async\(|\.emit\(|use_part\()",
    re.DOTALL,
)


def _environment(directory: Path) -> dict[str, str]:
    variables = {variable for setting in SETTINGS for variable in setting.variables}
    kept = {name: value for name, value in os.environ.items() if name not in variables}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    places = {"PATH": path, "OTEL_AUDIT_OUTBOX_DIR": str(directory / "outbox")}
    return {**kept, **places, "COLUMNS": "200", "OTEL_AUDIT_SLOW_WRITE": "0"}  # a busy machine may be slow


def _run(command: list[str], directory: Path, environ: dict[str, str], *, silent: bool = True) -> None:
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not silent or done.stderr == ""


def _python(code: str, directory: Path, environ: dict[str, str]) -> None:
    configured = "" if CONFIGURES.search(code) else "from otel_audit_exporter import *\nconfigure_audit()\n"
    _run([sys.executable, "-W", "error", "-c", configured + code], directory, environ)


@pytest.mark.parametrize("block", [block for block in PYTHON if not block.kind], ids=str)
def test_a_python_block_runs_and_its_events_land(block: Block, tmp_path: Path) -> None:
    _python(block.setup + block.code, tmp_path, _environment(tmp_path))
    if EMITS_TO_SQLITE.search(block.code):
        with closing(sqlite3.connect(tmp_path / "pms_audit_log.db")) as connection:
            assert connection.execute("SELECT count(*) FROM pms_audit_log").fetchone()[0] > 0


@pytest.mark.parametrize("block", [block for block in PYTHON if block.kind == "for pytest"], ids=str)
def test_a_block_of_tests_passes(block: Block, tmp_path: Path) -> None:
    (tmp_path / "test_block.py").write_text(block.setup + block.code)
    _run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], tmp_path, _environment(tmp_path))


@pytest.mark.parametrize("block", [block for block in PYTHON if block.kind == "with postgres"], ids=str)
def test_a_block_for_postgresql_leaves_its_row(
    block: Block, tmp_path: Path, stack: Stack, audit_table: AuditTable
) -> None:
    environ = {**_environment(tmp_path), "OTEL_AUDIT_EXPORTER": "postgres"}
    environ |= {"OTEL_AUDIT_POSTGRES_DSN": stack.dsn(), "OTEL_AUDIT_TABLE": audit_table.name}
    _python(block.setup + block.code, tmp_path, environ)
    assert audit_table.count() == 1


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=str)
def test_a_shell_block_runs(block: Block, tmp_path: Path) -> None:
    environ = _environment(tmp_path)
    if block.setup:
        _run([sys.executable, "-c", block.setup], tmp_path, environ, silent=False)
    _run(["/bin/sh", "-ec", block.code], tmp_path, environ, silent=False)  # the command speaks on stderr


def test_no_block_is_of_another_kind() -> None:
    others = [str(block) for block in BLOCKS if block.language not in {"python", "sh", *SHOWN_ONLY}]
    kinds = {block.kind for block in BLOCKS}
    assert others == []
    assert kinds <= {"", "for pytest", "with postgres"}


def test_the_blocks_are_found() -> None:
    assert len(PYTHON) >= 25
    assert sum(text.count("```python\n") for text in all_pages().values()) == len(PYTHON)


def test_json_that_is_shown_is_json() -> None:
    assert [json.loads(block.code) for block in BLOCKS if block.language == "json"]


def test_every_target_of_make_that_is_named_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {name for text in all_pages().values() for name in re.findall(r"\bmake ([a-z-]+)\b(?=`|\s{2,}#)", text)}
    assert {"demo", "test"} <= named
    assert [name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_every_name_that_a_page_imports_is_public() -> None:
    import otel_audit_exporter

    named = {
        name.strip()
        for text in all_pages().values()
        for names in re.findall(r"^from otel_audit_exporter import ([^\n*(]+)$", text, re.MULTILINE)
        for name in names.split(",")
    }
    assert named <= set(otel_audit_exporter.__all__)
