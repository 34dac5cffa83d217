"""The trail as a FastAPI router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Unpack

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from otel_audit_exporter.operations.handler import OperationsRequest
from otel_audit_exporter.runtime.awaiting import awaited
from otel_audit_exporter.trail.handler import TrailHandler, TrailOptions, TrailResponse, closed
from otel_audit_exporter.trail.identity import Reader
from otel_audit_exporter.trail.streaming import in_parts

__all__ = ["audit_trail_router"]

IdentifyReader = Callable[[Request], Reader | Awaitable[Reader | None] | None]
_Text = Annotated[str | None, Query(max_length=500)]


def audit_trail_router(
    *,
    identify_reader: IdentifyReader | None = None,
    prefix: str = "",
    **options: Unpack[TrailOptions],
) -> APIRouter:
    """Return a router that shows the trail, closed to everybody whom the application does not name. ::

        def who_reads(request: Request) -> Reader | None:
            user = user_of(request)
            return Reader(user.id, tenants=[user.yacht_id]) if user.may_audit else None

        app.include_router(audit_trail_router(identify_reader=who_reads), prefix="/trail")

    ``GET /`` is the page, ``GET /events`` the same as JSON (in the OpenAPI document), ``GET /export.csv`` and
    ``/export.jsonl`` are exports, ``GET /frame`` shows one entity for an ``<iframe>``.

    :param identify_reader: asked with the request, who reads and which tenants that reader may see, as a
        :class:`Reader`; None: nobody who may. It may be a coroutine function. Without it every path answers 403.
    :param prefix: where the router is, if ``include_router`` gets no prefix.
    :param options: names, words and links of the application's own: ``resolve(ids)`` gives names for ids, asked once a
        page with a frozenset; ``describe(event)`` a sentence, or None for the page's own; ``texts`` replace the page's
        words (``otel_audit_exporter.trail.texts.ENGLISH``); ``trace_link`` is where a trace is shown, such as
        ``https://traces.example/trace/{trace_id}``; ``frame_origins`` are the origins whose pages may show the frame
        (without any, no page may); ``record_views=True`` records looks as ``audit.viewed``, once per reader, filter and
        hour.
    :raises AuditConfigurationError: for an argument that is wrong.
    """
    handler = TrailHandler(**options)
    router = APIRouter(prefix=prefix, tags=["audit"])

    async def answer(request: Request, path: str) -> Response:
        if identify_reader is None:
            return _response(request, closed())
        reader = await awaited(await run_in_threadpool(identify_reader, request))
        asked = OperationsRequest(request.method, path, dict(request.headers), dict(request.query_params))
        return _response(request, await run_in_threadpool(handler.answer, reader, asked))

    @router.get("/events", summary="Events of the audit trail", response_model=None)
    async def audit_trail_events(
        request: Request,
        entity_type: _Text = None,
        entity_id: _Text = None,
        user: _Text = None,
        tenant: _Text = None,
        action: _Text = None,
        outcome: _Text = None,
        request_id: _Text = None,
        trace_id: _Text = None,
        since: _Text = None,
        until: _Text = None,
        text: _Text = None,
        order: _Text = None,
        trail: _Text = None,
        database: _Text = None,
        access: _Text = None,
        after: Annotated[str | None, Query(description="`next` of the page before")] = None,
        limit: Annotated[str | None, Query(description="1 to 1000, 100 by default")] = None,
        count: Annotated[str | None, Query(description="1: count them, too")] = None,
    ) -> Response:
        """Return a page of the events that this reader may see, and where the next page begins."""
        return await answer(request, "/events")

    for path in ("/", "/frame", "/export.csv", "/export.jsonl"):
        router.add_api_route(
            path, _endpoint(answer, path), methods=["GET", "HEAD"], include_in_schema=False, response_model=None
        )
    return router


def _endpoint(answer: Callable[[Request, str], Awaitable[Response]], path: str) -> Callable[..., Any]:
    async def endpoint(request: Request) -> Response:
        return await answer(request, path)

    return endpoint


def _response(request: Request, answered: TrailResponse) -> Response:
    headers = dict(answered.headers)
    if isinstance(answered.body, list):
        return Response(b"" if request.method == "HEAD" else b"".join(answered.body), answered.status, headers)
    return StreamingResponse(in_parts(answered.body), answered.status, headers)
