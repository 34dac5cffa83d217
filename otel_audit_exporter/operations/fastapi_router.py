"""Operations over HTTP as a FastAPI router."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.params import Depends as DependsParameter

from otel_audit_exporter.operations.handler import OperationsHandler, OperationsRequest
from otel_audit_exporter.operations.wsgi_asgi import form_of
from otel_audit_exporter.pipeline.pipeline import AuditPipeline

__all__ = ["audit_router"]


def audit_router(
    *,
    token: str | None = None,
    dependencies: Sequence[DependsParameter | Callable[..., Any]] = (),
    prefix: str = "",
    pipeline: AuditPipeline | None = None,
    show_values: bool = False,
    origins: Iterable[str] = (),
    include_in_schema: bool = False,
) -> APIRouter:
    """Return a router for operations, closed to everybody whom the application does not let in.

    ``GET /`` is a page for people; ``GET /stats``, ``GET /health`` (503 while events are not accepted; with
    ``?strict=1`` also for losses of the last day), ``GET /losses`` and ``GET /dead-letters`` are JSON.
    ``POST /dead-letters/{id}/retry`` and ``POST /dead-letters/retry`` offer one or all dead letters to the sink again,
    ``POST /losses/acknowledge`` says that somebody has seen the losses. ::

        app.include_router(audit_router(dependencies=[Depends(require_admin)]), prefix="/audit")

    :param token: what a request must bring, as ``Authorization: Bearer`` or as the password that a browser asks for.
    :param dependencies: FastAPI dependencies that let a request pass or raise; with a token both must be right. With
        neither, every path answers 403.
    :param prefix: where the router is, where ``include_router`` is not given one.
    :param pipeline: the pipeline to look at; by default the one in force at each request.
    :param show_values: show the rows of dead letters, too. By default action, entity and error only.
    :param origins: other origins from which a browser may ask for a retry, such as ``"https://admin.example"``.
    :param include_in_schema: list the paths in the application's OpenAPI document.
    """
    guards = [one if isinstance(one, DependsParameter) else Depends(one) for one in dependencies]
    handler = OperationsHandler(pipeline, token=token, guarded=bool(guards), show_values=show_values, origins=origins)
    router = APIRouter(prefix=prefix, dependencies=guards, tags=["audit"], include_in_schema=include_in_schema)

    def answer(request: Request, path: str, form: Mapping[str, str] | None = None) -> Response:
        headers, query = dict(request.headers), dict(request.query_params)
        asked = OperationsRequest(request.method, path, headers, query, form or {})
        response = handler.answer(asked)
        sized = {**dict(response.headers), "content-length": str(len(response.body))}
        return Response(b"" if request.method == "HEAD" else response.body, response.status, sized)

    @router.api_route("/", methods=["GET", "HEAD"])
    def audit_page(request: Request) -> Response:
        return answer(request, "/")

    @router.api_route("/stats", methods=["GET", "HEAD"])
    def audit_stats(request: Request) -> Response:
        return answer(request, "/stats")

    @router.api_route("/health", methods=["GET", "HEAD"])
    def audit_health(request: Request) -> Response:
        return answer(request, "/health")

    @router.api_route("/dead-letters", methods=["GET", "HEAD"])
    def audit_dead_letters(request: Request) -> Response:
        return answer(request, "/dead-letters")

    @router.api_route("/losses", methods=["GET", "HEAD"])
    def audit_losses(request: Request) -> Response:
        return answer(request, "/losses")

    @router.post("/losses/acknowledge")
    async def acknowledge_audit_losses(request: Request) -> Response:
        form = form_of(await request.body())
        return await run_in_threadpool(answer, request, "/losses/acknowledge", form)

    @router.post("/dead-letters/retry")
    def retry_audit_dead_letters(request: Request) -> Response:
        return answer(request, "/dead-letters/retry")

    @router.post("/dead-letters/{record_id}/retry")
    def retry_audit_dead_letter(request: Request, record_id: str) -> Response:
        return answer(request, f"/dead-letters/{record_id}/retry")

    return router
