"""One way only: a module imports from a lower rank, nobody from the package root, and nothing heavy at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import otel_audit_exporter

PACKAGE: Final = "otel_audit_exporter"
ROOT: Final = Path(otel_audit_exporter.__file__).parent

# From the bottom to the top: a package imports from those in the lines above its own, and not from its neighbours in
# the line. Inside a package modules may import one another, but not in a circle.
RANKS: Final = (
    "errors runtime",
    "event",
    "outbox sinks",
    "observability",
    "config delivery",
    "table",
    "pipeline",
    "api compat operations testing",
    "trail",
    "cli integrations",
)
# What is left of old paths, for whoever imports them: used by nothing inside.
OLD_PATHS: Final = ("faults", "health")


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__") if name != "__init__" else ""] = path
    return found


MODULES: Final = modules()


def rank_of(module: str) -> int:
    package = module.partition(".")[0]
    found = [rank for rank, names in enumerate(RANKS) if package in names.split()]
    assert len(found) == 1, f"{module}: its package has no rank"
    return found[0]


def imports_of(module: str) -> Iterator[str]:
    """Give the modules of the package that ``module`` imports, at once or later, ``""`` for the root."""
    for node in walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: an import relative to itself"
            names = [
                f"{node.module}.{alias.name}" if is_module(f"{node.module}.{alias.name}") else str(node.module)
                for alias in node.names
            ]
        yield from (inside(name) for name in names if name.partition(".")[0] == PACKAGE)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Give every node but what only type checkers see."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield from walk(child)
        else:
            for rest in child.orelse:
                yield from walk(rest)


def inside(name: str) -> str:
    return name.removeprefix(PACKAGE).removeprefix(".")


def is_module(name: str) -> bool:
    return name.partition(".")[0] == PACKAGE and inside(name) in MODULES


def test_every_package_imports_from_lower_ranks_only() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES
        if module and module not in OLD_PATHS
        for imported in imports_of(module)
        if imported
        and not share_a_package(module, imported)
        and (imported in OLD_PATHS or rank_of(imported) >= rank_of(module))
    ]
    assert wrong == []


def share_a_package(module: str, other: str) -> bool:
    return other.partition(".")[0] == module.partition(".")[0]


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {
        module: {imported for imported in imports_of(module) if imported not in (module, "")} for module in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' <- '.join(error.args[1])}") from None


def test_the_package_root_is_imported_by_nobody_inside() -> None:
    assert [module for module in MODULES if module and "" in set(imports_of(module))] == []


def test_every_rank_names_packages_that_are_there() -> None:
    named = {name for names in RANKS for name in names.split()}
    assert named == {module.partition(".")[0] for module in MODULES if module} - set(OLD_PATHS)


def test_importing_the_library_imports_nothing_heavy() -> None:
    heavy = ("supabase", "httpx", "psycopg", "typer", "rich", "platformdirs", "portalocker", "postgrest", "sqlalchemy")
    program = f"import sys, {PACKAGE}; print(*[name for name in {heavy!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []


def test_configuring_the_default_exporter_imports_no_client() -> None:
    heavy = ("supabase", "httpx", "psycopg", "typer", "rich")
    program = (
        f"import sys, tempfile, {PACKAGE} as a\n"
        "with tempfile.TemporaryDirectory() as d:\n"
        "    a.configure_audit('sqlite', path=d + '/a.db', outbox_dir=d).shutdown()\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
