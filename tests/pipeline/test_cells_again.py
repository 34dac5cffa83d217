"""A notebook's cell, or a Streamlit script, that runs again: the same set-up, with functions made anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter import (
    AuditConfigurationError,
    SQLiteAuditExporter,
    configure_audit,
    get_audit_pipeline,
)

CELL = """
hidden = {hidden!r}
def hook(path, value):
    return "hidden" if path == hidden else value
pipeline = configure_audit("sqlite", redact_hook=hook, on_health_change=lambda health: print(health.level{more}))
"""


def closing_over(secret: str) -> Callable[[Any, Any], Any]:
    return lambda path, value: secret if path == "a" else value


def test_a_cell_that_runs_again_gets_the_running_pipeline(bare_environment: None) -> None:
    notebook: dict[str, Any] = {"configure_audit": configure_audit}
    for _ in range(2):
        exec("\n" + CELL.format(hidden="a", more=""), notebook)
        assert notebook["pipeline"] is get_audit_pipeline()
    with pytest.raises(AuditConfigurationError, match="with other arguments"):
        exec(CELL.format(hidden="a", more=", 1"), notebook)


def test_functions_are_the_same_by_what_they_close_over(bare_environment: None) -> None:
    pipeline = configure_audit("memory", redact_hook=closing_over("x"))
    assert configure_audit("memory", redact_hook=closing_over("x")) is pipeline
    with pytest.raises(AuditConfigurationError, match="with other arguments"):
        configure_audit("memory", redact_hook=closing_over("y"))


def test_an_equal_exporter_made_again_gives_the_running_pipeline(tmp_path: Path, bare_environment: None) -> None:
    """It leaves no log of its own."""

    def exporter(table: str) -> SQLiteAuditExporter:
        return SQLiteAuditExporter(path=str(tmp_path / "audit.db"), table=table)

    pipeline = configure_audit(exporter("a"))
    assert configure_audit(exporter("a")) is pipeline
    with pytest.raises(AuditConfigurationError, match="with other arguments"):
        configure_audit(exporter("b"))
    assert len(list((tmp_path / "outbox").glob("*/*.log"))) == 1
    assert not pipeline.closed
