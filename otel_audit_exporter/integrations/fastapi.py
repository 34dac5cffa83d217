"""FastAPI: set-up and end with the application, and users that dependencies know. For requests: ``asgi``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio.to_thread
from fastapi import Depends
from opentelemetry.sdk._logs.export import LogRecordExporter

from otel_audit_exporter.api.events import shutdown_audit
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.context import update_audit_context
from otel_audit_exporter.integrations.asgi import AuditMiddleware
from otel_audit_exporter.operations.fastapi_router import audit_router
from otel_audit_exporter.pipeline.configure import configure_audit
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.sinks.base import Sink
from otel_audit_exporter.trail.fastapi_router import audit_trail_router

__all__ = ["AuditMiddleware", "audit_identity", "audit_lifespan", "audit_router", "audit_trail_router"]


class audit_lifespan:  # noqa: N801  # called as a function by FastAPI
    """Shut auditing down with the application, and set it up with it where settings are given.

    Delivery at the end runs in a thread, so that the event loop is not held up. Any of::

        app = FastAPI(lifespan=audit_lifespan)                         # configure_audit() was called elsewhere
        app = FastAPI(lifespan=audit_lifespan("supabase"))             # arguments of configure_audit, any exporter
        async with audit_lifespan(exporter="supabase"): yield          # inside a lifespan of your own

    :param settings: the arguments of :func:`configure_audit`; without any, nothing is configured here.
    :param shutdown_timeout_millis: how long the end may take; 10000 by default. What is not delivered then stays in
        an outbox on disk for the next process.
    :raises AuditConfigurationError: at start-up, for what ``configure_audit`` finds wrong.
    """

    def __init__(self, app: Any = None, *, shutdown_timeout_millis: float = 10_000, **settings: Any) -> None:
        if isinstance(app, str | LogRecordExporter | Sink | Sequence):  # FastAPI gives the application itself
            settings["exporter"] = app
        self._settings = settings
        self._timeout_millis = shutdown_timeout_millis

    def __call__(self, app: Any) -> audit_lifespan:
        """Return the lifespan of ``app``."""
        return self

    async def __aenter__(self) -> None:
        if self._settings:
            configure_audit(**self._settings)

    async def __aexit__(self, *exc_info: object) -> None:
        with anyio.CancelScope(shield=True):
            done = await anyio.to_thread.run_sync(partial(shutdown_audit, self._timeout_millis))
        if not done:
            logger.warning(
                "audit: not every event was delivered within %g ms of the shutdown; an outbox on disk keeps the rest "
                "for the next process",
                self._timeout_millis,
            )


def audit_identity(
    dependency: Callable[..., Any], **fields: str | Callable[[Any], Any]
) -> Callable[..., Awaitable[Any]]:
    """Return a dependency that adds what another dependency knows, such as the user, to the request's audit context.

    It returns what ``dependency`` returned, and can stand in its place or among those of a router or an
    application. AuditMiddleware opens the context. ::

        CurrentUser = Annotated[User, Depends(audit_identity(current_user, user_id="id", yacht_id="yacht_id"))]

    :param dependency: the dependency, such as the one that knows the current user.
    :param fields: for each field of :func:`audit_context` the attribute or key of what ``dependency`` returned, or a
        callable on it. Where that is None, nothing is added.
    :raises AuditConfigurationError: no context is open. AuditEventError: a field is wrong.
    """
    if not fields:
        raise AuditConfigurationError("audit_identity needs fields, such as user_id='id'")

    async def identity(known: Any = Depends(dependency)) -> Any:  # noqa: B008  # how FastAPI takes dependencies
        if known is not None:
            update_audit_context(**{name: _take(source, known) for name, source in fields.items()})
        return known

    return identity


def _take(source: str | Callable[[Any], Any], known: Any) -> Any:
    if callable(source):
        return source(known)
    return known.get(source) if isinstance(known, Mapping) else getattr(known, source)
