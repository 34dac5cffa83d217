"""The public names: a list, and what is really there."""

from __future__ import annotations

import importlib.resources
import inspect
import re
from importlib import metadata

import pytest

import otel_audit_exporter
from otel_audit_exporter import compat

BUILT = {
    "configure_audit", "attach_audit", "get_audit_pipeline",
    "audit_executor", "NOBODY",
    "audit_event", "audit_context", "update_audit_context", "audited", "changed",
    "get_audit_stats", "flush_audit", "shutdown_audit",
    "read_events", "read_events_async", "count_events", "StoredEvent", "EventCount",
    "AuditEvent", "AuditPipeline", "AuditReceipt", "PendingReceipt", "AuditStats", "DeadLetter", "AuditSpanProcessor",
    "SupabaseAuditExporter", "PostgresAuditExporter", "SQLiteAuditExporter", "InMemoryAuditExporter",
    "AuditError", "AuditEventError", "AuditConfigurationError", "AuditDeliveryError", "AuditShutdownError",
    "OutboxError", "OutboxFullError",
}  # fmt: skip
# Exported from the day on which they work.
TO_COME = {"write_audit_event", "write_audit_event_async", "AuditHealth"}
COMPAT = {"write_audit_log_async", "get_audit_stats", "shutdown_audit_logger"}


def test_the_package_exports_what_is_built_and_nothing_else() -> None:
    assert set(otel_audit_exporter.__all__) - TO_COME == BUILT
    assert len(set(otel_audit_exporter.__all__)) == len(otel_audit_exporter.__all__)


def test_compat_exports_its_three_functions() -> None:
    assert set(compat.__all__) == COMPAT


@pytest.mark.parametrize("name", sorted(BUILT))
def test_a_public_name_can_be_imported_and_says_what_it_is(name: str) -> None:
    thing = getattr(otel_audit_exporter, name)
    assert thing.__doc__
    assert not thing.__doc__.startswith(f"{name}(")  # what a dataclass writes for itself


@pytest.mark.parametrize("name", sorted(COMPAT))
def test_a_name_of_compat_can_be_imported_and_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(compat, name))


@pytest.mark.parametrize("name", sorted(name for name in BUILT if inspect.isclass(getattr(otel_audit_exporter, name))))
def test_every_public_method_says_what_it_does(name: str) -> None:
    kind = getattr(otel_audit_exporter, name)
    mute = [
        member
        for member, value in inspect.getmembers(kind)
        if not member.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property))
        and not inspect.getdoc(value)
    ]
    assert mute == []


def test_errors_form_the_tree_that_is_drawn() -> None:
    package = otel_audit_exporter
    assert package.AuditEventError.__mro__[1:3] == (package.AuditError, ValueError)
    assert package.AuditConfigurationError.__mro__[1:3] == (package.AuditError, ValueError)
    for error in (package.AuditDeliveryError, package.AuditShutdownError, package.OutboxError):
        assert error.__bases__ == (package.AuditError,)
    assert package.OutboxFullError.__bases__ == (package.OutboxError,)


def test_every_entry_point_leads_to_an_exporter() -> None:
    found = {
        point.name: point.load()
        for point in metadata.entry_points(group="opentelemetry_logs_exporter")
        if point.value.startswith("otel_audit_exporter")
    }
    assert found["sqlite_audit"] is otel_audit_exporter.SQLiteAuditExporter
    assert found["supabase_audit"] is otel_audit_exporter.SupabaseAuditExporter
    assert found["postgres_audit"] is otel_audit_exporter.PostgresAuditExporter


def test_the_version_is_the_distribution_s() -> None:
    assert otel_audit_exporter.__version__ == metadata.version("otel-audit-exporter")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", otel_audit_exporter.__version__)


def test_the_package_is_typed() -> None:
    package = importlib.resources.files("otel_audit_exporter")
    assert package.joinpath("py.typed").is_file()
