"""Fixtures for every test: no pipeline of another test, the real stack once a session, a table for each test."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.stack import AuditTable, Stack
from tests.support.housekeeping import no_usual_look
from tests.support.process_state import bare_environment, forget_pipelines

__all__ = ["bare_environment", "no_usual_look"]  # fixtures

# What a machine is busy with beside the tests is no fault of an example's that takes long.
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples in every run; others with `make test ARGS=--hypothesis-profile=random`.
settings.register_profile("repeatable", settings.get_profile("random"), derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _no_pipeline() -> Iterator[None]:
    """Have no pipeline at the start of a test, and leave none."""
    forget_pipelines()
    yield
    forget_pipelines()


@pytest.fixture(scope="session")
def _session_stack() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


@pytest.fixture
def stack(_session_stack: Stack) -> Iterator[Stack]:
    """The real stack, whole at the start of a test and mended after it."""
    _session_stack.gateway.clear()
    yield _session_stack
    _session_stack.heal()
    errors = _session_stack.gateway.take_errors()
    assert not errors, f"the gateway itself failed: {errors}"


@pytest.fixture
def audit_table(stack: Stack) -> Iterator[AuditTable]:
    """An empty table with the nine default columns, served by PostgREST."""
    table = stack.create_table()
    yield table
    stack.heal()
    table.drop()
