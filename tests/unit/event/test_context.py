"""What is known around an event."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from otel_audit_exporter.errors import AuditConfigurationError, AuditEventError
from otel_audit_exporter.event.context import audit_context, current_scope, overlay, update_audit_context
from tests.support.events import USER, YACHT


def around() -> dict[str, Any]:
    scope = current_scope()
    return {} if scope is None else dict(scope.merged())


def test_nothing_is_known_outside_a_context() -> None:
    assert current_scope() is None


def test_a_context_holds_below_it_and_ends_with_its_block() -> None:
    with audit_context(yacht_id=YACHT, request_id="r"):
        assert around() == {"yacht_id": YACHT, "request_id": "r"}
    assert current_scope() is None


def test_the_inner_context_wins_field_by_field_and_metadata_is_merged() -> None:
    with (
        audit_context(yacht_id=YACHT, request_id="outer", metadata={"a": 1, "b": 1}),
        audit_context(request_id="inner", metadata={"b": 2}),
    ):
        assert around() == {"yacht_id": YACHT, "request_id": "inner", "metadata": {"a": 1, "b": 2}}


def test_what_an_event_says_wins_over_what_is_around_it() -> None:
    merged = overlay({"user_id": USER, "metadata": {"a": 1}}, {"user_id": "x", "metadata": {"b": 2}})
    assert merged == {"user_id": "x", "metadata": {"a": 1, "b": 2}}


def test_a_context_ends_with_its_block_whatever_is_raised() -> None:
    with pytest.raises(ZeroDivisionError), audit_context(request_id="r"):
        raise ZeroDivisionError
    assert current_scope() is None


def test_an_update_is_seen_by_everything_below() -> None:
    with audit_context(request_id="r"):
        with audit_context(source_ip="::1"):
            pass
        thread = threading.Thread(
            target=contextvars.copy_context().run, args=(lambda: update_audit_context(user_id=USER),)
        )
        thread.start()
        thread.join()
        assert around() == {"request_id": "r", "user_id": USER}


def test_an_update_changes_the_innermost_context_only() -> None:
    with audit_context(request_id="outer"):
        with audit_context(request_id="inner"):
            update_audit_context(request_id="changed")
            assert around()["request_id"] == "changed"
        assert around()["request_id"] == "outer"


def test_an_update_without_a_context_says_how_to_open_one() -> None:
    with pytest.raises(AuditConfigurationError, match="audit_context"):
        update_audit_context(user_id=USER)


def test_wrong_fields_are_all_named() -> None:
    with pytest.raises(AuditEventError) as caught:
        audit_context(usr=1, metadata="text", actor_type="robot")
    assert set(caught.value.problems) == {"usr", "metadata", "actor_type"}


def test_a_later_change_of_the_metadata_changes_nothing() -> None:
    metadata = {"a": 1}
    with audit_context(metadata=metadata):
        metadata["b"] = 2
        assert around()["metadata"] == {"a": 1}


def test_a_decorated_function_has_its_context_at_every_call() -> None:
    @audit_context(request_id="r")
    def handler() -> dict[str, Any]:
        return around()

    assert handler() == handler() == {"request_id": "r"}
    assert current_scope() is None


def test_tasks_do_not_see_each_other_s_contexts() -> None:
    async def request(name: str) -> dict[str, Any]:
        with audit_context(request_id=name):
            await asyncio.sleep(0)
            update_audit_context(user_agent=name)
            await asyncio.sleep(0)
            return around()

    async def requests() -> list[dict[str, Any]]:
        return await asyncio.gather(*(request(str(number)) for number in range(20)))

    assert asyncio.run(requests()) == [{"request_id": str(n), "user_agent": str(n)} for n in range(20)]
