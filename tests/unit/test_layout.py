"""A test of one module lies where the module does, and can be found by the module's name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

import otel_audit_exporter

HERE: Final = Path(__file__).parent
ROOT: Final = Path(otel_audit_exporter.__file__).parent
TESTS: Final = sorted(path.relative_to(HERE) for path in HERE.rglob("test_*.py") if path.parent != HERE)


@pytest.mark.parametrize("test", TESTS, ids=str)
def test_a_test_in_a_package_is_named_after_a_module(test: Path) -> None:
    module = ROOT / test.with_name(test.name.removeprefix("test_"))
    assert module.exists() or module.with_suffix("").is_dir(), f"tests/unit/{test}: there is no {module}"
