"""AWS Lambda: the context of every invocation, and an answer that waits until its events are in the table."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar, overload

from otel_audit_exporter.event.context import Scope, audit_context
from otel_audit_exporter.event.surroundings import found
from otel_audit_exporter.integrations.http_request import Identification, Identity, header_text, request_id
from otel_audit_exporter.pipeline.response_wait import ResponseWait

__all__ = ["audit_lambda"]

Handler = TypeVar("Handler", bound=Callable[..., Any])
_RESERVED_SECONDS: Final = 0.5  # for what the runtime does after the handler


@overload
def audit_lambda(handler: Handler) -> Handler: ...


@overload
def audit_lambda(*, identify: Callable[[Any], Identity] | None = None) -> Callable[[Handler], Handler]: ...


def audit_lambda(handler: Any = None, *, identify: Callable[[Any], Identity] | None = None) -> Any:
    """Open an ``audit_context`` for every invocation, and in the profile ``ephemeral`` wait before it ends.

    The request id is the invocation's, or the one of API Gateway's request. The source address and the user agent are
    those in events of API Gateway (REST and HTTP), a function URL or a WebSocket; another event has none. The answer
    waits until the events of the invocation are in the table: for the response deadline at most, and never longer
    than the invocation's remaining time less 500 ms. An asynchronous handler runs on one event loop, which is kept
    between invocations; called where a loop runs already, the handler gives a coroutine. ::

        @audit_lambda
        def handler(event, context): ...

        @audit_lambda(identify=lambda event: {"user_id": event["requestContext"]["authorizer"]["claims"]["sub"]})
        async def handler(event, context): ...

    :param handler: the handler, of the event and Lambda's context.
    :param identify: called with the event, and returns the fields of :func:`audit_context` that it knows, or None.
        Where it raises, the invocation goes on without them, and an error is logged once for each cause.
    :raises AuditDeliveryError: an event was late, and ``OTEL_AUDIT_PAST_DEADLINE`` is ``raise``: the invocation fails.
    """
    identification = Identification(identify)
    if handler is None:
        return functools.partial(_audited, identification=identification)
    return _audited(handler, identification=identification)


def _audited(handler: Callable[..., Any], *, identification: Identification) -> Callable[..., Any]:
    around = _around_coroutine if inspect.iscoroutinefunction(handler) else _around_function
    return around(handler, identification)


def _around_function(handler: Callable[..., Any], identification: Identification) -> Callable[..., Any]:
    @functools.wraps(handler)
    def audited(event: Any, context: Any = None, *more: Any) -> Any:
        wait = ResponseWait(lambda: _seconds_left(context))
        with audit_context(**_surroundings(event, context)) as scope:
            _enter(scope, wait, identification, event)
            try:
                answer = handler(event, context, *more)
            except BaseException:
                wait.wait()
                raise
            wait.wait(may_raise=True)
            wait.close()
            return answer

    return audited


def _around_coroutine(handler: Callable[..., Awaitable[Any]], identification: Identification) -> Callable[..., Any]:
    async def audited(event: Any, context: Any, *more: Any) -> Any:
        wait = ResponseWait(lambda: _seconds_left(context))
        with audit_context(**_surroundings(event, context)) as scope:
            _enter(scope, wait, identification, event)
            try:
                answer = await handler(event, context, *more)
            except BaseException:
                await wait.wait_async()
                raise
            await wait.wait_async(may_raise=True)
            wait.close()
            return answer

    loop = _KeptLoop()

    @functools.wraps(handler)
    def run(event: Any, context: Any = None, *more: Any) -> Any:
        return loop.run(audited(event, context, *more))

    # For inspect the wrapper is what it looks like: a function. Lambda calls it and takes what it returns.
    return run


class _KeptLoop:
    """An event loop of its own, kept as long as the handler, so that connections of its clients stay open."""

    def __init__(self) -> None:
        self._runner: Any = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run ``work`` to its end; where a loop runs in this thread already, return it to be awaited there."""
        import asyncio

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self._runner is None:
                self._runner = asyncio.Runner()
                weakref.finalize(self, self._runner.get_loop().close).atexit = False
            return self._runner.run(work)
        return work


def _enter(scope: Scope, wait: ResponseWait, identification: Identification, event: Any) -> None:
    scope.collector = wait
    if identification.hook is not None:
        identification.ask(scope, event)


def _seconds_left(context: Any) -> float:
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return float("inf") if remaining is None else remaining() / 1000 - _RESERVED_SECONDS


def _surroundings(event: Any, context: Any) -> dict[str, Any]:
    """Return the context fields that an invocation gives."""
    request = _mapping(_mapping(event).get("requestContext"))
    caller = _mapping(request.get("http")) or _mapping(request.get("identity"))
    given = request.get("requestId") or getattr(context, "aws_request_id", None)
    return {
        "source_ip": found(header_text(_text(caller.get("sourceIp")))),
        "request_id": found(request_id(_text(given))),
        "user_agent": found(header_text(_text(caller.get("userAgent")))),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
