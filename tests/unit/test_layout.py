"""Where things lie: a test beside its module's name, and no file or class that has grown too large."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

import otel_audit_exporter

HERE: Final = Path(__file__).parent
ROOT: Final = Path(otel_audit_exporter.__file__).parent
MODULES: Final = sorted(ROOT.rglob("*.py"))
MOST_LINES: Final = 450
MOST_METHODS: Final = 25
TESTS: Final = sorted(path.relative_to(HERE) for path in HERE.rglob("test_*.py") if path.parent != HERE)


@pytest.mark.parametrize("test", TESTS, ids=str)
def test_a_test_in_a_package_is_named_after_a_module(test: Path) -> None:
    module = ROOT / test.with_name(test.name.removeprefix("test_"))
    assert module.exists() or module.with_suffix("").is_dir(), f"tests/unit/{test}: there is no {module}"


def test_no_file_and_no_class_has_grown_too_large() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in MODULES}
    assert [path for path, text in texts.items() if len(text.splitlines()) > MOST_LINES] == []
    classes = [one for text in texts.values() for one in ast.walk(ast.parse(text)) if isinstance(one, ast.ClassDef)]
    assert [one.name for one in classes if sum(map(is_method, one.body)) > MOST_METHODS] == []


def is_method(one: ast.stmt) -> bool:
    return isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
