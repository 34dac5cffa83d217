"""Who acts, for which tenant: both names of each field, nobody, and applications without the one or the other."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from otel_audit_exporter import (
    NOBODY,
    AuditConfigurationError,
    AuditEvent,
    AuditEventError,
    InMemoryAuditExporter,
    audit_context,
    audit_event,
    audited,
    configure_audit,
    flush_audit,
    get_audit_pipeline,
    update_audit_context,
)
from otel_audit_exporter.compat import write_audit_log_async
from otel_audit_exporter.event.context import current_scope
from otel_audit_exporter.event.surroundings import Found
from otel_audit_exporter.integrations.context_propagation import RemoteContext, serialize_context
from otel_audit_exporter.testing import AuditLog

TENANT, ACTOR, OTHER = str(uuid4()), str(uuid4()), str(uuid4())
THING: dict[str, Any] = {"entity_type": "part", "entity_id": str(uuid4())}
BOTH: dict[str, Any] = {"tenant_id": TENANT, "actor_id": ACTOR}


def by_call() -> None:
    audit_event("act", **THING, **BOTH)


def by_context() -> None:
    with audit_context(**BOTH):
        audit_event("act", **THING)


def by_update() -> None:
    with audit_context(yacht_id=OTHER, user_id=OTHER):
        update_audit_context(**BOTH)
        audit_event("act", **THING)


def by_call_over_a_context() -> None:
    with audit_context(yacht_id=OTHER, user_id=OTHER):
        audit_event("act", **THING, **BOTH)


def by_decorator() -> None:
    @audited("act", **THING, tenant_id="tenant", actor_id=lambda arguments: arguments["actor"])
    def act(tenant: str, actor: str) -> None:
        """Do nothing else."""

    act(TENANT, ACTOR)


def by_event() -> None:
    get_audit_pipeline().emit(AuditEvent("act", **THING, **BOTH))


def by_compat() -> None:
    write_audit_log_async(None, {"action": "act", **THING, **BOTH})


@pytest.mark.parametrize(
    "act", [by_call, by_context, by_update, by_call_over_a_context, by_decorator, by_event, by_compat]
)
def test_tenant_and_actor_are_the_second_names_of_two_fields(act: Callable[[], None], audit_log: AuditLog) -> None:
    act()
    audit_log.assert_recorded("act", yacht_id=TENANT, user_id=ACTOR)
    audit_log.assert_recorded("act", tenant_id=TENANT, actor_id=ACTOR)


@pytest.mark.parametrize("one", [TENANT, UUID(TENANT), TENANT.upper()], ids=["text", "uuid", "upper"])
def test_both_names_may_say_the_same(one: Any, audit_log: AuditLog) -> None:
    audit_event("act", **THING, yacht_id=one, tenant_id=TENANT, user_id=ACTOR)
    audit_log.assert_recorded(yacht_id=TENANT)


@pytest.mark.usefixtures("audit_log")
def test_both_names_with_different_values_are_refused_with_every_other_fault() -> None:
    with pytest.raises(AuditEventError) as caught:
        audit_event("act", entity_type="", entity_id=TENANT, yacht_id=TENANT, tenant_id=OTHER, user_id=ACTOR)
    assert caught.value.problems.keys() == {"tenant_id", "entity_type"}
    with pytest.raises(AuditEventError, match="actor_id"):
        audit_context(user_id=ACTOR, actor_id=OTHER)
    with pytest.raises(AuditEventError, match="actor_id"):
        AuditEvent("act", user_id=ACTOR, actor_id=OTHER)


@pytest.mark.parametrize("given", [{"user_id": NOBODY}, {"actor_id": NOBODY}, {"actor_type": "system"}])
def test_nobody_is_not_filled_from_the_context(given: dict[str, Any], audit_log: AuditLog) -> None:
    with audit_context(**BOTH):
        audit_event("act", **THING, **given)
    audit_log.assert_recorded(user_id=None, yacht_id=TENANT)


@pytest.mark.parametrize("given", [{"user_id": None}, {"actor_type": "service"}, {}])
def test_none_and_a_service_are_filled_from_the_context(given: dict[str, Any], audit_log: AuditLog) -> None:
    with audit_context(**BOTH):
        audit_event("act", **THING, **given)
    audit_log.assert_recorded(user_id=ACTOR)


@pytest.mark.parametrize("inner", [{"user_id": NOBODY}, {"actor_type": "system"}])
def test_an_inner_context_hides_the_user_of_an_outer_one(inner: dict[str, Any], audit_log: AuditLog) -> None:
    with audit_context(**BOTH):
        with audit_context(**inner):
            audit_event("inside", **THING)
        audit_event("after", **THING)
    audit_log.assert_recorded("inside", user_id=None)
    audit_log.assert_recorded("after", user_id=ACTOR)


def test_a_system_that_acts_for_a_named_user_keeps_that_user(audit_log: AuditLog) -> None:
    with audit_context(**BOTH):
        audit_event("act", **THING, actor_type="system", user_id=OTHER)
    audit_log.assert_recorded(user_id=OTHER)


def test_an_event_can_have_no_tenant(audit_log: AuditLog) -> None:
    with audit_context(**BOTH):
        audit_event("act", **THING, tenant_id=NOBODY)
    audit_log.assert_recorded(yacht_id=None, user_id=ACTOR)


def test_nobody_stays_the_same_object() -> None:
    assert copy.deepcopy(NOBODY) is pickle.loads(pickle.dumps(NOBODY)) is NOBODY
    assert repr(NOBODY) == "NOBODY"


def test_a_job_knows_nobody_and_what_a_middleware_found() -> None:
    with audit_context(user_id=NOBODY, request_id=Found("r-1"), user_agent="mine"):
        packed = serialize_context()
    with RemoteContext(packed):
        scope = current_scope()
        assert scope is not None
        fields = scope.merged()
    assert fields["user_id"] is NOBODY
    assert {name: type(fields[name]) for name in ("request_id", "user_agent")} == {
        "request_id": Found,
        "user_agent": str,
    }


def test_an_application_without_tenants_says_so_once() -> None:
    exporter = InMemoryAuditExporter()
    configure_audit(exporter, tenants=False)
    audit_event("act", **THING, user_id=ACTOR)
    audit_event("act", **THING, user_id=ACTOR, tenant_id=TENANT)
    assert flush_audit()
    first, second = exporter.rows
    assert "yacht_id" not in first
    assert (first["new_values"], second["new_values"]) == (None, {"_audit": {"yacht_id": TENANT}})


def test_optional_fields_may_be_left_out_and_others_not() -> None:
    configure_audit("sqlite", optional=["actor_id", "entity_id"])
    audit_event("log_in", entity_type="session", yacht_id=TENANT).result(30)  # type: ignore[call-arg]
    with pytest.raises(AuditEventError) as caught:
        audit_event("log_in")  # type: ignore[call-arg]
    assert caught.value.problems.keys() == {"yacht_id", "entity_type"}


def test_an_action_cannot_be_optional() -> None:
    with pytest.raises(AuditConfigurationError, match=r"optional.*must name fields"):
        configure_audit("memory", optional=["action"])
