"""Every test has an outbox of its own and an empty environment; and SQLite files as databases."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _clean(bare_environment: None) -> None:
    """Have it for every test here."""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Give the directory of the databases' files."""
    path = tmp_path / "databases"
    path.mkdir()
    return path
