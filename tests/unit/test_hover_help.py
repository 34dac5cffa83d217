"""Every public name has its help: in an editor, which reads the source, and in a running interpreter."""

from __future__ import annotations

import ast
import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import otel_audit_exporter
from otel_audit_exporter import compat, testing, trail
from otel_audit_exporter.integrations import asgi, aws_lambda, django, fastapi, rq, wsgi

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
NO_FUNCTION_OR_CLASS = {"NOBODY", "ALL"}
# The names that are called, by the module that people import them from.
PUBLIC: list[tuple[Any, str]] = [
    *((otel_audit_exporter, name) for name in sorted({*otel_audit_exporter.__all__} - NO_FUNCTION_OR_CLASS)),
    *((trail, name) for name in sorted({*trail.__all__} - NO_FUNCTION_OR_CLASS)),
    *((testing, name) for name in testing.__all__),
    *((compat, name) for name in ("write_audit_log_async", "get_audit_stats", "shutdown_audit_logger")),
    *((module, "AuditMiddleware") for module in (asgi, wsgi, django)),
    *((fastapi, name) for name in ("audit_lifespan", "audit_identity", "audit_router", "audit_trail_router")),
    *((rq, name) for name in ("AuditQueue", "AuditWorker")),
    (aws_lambda, "audit_lambda"),
]


def source_of(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def found_by_an_editor(module: str, name: str) -> Definition:
    """Follow a name from module to module as its imports are written, to the first definition."""
    for node in ast.walk(source_of(module)):
        if isinstance(node, Definition) and node.name == name and not _is_overload(node):
            return node
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return found_by_an_editor(node.module, alias.name)
    raise AssertionError(f"{module} neither defines nor imports {name}")


def _is_overload(node: Definition) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "overload" for one in node.decorator_list)


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[f"{module.__name__}.{name}" for module, name in PUBLIC])
def test_hovering_shows_what_help_prints(module: Any, name: str) -> None:
    shown = ast.get_docstring(found_by_an_editor(module.__name__, name))
    assert shown
    assert shown == inspect.getdoc(getattr(module, name))


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[f"{module.__name__}.{name}" for module, name in PUBLIC])
def test_every_public_method_has_help_of_its_own(module: Any, name: str) -> None:
    public = getattr(module, name)
    if not inspect.isclass(public):
        return
    members = {**dict(inspect.getmembers(public, inspect.isfunction)), **_properties(public)}
    silent = [name for name, one in members.items() if _is_ours(name, one) and not inspect.getdoc(one)]
    assert silent == []


def _properties(public: type[Any]) -> dict[str, Any]:
    found = inspect.getmembers(public, lambda one: isinstance(one, property))
    return {name: one.fget for name, one in found}


def _is_ours(name: str, function: Any) -> bool:
    return not name.startswith(("_", "test_")) and str(function.__module__).startswith("otel_audit_exporter")
