"""``@audited``: one event per call, whatever becomes of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any
from uuid import UUID, uuid4

import django.http
import flask
import httpx
import pytest
import starlette.responses
from fastapi import Depends, FastAPI
from pydantic import BaseModel

from otel_audit_exporter import (
    AuditConfigurationError,
    AuditEventError,
    audit_context,
    audited,
    get_audit_stats,
    shutdown_audit,
)
from otel_audit_exporter.testing import AuditLog

YACHT, USER, PART = uuid4(), uuid4(), uuid4()


Place = Annotated[str, Depends(lambda: "warehouse")]


class Payload(BaseModel):
    id: UUID
    name: str


@pytest.fixture(autouse=True)
def _acting() -> Iterator[None]:
    with audit_context(yacht_id=YACHT, user_id=USER):
        yield


def update(**options: Any) -> Callable[[Any], Any]:
    return audited("update_part", entity_type="part", **{"entity_id": "part_id", **options})


def test_arguments_are_taken_by_name_and_by_path(audit_log: AuditLog) -> None:
    @update(entity_id="payload.id", new_values="payload", metadata="options.extra", idempotency_key="key")
    def handler(payload: Payload, *, options: dict[str, Any], key: str = "k-1") -> str:
        return "done"

    assert handler(Payload(id=PART, name="impeller"), options={"extra": {"a": 1}}) == "done"
    audit_log.assert_recorded(
        action="update_part",
        entity_type="part",
        entity_id=PART,
        yacht_id=YACHT,
        user_id=USER,
        new_values={"id": PART, "name": "impeller"},
        metadata={"a": 1},
        outcome="success",
    )
    handler(Payload(id=PART, name="impeller"), options={"extra": {"a": 1}})
    assert len(audit_log.events) == 1


def test_callables_get_the_arguments_and_the_result(audit_log: AuditLog) -> None:
    @update(
        entity_id=lambda arguments, result: result["id"],
        new_values=lambda arguments, result: {"count": arguments["count"], "price": arguments.price, **result},
        metadata=lambda: {"no": "arguments"},
        user_id=lambda arguments: arguments["user"],
    )
    def handler(count: int, price: int = 5, *, user: UUID) -> dict[str, Any]:
        return {"id": str(PART)}

    other = uuid4()
    handler(3, user=other)
    audit_log.assert_recorded(
        entity_id=PART, user_id=other, new_values={"count": 3, "price": 5, "id": PART}, metadata={"no": "arguments"}
    )


def test_the_result_can_be_named_and_plain_values_stay_the_same(audit_log: AuditLog) -> None:
    @update(entity_id="result.id", new_values={"fixed": "name"}, old_values="not.a.parameter")
    def handler(name: str) -> Payload:
        return Payload(id=PART, name=name)

    handler("impeller")
    audit_log.assert_recorded(entity_id=PART, new_values={"fixed": "name"}, old_values="not.a.parameter")


def test_old_values_are_taken_before_and_copied(audit_log: AuditLog) -> None:
    store = {PART: {"stock": 3, "history": [1]}}

    @update(old_values=lambda arguments: store[arguments["part_id"]], new_values="result")
    def handler(part_id: UUID) -> dict[str, Any]:
        store[part_id]["stock"] = 2
        store[part_id]["history"].append(2)  # type: ignore[attr-defined]  # a list
        return store[part_id]

    handler(PART)
    audit_log.assert_recorded(old_values={"stock": 3, "history": [1]}, new_values={"stock": 2, "history": [1, 2]})


def test_coroutine_functions_with_coroutine_callables(audit_log: AuditLog) -> None:
    async def load(arguments: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"stock": 3}

    async def loaded(arguments: Any, result: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"stock": result}

    @update(old_values=load, new_values=loaded)
    async def handler(part_id: UUID) -> int:
        await asyncio.sleep(0)
        return 2

    assert inspect.iscoroutinefunction(handler)
    assert asyncio.run(handler(PART)) == 2
    audit_log.assert_recorded(old_values={"stock": 3}, new_values={"stock": 2})


def test_a_coroutine_function_inside_an_ordinary_decorator_is_waited_for(audit_log: AuditLog) -> None:
    def ordinary(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    async def work(part_id: UUID) -> None:
        await asyncio.sleep(0)
        raise KeyError

    wrapper = ordinary(work)
    del wrapper.__wrapped__
    handler = update(entity_id=PART)(wrapper)
    with pytest.raises(KeyError):
        asyncio.run(handler(PART))
    audit_log.assert_recorded(outcome="failure", metadata={"exception": "KeyError"})


class _RefusedError(Exception):
    pass


@pytest.mark.parametrize("is_async", [False, True])
def test_a_raise_is_a_failure_and_goes_on_unchanged(audit_log: AuditLog, is_async: bool) -> None:
    error = _RefusedError("the secret is 1234")

    def work(part_id: UUID, name: str) -> None:
        raise error

    async def async_work(part_id: UUID, name: str) -> None:
        raise error

    handler = update(new_values="name", metadata={"a": 1}, old_values={"name": "before"})(
        async_work if is_async else work
    )
    with pytest.raises(_RefusedError) as caught:
        asyncio.run(handler(PART, "x")) if is_async else handler(PART, "x")
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    assert traceback.extract_tb(error.__traceback__)[-1].name == ("async_work" if is_async else "work")
    event = audit_log.assert_recorded(outcome="failure", entity_id=PART, new_values="x", old_values={"name": "before"})
    assert event.metadata == {"a": 1, "exception": f"{__name__}._RefusedError"}
    assert "1234" not in repr(event)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_merely_stops_the_work_leaves_its_outcome_unknown(audit_log: AuditLog, kind: type[BaseException]) -> None:
    @update()
    def handler(part_id: UUID) -> None:
        raise kind

    with pytest.raises(kind):
        handler(PART)
    assert audit_log.assert_recorded(outcome="unknown").metadata["exception"].endswith(kind.__name__)


def test_a_cancelled_task_is_recorded_and_stays_cancelled(audit_log: AuditLog) -> None:
    async def never(arguments: Any, result: Any) -> None:
        raise AssertionError("nothing is waited for after a cancellation")

    @update(new_values=never)
    async def handler(part_id: UUID, started: asyncio.Event) -> None:
        started.set()
        await asyncio.Event().wait()

    async def main() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(handler(PART, started))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())
    audit_log.assert_recorded(outcome="unknown", metadata={"exception": "asyncio.exceptions.CancelledError"})


def test_old_values_that_raise_do_not_keep_the_function_from_running(
    audit_log: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    @update(old_values=lambda arguments: arguments["missing"])
    def handler(part_id: UUID) -> str:
        return "ran"

    assert handler(PART) == "ran"
    audit_log.assert_recorded(outcome="success", old_values=None)
    assert "old_values of" in caplog.text
    assert "raised KeyError" in caplog.text


def test_an_event_that_cannot_be_recorded_after_a_success_is_reported(audit_log: AuditLog) -> None:
    @update(entity_id=lambda arguments, result: result["id"], new_values=lambda arguments, result: 1 / 0)
    def handler() -> dict[str, Any]:
        return {}

    with pytest.raises(AuditEventError, match=r"raised KeyError.*raised ZeroDivisionError"):
        handler()
    assert get_audit_stats().rejected == 1
    with pytest.raises(AuditEventError, match="entity_id: must be a UUID"):
        update(entity_id="no_such_parameter")(lambda: None)()
    audit_log.assert_nothing_recorded()


def test_in_a_failure_nothing_hides_the_exception(audit_log: AuditLog, caplog: pytest.LogCaptureFixture) -> None:
    @update(entity_id="result.id", new_values=lambda arguments, result: result["id"])
    def handler(secret: str) -> None:
        raise _RefusedError(secret)

    with pytest.raises(_RefusedError):
        handler("hunter2")
    shutdown_audit()
    with pytest.raises(_RefusedError):
        update(entity_id=PART)(lambda: (_ for _ in ()).throw(_RefusedError))()
    assert get_audit_stats().rejected >= 1
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "update_part raised" in caplog.text
    assert "hunter2" not in caplog.text


def test_wrong_arguments_are_the_functions_own_error(audit_log: AuditLog) -> None:
    @update()
    def handler(part_id: UUID) -> None:
        raise AssertionError("ran")

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'part_id'"):
        handler()
    audit_log.assert_nothing_recorded()


def test_methods_are_audited_with_their_self(audit_log: AuditLog) -> None:
    class Service:
        kind = "store"

        @update(new_values=lambda arguments: {"kind": arguments["self"].kind})
        def change(self, part_id: UUID) -> str:
            return self.kind

        @staticmethod
        @update()
        def static(part_id: UUID) -> None: ...

        @classmethod
        @update()
        def of_class(cls, part_id: UUID) -> None: ...

    assert Service().change(part_id=PART) == "store"
    Service.static(PART)
    Service.of_class(PART)
    assert [event.new_values for event in audit_log.events] == [{"kind": "store"}, None, None]


def test_static_and_class_methods_may_be_decorated_on_either_side(audit_log: AuditLog) -> None:
    class Service:
        @update(new_values="result")
        @staticmethod
        def static(part_id: UUID) -> int:
            return 1

        @update(new_values="result")
        @classmethod
        def of_class(cls, part_id: UUID) -> str:
            return cls.__name__

    assert Service().static(PART) == Service.static(PART) == 1
    assert Service().of_class(PART) == Service.of_class(PART) == "Service"
    assert [event.new_values for event in audit_log.events] == [1, 1, "Service", "Service"]


def test_arguments_among_the_keyword_arguments_are_taken_by_name_too(audit_log: AuditLog) -> None:
    @update(new_values="payload.stock", metadata=lambda arguments: {"names": sorted(arguments), "q": arguments.q})
    def handler(*positional: int, **kwargs: Any) -> None: ...

    handler(1, part_id=PART, payload={"stock": 3}, q=1)
    names = ["kwargs", "part_id", "payload", "positional", "q"]
    audit_log.assert_recorded(entity_id=PART, new_values=3, metadata={"names": names, "q": 1})
    update(entity_id=PART, new_values="no such argument")(lambda **kwargs: None)()
    audit_log.assert_recorded(new_values="no such argument")


def test_an_object_recorded_as_text_is_read_before_the_call(audit_log: AuditLog) -> None:
    class Tank:
        level = 3

        def __str__(self) -> str:
            return f"at {self.level}"

    tank = Tank()

    @update(old_values=lambda arguments: tank)
    def handler(part_id: UUID) -> None:
        tank.level = 2

    handler(PART)
    assert str(audit_log.events[0].old_values).endswith("Tank> at 3")


def _generator() -> Iterator[int]:
    yield 1


async def _async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("thing", [_generator, _async_generator, dict, "text"])
def test_what_has_no_one_end_is_refused_at_the_decoration(thing: Any) -> None:
    with pytest.raises(AuditConfigurationError, match=r"audited\(...\)"):
        update()(thing)


def test_name_signature_and_documentation_stay(audit_log: AuditLog) -> None:
    @update()
    def handler(part_id: UUID, *, loud: bool = False) -> int:
        """Handle it."""
        return 1

    assert (handler.__name__, handler.__doc__) == ("handler", "Handle it.")
    assert str(inspect.signature(handler)) == "(part_id: uuid.UUID, *, loud: bool = False) -> int"


def test_fastapi_endpoints_keep_their_parameters(audit_log: AuditLog) -> None:
    app = FastAPI()

    @app.put("/parts/{part_id}")
    @update(new_values="payload")
    def replace(part_id: UUID, payload: Payload, place: Place, loud: bool = False) -> dict[str, Any]:
        return {"place": place, "loud": loud}

    @app.delete("/parts/{part_id}")
    @audited("delete_part", entity_type="part", entity_id="part_id", user_id=USER, yacht_id=YACHT)
    async def delete(part_id: UUID) -> None:
        raise LookupError

    async def ask() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.put(f"/parts/{PART}?loud=1", json={"id": str(PART), "name": "x"})
            assert answer.json() == {"place": "warehouse", "loud": True}
            assert (await client.put("/parts/none", json={})).status_code == 422
            assert (await client.delete(f"/parts/{PART}")).status_code == 500

    asyncio.run(ask())
    assert [(event.action, event.outcome) for event in audit_log.events] == [
        ("update_part", "success"),
        ("delete_part", "failure"),
    ]


@pytest.mark.parametrize(
    ("outcome", "recorded"),
    [
        (lambda result: "failure" if result["error"] else "success", "failure"),
        (lambda result: result["error"] is None, "failure"),
        (lambda arguments, result: arguments["part_id"] == PART and not result["error"], "failure"),
        (lambda result: True, "success"),
        (lambda result: None, "success"),
        (None, "success"),
    ],
)
def test_a_callable_says_the_outcome_of_a_result(audit_log: AuditLog, outcome: Any, recorded: str) -> None:
    @update(outcome=outcome)
    def handler(part_id: UUID) -> dict[str, Any]:
        return {"error": "no stock"}

    handler(PART)
    audit_log.assert_recorded(outcome=recorded)


def django_response(status: int) -> django.http.HttpResponse:
    return django.http.HttpResponse(status=status, content_type="text/plain", charset="utf-8")


@pytest.mark.parametrize(
    "respond",
    [
        lambda status: starlette.responses.Response(status_code=status),
        lambda status: flask.Response(status=status),
        django_response,
    ],
    ids=["starlette", "flask", "django"],
)
def test_the_status_of_a_response_decides_the_outcome(audit_log: AuditLog, respond: Callable[[int], Any]) -> None:
    statuses = [200, 302, 404, 503]
    for outcome in ({}, {"outcome": None}):
        handler = update(entity_id=PART, **outcome)(respond)
        for status in statuses:
            handler(status)
    by_status = ["success", "success", "failure", "failure"]
    assert [event.outcome for event in audit_log.events] == [*by_status, *(["success"] * 4)]


@pytest.mark.parametrize("is_async", [False, True])
def test_nothing_is_recorded_where_when_is_false(audit_log: AuditLog, is_async: bool) -> None:
    changed: Callable[[Any], Any] = lambda result: result["changed"]  # noqa: E731
    if is_async:

        async def ask(result: Any) -> Any:
            return result["changed"]

        @update(when=ask)
        async def handler(part_id: UUID, changed: bool) -> dict[str, bool]:
            return {"changed": changed}

        asyncio.run(handler(PART, False))
        audit_log.assert_nothing_recorded()
        asyncio.run(handler(PART, True))
    else:
        other = update(when=changed)(lambda part_id, changed: {"changed": changed})
        other(PART, False)
        audit_log.assert_nothing_recorded()
        other(PART, True)
    audit_log.assert_recorded(outcome="success")


def test_an_exception_is_recorded_whatever_when_and_outcome_are(audit_log: AuditLog) -> None:
    @update(when=lambda result: False, outcome=lambda result: "success")
    def handler(part_id: UUID) -> None:
        raise _RefusedError

    with pytest.raises(_RefusedError):
        handler(PART)
    audit_log.assert_recorded(outcome="failure")


def test_action_entity_type_and_signature_may_come_from_callables(audit_log: AuditLog) -> None:
    @audited(
        lambda arguments: f"{arguments.verb}_part",
        entity_type=lambda arguments, result: result["kind"],
        entity_id="part_id",
        signature=lambda arguments, result: {"by": "captain", "password": "hunter2"},
    )
    def handler(part_id: UUID, verb: str) -> dict[str, str]:
        return {"kind": "spare"}

    handler(PART, "order")
    audit_log.assert_recorded("order_part", entity_type="spare", signature={"by": "captain", "password": "[REDACTED]"})


@pytest.mark.parametrize(("given", "made"), [(PART, None), (None, PART)])
def test_an_identifier_is_the_first_of_several_that_is_there(
    audit_log: AuditLog, given: UUID | None, made: UUID | None
) -> None:
    @update(entity_id=("payload.part_id", "result.id"))
    def handler(payload: dict[str, Any]) -> dict[str, Any] | None:
        return None if made is None else {"id": made}

    handler({} if given is None else {"part_id": given})
    audit_log.assert_recorded(entity_id=PART)


def test_an_event_is_recorded_without_what_its_callables_raise_for(
    audit_log: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    @update(
        new_values=lambda arguments: arguments["missing"],
        metadata=lambda arguments, result: 1 / 0,
        outcome=lambda result: result["status"],
        when=lambda result: result["changed"],
    )
    def handler(part_id: UUID) -> dict[str, Any]:
        return {}

    assert handler(PART) == {}
    audit_log.assert_recorded(outcome="unknown", new_values=None, metadata=None)
    for words in ("new_values of update_part raised KeyError", "metadata of", "outcome of", "when of"):
        assert words in caplog.text


def test_an_outcome_that_is_no_callable_is_refused_at_the_decoration() -> None:
    with pytest.raises(AuditConfigurationError, match=r"audited\(outcome="):
        update(outcome="failure")
