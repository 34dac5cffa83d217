"""Who acts, and from where: carried to every event below."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry import context as otel_context

from otel_audit_exporter import (
    AuditConfigurationError,
    AuditEvent,
    AuditEventError,
    audit_context,
    audit_event,
    update_audit_context,
)
from otel_audit_exporter.compat import write_audit_log_async
from otel_audit_exporter.testing import AuditLog

YACHT, USER, OTHER = uuid4(), uuid4(), uuid4()


def touch(**fields: Any) -> None:
    audit_event("touch", entity_type="part", entity_id=uuid4(), **fields)


def users(audit_log: AuditLog) -> list[object]:
    return [event.user_id for event in audit_log.events]


@pytest.fixture
def event_of(audit_log: AuditLog) -> Any:
    def last() -> AuditEvent:
        return audit_log.events[-1]

    return last


def test_every_field_of_the_context_is_on_the_event(audit_log: AuditLog) -> None:
    with audit_context(
        yacht_id=YACHT,
        user_id=USER,
        actor_type="service",
        on_behalf_of=OTHER,
        source_ip="203.0.113.7",
        request_id="r-1",
        user_agent="curl/8",
        metadata={"screen": "stock"},
    ):
        touch()
    audit_log.assert_recorded(
        yacht_id=YACHT,
        user_id=USER,
        actor_type="service",
        on_behalf_of=OTHER,
        source_ip="203.0.113.7",
        request_id="r-1",
        user_agent="curl/8",
        metadata={"screen": "stock"},
    )


def test_the_inner_context_wins_field_by_field_and_metadata_merges(audit_log: AuditLog) -> None:
    with audit_context(yacht_id=YACHT, user_id=USER, metadata={"a": 1, "b": 1}):
        with audit_context(user_id=OTHER, metadata={"b": 2, "c": 2}):
            touch(metadata={"c": 3})
        touch()
    inner, outer = audit_log.events
    assert (inner.yacht_id, inner.user_id, inner.metadata) == (str(YACHT), str(OTHER), {"a": 1, "b": 2, "c": 3})
    assert (outer.user_id, outer.metadata) == (str(USER), {"a": 1, "b": 1})


def test_metadata_given_as_text_merges_too(audit_log: AuditLog) -> None:
    with audit_context(yacht_id=YACHT, user_id=USER, metadata='{"a": 1}'):
        touch(metadata='{"b": 2}')
    audit_log.assert_recorded(metadata={"a": 1, "b": 2})


def test_what_the_event_says_wins_and_none_says_nothing(audit_log: AuditLog) -> None:
    with audit_context(yacht_id=YACHT, user_id=USER), audit_context(user_id=None, request_id="r"):
        touch(user_id=OTHER)
        touch(user_id=None)
    assert users(audit_log) == [str(OTHER), str(USER)]


def test_after_the_block_nothing_is_left(audit_log: AuditLog) -> None:
    with pytest.raises(ZeroDivisionError), audit_context(yacht_id=YACHT, user_id=USER):
        _ = 1 / 0
    with pytest.raises(AuditEventError, match=r"yacht_id: is missing; user_id: is missing"):
        touch()


@pytest.mark.parametrize("call", [audit_context, update_audit_context])
def test_all_wrong_fields_are_reported_together_at_the_call(call: Any) -> None:
    with audit_context(user_id=USER), pytest.raises(AuditEventError) as caught:
        call(colour="red", entity_id=USER, user_id=object(), actor_type="robot", metadata=["no", "object"])
    assert set(caught.value.problems) == {"colour", "entity_id", "user_id", "actor_type", "metadata"}


def test_update_without_a_context_says_what_to_do() -> None:
    with pytest.raises(AuditConfigurationError, match="AuditMiddleware"):
        update_audit_context(user_id=USER)


def test_update_changes_the_innermost_context_and_everything_below_sees_it(audit_log: AuditLog) -> None:
    with audit_context(yacht_id=YACHT, metadata={"a": 1}) as opened:
        with audit_context(request_id="r"):
            touch(user_id=USER)
            update_audit_context(user_id=OTHER, metadata={"b": 2})
            opened.update(source_ip="203.0.113.9")
            touch()
        with pytest.raises(AuditEventError):
            touch()
    event = audit_log.events[-1]
    assert (event.user_id, event.metadata, event.source_ip) == (str(OTHER), {"a": 1, "b": 2}, "203.0.113.9")


def test_later_changes_of_the_callers_metadata_change_nothing(audit_log: AuditLog) -> None:
    metadata: dict[str, Any] = {"a": 1, "deep": {"tags": ["x"]}}
    with audit_context(yacht_id=YACHT, user_id=USER, metadata=metadata):
        metadata["a"] = 2
        metadata["deep"]["tags"].append("y")
        touch()
    audit_log.assert_recorded(metadata={"a": 1, "deep": {"tags": ["x"]}})


def test_it_decorates_functions_coroutines_and_generators(audit_log: AuditLog) -> None:
    context = audit_context(yacht_id=YACHT, user_id=USER)

    @context
    def function(value: int) -> int:
        """Say so."""
        touch()
        return value

    @context
    async def coroutine(value: int) -> int:
        await asyncio.sleep(0)
        touch()
        return value

    @context
    def generator() -> Iterator[int]:
        for number in range(2):
            touch()
            yield number

    @context
    async def asynchronous() -> AsyncIterator[int]:
        for number in range(2):
            await asyncio.sleep(0)
            touch()
            yield number

    async def consume() -> list[int]:
        return [number async for number in asynchronous()]

    assert function(1) == 1
    assert function.__doc__ == "Say so."
    assert asyncio.run(coroutine(2)) == 2
    assert list(generator()) == [0, 1]
    assert asyncio.run(consume()) == [0, 1]
    assert users(audit_log) == [str(USER)] * 6


def test_it_decorates_static_and_class_methods_on_either_side(audit_log: AuditLog) -> None:
    context = audit_context(yacht_id=YACHT, user_id=USER)

    class Service:
        @context
        @staticmethod
        def static() -> None:
            touch()

        @classmethod
        @context
        def of_class(cls) -> None:
            touch()

    Service().static()
    Service().of_class()
    assert users(audit_log) == [str(USER)] * 2


def test_between_the_steps_of_a_generator_its_caller_is_itself(audit_log: AuditLog) -> None:
    @audit_context(user_id=OTHER)
    def generator() -> Iterator[None]:
        touch()
        try:
            yield
        finally:
            touch()

    with audit_context(yacht_id=YACHT, user_id=USER):
        steps = generator()
        next(steps)
        touch()
        steps.close()  # type: ignore[attr-defined]  # a generator
        touch()
    assert users(audit_log) == [str(OTHER), str(USER), str(OTHER), str(USER)]


def test_a_span_in_a_generator_stays_current_in_its_next_step() -> None:
    key = otel_context.create_key("test")

    @audit_context(user_id=USER)
    def generator() -> Iterator[object]:
        token = otel_context.attach(otel_context.set_value(key, "inside"))
        yield otel_context.get_value(key)
        yield otel_context.get_value(key)
        otel_context.detach(token)
        yield otel_context.get_value(key)

    assert list(generator()) == ["inside", "inside", None]


@pytest.mark.parametrize("thing", [int, "text"])
def test_what_is_no_function_is_not_decorated(thing: Any) -> None:
    with pytest.raises(AuditConfigurationError):
        audit_context(user_id=USER)(thing)


def test_tasks_and_threads_have_the_context_in_which_they_were_made(audit_log: AuditLog) -> None:
    async def main() -> None:
        with audit_context(yacht_id=YACHT, user_id=USER):
            tasks = [asyncio.create_task(work())]
            await asyncio.to_thread(touch)
            carried = contextvars.copy_context()
            await asyncio.get_running_loop().run_in_executor(None, carried.run, touch)
        with audit_context(yacht_id=YACHT, user_id=OTHER):
            tasks.append(asyncio.create_task(work()))
        await asyncio.gather(*tasks)

    async def work() -> None:
        await asyncio.sleep(0.01)
        touch()

    asyncio.run(main())
    assert sorted(map(str, users(audit_log))) == sorted([*[str(USER)] * 3, str(OTHER)])


def test_a_thread_that_carries_the_opentelemetry_context_has_it(audit_log: AuditLog) -> None:
    def work(context: otel_context.Context) -> None:
        otel_context.attach(context)
        touch()

    with audit_context(yacht_id=YACHT, user_id=USER):
        thread = threading.Thread(target=work, args=(otel_context.get_current(),))
        thread.start()
        thread.join()
    assert users(audit_log) == [str(USER)]


def test_it_survives_a_tracing_library_that_attaches_a_bare_context(audit_log: AuditLog) -> None:
    with audit_context(yacht_id=YACHT, user_id=USER):
        token = otel_context.attach(otel_context.Context())
        touch()
        otel_context.detach(token)
    assert users(audit_log) == [str(USER)]


def test_a_change_made_in_a_thread_is_seen_by_the_request(audit_log: AuditLog) -> None:
    async def main() -> None:
        with audit_context(yacht_id=YACHT):
            await asyncio.to_thread(update_audit_context, user_id=USER)
            touch()

    asyncio.run(main())
    assert users(audit_log) == [str(USER)]


def test_many_at_once_are_not_mixed_up(audit_log: AuditLog) -> None:
    shared = audit_context(yacht_id=YACHT)  # the same instance, open many times at once

    @shared
    async def request(user: Any) -> None:
        await asyncio.sleep(0)
        update_audit_context(user_id=user)
        with audit_context(metadata={"for": str(user)}):
            await asyncio.gather(*(step() for _ in range(3)))

    async def step() -> None:
        await asyncio.sleep(0)
        await asyncio.to_thread(touch)

    async def main() -> None:
        await asyncio.gather(*(request(uuid4()) for _ in range(100)))

    asyncio.run(main())
    assert len(audit_log.events) == 300
    assert all(event.metadata == {"for": event.user_id} for event in audit_log.events)


def test_threads_may_change_and_read_one_context(audit_log: AuditLog) -> None:
    with audit_context(yacht_id=YACHT, user_id=USER, metadata={"n": 0}) as opened:
        context = contextvars.copy_context()

        def change(number: int) -> None:
            opened.update(metadata={"n": number})
            context.copy().run(touch)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(change, range(200)))
        opened.update(metadata={"n": "last"})
        touch()
    assert len(audit_log.events) == 201
    assert audit_log.events[-1].metadata == {"n": "last"}


def test_a_context_that_another_task_leaves_disturbs_nobody(
    audit_log: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    async def generator() -> AsyncIterator[None]:
        with audit_context(yacht_id=YACHT, user_id=OTHER):
            yield

    async def main() -> None:
        steps = generator()
        await asyncio.create_task(anext(steps))  # type: ignore[arg-type]  # an awaitable that is a coroutine
        with audit_context(yacht_id=YACHT, user_id=USER):
            await anext(steps, None)
            touch()

    asyncio.run(main())
    assert users(audit_log) == [str(USER)]
    assert not caplog.records


def test_the_drop_in_for_older_code_has_the_context_too(audit_log: AuditLog) -> None:
    with audit_context(yacht_id=YACHT, user_id=USER):
        write_audit_log_async(None, {"action": "touch", "entity_type": "part", "entity_id": str(uuid4())})
    assert users(audit_log) == [str(USER)]
