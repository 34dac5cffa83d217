"""The README says what is so: its code runs, and its table of settings is the code's.

`python -m tests.test_readme` writes the table of settings anew.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from otel_audit_exporter.config.options import SETTINGS, settings_table
from otel_audit_exporter.event.fields import fields_table

PATH = Path(__file__).parent.parent / "README.md"
README = PATH.read_text(encoding="utf-8")
SETTINGS_TABLE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)
FIELDS_TABLE = re.compile(r"(?<=<!-- fields -->\n).*?(?=<!-- /fields -->)", re.DOTALL)
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
CONFIGURES = re.compile(r"^configure_audit\(|AuditExporter\(", re.MULTILINE)
EMITS_TO_SQLITE = re.compile(r"^(?!.*InMemory).*(audit_event\(|write_audit_log_async\(|\.emit\()", re.DOTALL)


def _title(block: str) -> str:
    """The last line that calls something, to tell the blocks apart."""
    return next(line.strip()[:40] for line in reversed(block.splitlines()) if "(" in line)


def _environment(directory: Path) -> dict[str, str]:
    variables = {variable for setting in SETTINGS for variable in setting.variables}
    kept = {name: value for name, value in os.environ.items() if name not in variables}
    return {**kept, "OTEL_AUDIT_OUTBOX_DIR": str(directory / "outbox")}


def _with_settings(readme: str) -> str:
    return SETTINGS_TABLE.sub(lambda _: settings_table() + "\n", readme, count=1)


def _with_fields(readme: str) -> str:
    return FIELDS_TABLE.sub(lambda _: fields_table() + "\n", readme, count=1)


@pytest.mark.parametrize("block", BLOCKS, ids=_title)
def test_every_python_block_runs_and_its_events_land(block: str, tmp_path: Path) -> None:
    configured = "" if CONFIGURES.search(block) else "from otel_audit_exporter import *\nconfigure_audit()\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", configured + block],
        cwd=tmp_path,
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if EMITS_TO_SQLITE.search(block):
        with closing(sqlite3.connect(tmp_path / "pms_audit_log.db")) as connection:
            assert connection.execute("SELECT count(*) FROM pms_audit_log").fetchone()[0] > 0


def test_the_blocks_are_found() -> None:
    assert len(BLOCKS) >= 8


def test_the_table_of_settings_is_the_codes() -> None:
    assert _with_settings(README) == README, "run: python -m tests.test_readme"


def test_the_table_of_fields_is_the_codes() -> None:
    assert FIELDS_TABLE.search(README)
    assert _with_fields(README) == README, "run: python -m tests.test_readme"


def test_every_name_that_the_readme_imports_is_public() -> None:
    import otel_audit_exporter

    named = {
        name.strip()
        for names in re.findall(r"^from otel_audit_exporter import (.+)$", README, re.MULTILINE)
        for name in names.split(",")
    }
    assert named <= set(otel_audit_exporter.__all__)


if __name__ == "__main__":
    PATH.write_text(_with_fields(_with_settings(README)), encoding="utf-8")
