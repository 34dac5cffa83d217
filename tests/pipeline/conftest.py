"""Every test has an outbox of its own and an empty environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _clean(bare_environment: None) -> None:
    """Have it for every test here."""


@pytest.fixture
def outbox_dir(tmp_path: Path) -> str:
    return os.fspath(tmp_path / "outbox")
