"""One way only: a module imports from a lower rank, nobody from the package root, and nothing heavy at once."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

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
MAIN_NAMES: Final = f"from {PACKAGE} import audit_event, configure_audit"
THE_SDK: Final = "import opentelemetry.sdk._logs.export"
# Of the standard library: what takes long to import, and what only one sink or the outbox on disk needs.
SLOW: Final = frozenset({
    "asyncio", "email", "fractions", "getpass", "http", "http.client", "importlib.metadata", "importlib.resources",
    "logging.config", "multiprocessing", "shutil", "sqlite3", "ssl", "subprocess", "tempfile", "urllib.request",
    "zipfile", "zoneinfo", "opentelemetry.sdk.trace",
})  # fmt: skip
# What a pipeline is made of, and what few use: each is imported by who asks for it.
MACHINERY: Final = frozenset({
    f"{PACKAGE}.{name}"
    for name in (
        *("api.reading", "api.span_processor", "api.transactional", "config", "delivery", "outbox", "sinks", "table"),
        *("pipeline.building", "pipeline.installation", "operations", "testing", "trail", "cli", "integrations"),
    )
})  # fmt: skip
CLIENTS: Final = frozenset({
    "supabase", "httpx", "psycopg", "requests", "google.protobuf", "sqlite3", "ssl", "typer", "sqlalchemy",
    f"{PACKAGE}.sinks.supabase", f"{PACKAGE}.sinks.postgres", f"{PACKAGE}.sinks.otlp", f"{PACKAGE}.sinks.sqlite",
})  # fmt: skip
ON_DISK: Final = frozenset({
    "tempfile", "shutil", "platformdirs", "portalocker", f"{PACKAGE}.outbox.directory",
    f"{PACKAGE}.outbox.sqlite_dead_letters", f"{PACKAGE}.outbox.inspection", f"{PACKAGE}.table.readers",
})  # fmt: skip
# Of each sink the options, and what its own client brings along.
EPHEMERAL: Final[dict[str, tuple[str, set[str]]]] = {
    "memory": ("", set()),
    "sqlite": ("path='a.db'", {"sqlite3", f"{PACKAGE}.sinks.sqlite"}),
    "supabase": (
        "url='http://127.0.0.1:1', key='x'",
        {"httpx", "ssl", "typer", "tempfile", "shutil", f"{PACKAGE}.sinks.supabase"},
    ),
    "postgres": (
        "dsn='postgresql://127.0.0.1:1/x'",
        {"psycopg", "ssl", "tempfile", "shutil", f"{PACKAGE}.sinks.postgres"},
    ),
    "otlp": (
        "endpoint='http://127.0.0.1:1'",
        {"requests", "google.protobuf", "ssl", "tempfile", "shutil", f"{PACKAGE}.sinks.otlp"},
    ),
}

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


def test_the_two_main_names_import_little_beside_what_the_sdk_has() -> None:
    ours = loaded_by(MAIN_NAMES) - loaded_by(THE_SDK)
    assert ours & SLOW == set()
    assert ours & MACHINERY == set()


@pytest.mark.parametrize("sink", EPHEMERAL)
def test_configuring_imports_nothing_that_the_chosen_sink_does_not_need(sink: str, tmp_path: Path) -> None:
    options, needed = EPHEMERAL[sink]
    ours = loaded_by(f"{MAIN_NAMES}\nconfigure_audit({sink!r}, profile='ephemeral', {options})", tmp_path) - loaded_by(
        THE_SDK
    )
    assert ours & (CLIENTS - needed) == set()
    assert ours & ON_DISK - needed == set()


def test_the_server_profile_imports_its_outbox_on_disk_with_the_configuration() -> None:
    program = f"import tempfile\n{MAIN_NAMES}\nconfigure_audit('sqlite', path='a.db', outbox_dir=tempfile.mkdtemp())"
    assert loaded_by(program) >= {f"{PACKAGE}.outbox.directory", f"{PACKAGE}.outbox.sqlite_dead_letters"}


def loaded_by(program: str, directory: Path | None = None) -> set[str]:
    """Return the modules that a new interpreter has after the program, run in ``directory``."""
    program += "\nimport os, sys; print(*sys.modules, flush=True); os._exit(0)"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ, cwd=directory)
    return set(run.stdout.split())


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
