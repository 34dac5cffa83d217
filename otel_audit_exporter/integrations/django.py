"""Django: who asks, and from where, for every audit event of a request, under WSGI and ASGI.

::

    MIDDLEWARE = [..., "django.contrib.auth.middleware.AuthenticationMiddleware",
                  "otel_audit_exporter.integrations.django.AuditMiddleware"]
    OTEL_AUDIT_IDENTIFY = "otel_audit_exporter.integrations.django.signed_in_user"   # or a function of your own
    OTEL_AUDIT_TRUSTED_PROXIES = ["10.0.0.0/8"]
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.utils.module_loading import import_string

from otel_audit_exporter.event.context import Scope, StepwiseScope
from otel_audit_exporter.event.seen_requests import SeenRequest, note_answer
from otel_audit_exporter.integrations.http_request import Identification, Identity, TrustedProxies
from otel_audit_exporter.integrations.request_coverage import request_begins, request_ends
from otel_audit_exporter.integrations.wsgi import surroundings
from otel_audit_exporter.pipeline.response_wait import ResponseWait, response_wait

__all__ = ["AuditMiddleware", "signed_in_user"]


def signed_in_user(request: Any) -> Identity:
    """Identify the user that Django's authentication knows: ``user_id`` is their primary key.

    Use it where users have UUIDs, or with ``OTEL_AUDIT_IDS=text``.
    """
    user = getattr(request, "user", None)
    return {"user_id": user.pk} if user is not None and user.is_authenticated else None


class AuditMiddleware:
    """Open an ``audit_context`` for every request: source address, request id, user agent, and user.

    It holds while the view answers, and while a streamed answer is produced. In the profile ``ephemeral`` the response
    is given to the server when the events of its request are in the table. Settings of the project:
    ``OTEL_AUDIT_IDENTIFY``, a callable or its dotted path, called with Django's request, returns the fields of
    :func:`audit_context` that it knows, or None (in async views it may be a coroutine function; where it raises, the
    request goes on without them, and an error is logged once for each cause); ``OTEL_AUDIT_TRUSTED_PROXIES``, the
    addresses and networks of proxies whose ``X-Forwarded-For`` is believed.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response
        identify = getattr(settings, "OTEL_AUDIT_IDENTIFY", None)
        self._identification = Identification(import_string(identify) if isinstance(identify, str) else identify)
        self._proxies = TrustedProxies(getattr(settings, "OTEL_AUDIT_TRUSTED_PROXIES", ()))
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Serve one request."""
        if self._is_async:
            return self._serve_async(request)
        steps = StepwiseScope(surroundings(request.META, self._proxies))
        with steps.next() as scope:
            self._identify(request, scope)
            seen = request_begins(scope, request.method or "", request.path_info)
            scope.collector = wait = response_wait()
            response = self.get_response(request)
        if wait is not None:
            wait.wait(may_raise=True)
        return _answered(request, response, seen, steps, wait)

    async def _serve_async(self, request: Any) -> Any:
        steps = StepwiseScope(surroundings(request.META, self._proxies))
        hook = self._identification.hook
        with steps.next() as scope:
            if hook is not None and iscoroutinefunction(hook):
                await self._identify_async(hook, request, scope)
            elif hook is not None:
                await sync_to_async(self._identify)(request, scope)
            seen = request_begins(scope, request.method or "", request.path_info)
            scope.collector = wait = response_wait()
            response = await self.get_response(request)
        if wait is not None:
            await wait.wait_async(may_raise=True)
        return _answered(request, response, seen, steps, wait)

    def _identify(self, request: Any, scope: Scope) -> None:
        if self._identification.hook is not None and not self._identification.ask(scope, request):
            # Django REST framework authenticates later, in its view
            scope.ask_at_events(lambda: self._identification.ask(scope, request))

    async def _identify_async(self, hook: Callable[..., Awaitable[Identity]], request: Any, scope: Scope) -> None:
        try:
            identity = await hook(request)
        except Exception as error:
            self._identification.failed(error)
        else:
            self._identification.take(scope, identity)


def _answered(
    request: Any, response: Any, seen: SeenRequest | None, steps: StepwiseScope, wait: ResponseWait | None
) -> Any:
    """Return the response, and note what the request recorded: now, or when a streamed response has ended."""
    if seen is not None:
        note_answer(seen, response.status_code)
        if not response.streaming:
            _note_end(request, seen)
    return _streamed_in_context(response, steps, wait, lambda: _note_end(request, seen))


def _note_end(request: Any, seen: SeenRequest | None) -> None:
    if seen is not None:
        match = request.resolver_match
        request_ends(seen, lambda: None if match is None else f"/{match.route.removeprefix('^')}", debug=settings.DEBUG)


def _streamed_in_context(
    response: Any, steps: StepwiseScope, wait: ResponseWait | None, end: Callable[[], None]
) -> Any:
    """Return the response; a streamed one is produced and ended in the request's context, by any consumer."""
    if response.streaming:
        in_steps = _in_async_steps if response.is_async else _in_steps
        response.streaming_content = in_steps(response.streaming_content, steps, wait)
        close = response.close

        def close_in_context() -> None:
            with steps.next():
                close()
            if wait is not None:
                wait.wait()
            end()

        response.close = close_in_context
    return response


def _in_steps(answer: Any, steps: StepwiseScope, wait: ResponseWait | None) -> Iterator[Any]:
    parts = iter(answer)
    while True:
        try:
            with steps.next():
                part = next(parts)
        except StopIteration:
            if wait is not None:
                wait.wait()
            return
        yield part


async def _in_async_steps(answer: Any, steps: StepwiseScope, wait: ResponseWait | None) -> AsyncIterator[Any]:
    parts = aiter(answer)
    while True:
        try:
            with steps.next():
                part = await anext(parts)
        except StopAsyncIteration:
            if wait is not None:
                await wait.wait_async()
            return
        yield part
