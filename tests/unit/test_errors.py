"""Errors travel between processes: a pool of them or a task queue sends what was raised as a pickle."""

from __future__ import annotations

import copy
import pickle

import pytest

from otel_audit_exporter.errors import (
    AuditConfigurationError,
    AuditDeliveryError,
    AuditError,
    AuditEventError,
    AuditShutdownError,
    OutboxError,
    OutboxFullError,
)

ERRORS = [
    AuditEventError({"action": "is empty", "entity_id": "is missing"}),
    AuditEventError({"yacht_id": "is empty"}, call="audit context"),
    AuditConfigurationError("OTEL_AUDIT_MODE='x': must be one of batch, sync"),
    AuditDeliveryError("0191a000-0000-7000-8000-000000000004", "pending", None),
    AuditDeliveryError("0191a000-0000-7000-8000-000000000004", "parked", "too long"),
    AuditShutdownError("shut down"),
    OutboxError("disk"),
    OutboxFullError("full"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_after_a_pickle_and_a_copy(error: AuditError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        for name in ("problems", "record_id", "state", "cause"):
            assert getattr(again, name, None) == getattr(error, name, None)
