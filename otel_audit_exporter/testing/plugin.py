"""The pytest plugin: the fixture ``audit_log``. What it needs is imported when a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from otel_audit_exporter.testing.audit_log import AuditLog


@pytest.fixture
def audit_log() -> Iterator[AuditLog]:
    """The audit events of this test, kept in memory: ``events``, ``assert_recorded``, ``assert_nothing_recorded``."""
    from otel_audit_exporter.testing.audit_log import AuditLog

    with AuditLog() as log:
        yield log
