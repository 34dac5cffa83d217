"""Makes the pipeline that is configured: what it takes is imported when somebody configures one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.config.trail_settings import load_expanded
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.pipeline.building import (
    ExporterChoice,
    OneExporter,
    known_exporters,
    make_exporters,
    make_pipeline,
)
from otel_audit_exporter.pipeline.current import Running
from otel_audit_exporter.pipeline.databases import DatabaseNames
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.frozen_platforms import warn_if_frozen
from otel_audit_exporter.pipeline.meaning import meaning_of
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.pipeline.routing import Routing
from otel_audit_exporter.pipeline.sdk_versions import own_provider
from otel_audit_exporter.pipeline.start_lines import say_where
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.runtime.process_exit import end_with_process
from otel_audit_exporter.runtime.uwsgi import warn_if_a_fork_may_hang


def install_own(
    exporter: ExporterChoice | None,
    arguments: dict[str, Any],
    *,
    resource: Resource | None,
    meter_provider: MeterProvider | None,
    trails: Mapping[str, Mapping[str, Any]] | None,
    databases: DatabaseNames | None,
) -> AuditPipeline:
    """Make the pipeline of :func:`configure_audit`, on a provider of its own."""
    routing = Routing(trails, databases, resource)

    def build(exporters: list[AuditExporter], settings: Settings) -> AuditPipeline:
        provider = own_provider(resource, meter_provider)
        return make_pipeline(exporters, settings, provider, meter_provider, routing, attached=False)

    return _install(exporter, arguments, resource, (resource, meter_provider), routing, build)


def install_attached(
    logger_provider: LoggerProvider,
    exporter: ExporterChoice | None,
    arguments: dict[str, Any],
    *,
    meter_provider: MeterProvider | None,
    trails: Mapping[str, Mapping[str, Any]] | None,
    databases: DatabaseNames | None,
) -> AuditPipeline:
    """Make the pipeline of :func:`attach_audit`, on the application's provider."""
    routing = Routing(trails, databases, logger_provider.resource)

    def build(exporters: list[AuditExporter], settings: Settings) -> AuditPipeline:
        logger.warning(
            "audit: attached to the application's LoggerProvider: its other log record processors receive the "
            "content of audit events"
        )
        return make_pipeline(exporters, settings, logger_provider, meter_provider, routing, attached=True)

    return _install(exporter, arguments, logger_provider.resource, (logger_provider,), routing, build)


def _install(
    exporter: ExporterChoice | None,
    arguments: dict[str, Any],
    resource: Resource | None,
    extra: tuple[Any, ...],
    routing: Routing,
    build: Callable[[list[AuditExporter], Settings], AuditPipeline],
) -> AuditPipeline:
    _refuse_green_threads()
    _refuse_process_without_threads()
    name = exporter if isinstance(exporter, str) else None
    settings = load_expanded({"exporter": name, **arguments})
    if resource is not None and not isinstance(resource, Resource):
        raise AuditConfigurationError(
            f"resource: must be a Resource (Resource.create({{...}})), not {type(resource).__name__}"
        )
    chosen = known_exporters(exporter, settings)
    made_of = meaning_of(({**settings.values, "exporter": chosen}, extra, routing.trails, routing.databases))
    with Running.lock:
        if Running.stand_in is not None:
            return Running.stand_in(settings)
        running = Running.pipeline
        if running is not None and running.closed:
            running.let_go()
        elif running is not None and Running.made_of is not None:  # else it was made for want of a call like this
            _close_unused(chosen, running)
            if made_of == Running.made_of:
                return running
            raise AuditConfigurationError(
                "auditing is configured already, with other arguments: call configure_audit() once per process, "
                "or shutdown_audit() before another call"
            )
        warn_if_frozen(settings, environ=os.environ)
        warn_if_a_fork_may_hang()
        exporters = make_exporters(chosen, settings, resource, needs_address=routing.databases is None)
        pipeline = build(exporters, settings)
        Running.pipeline, Running.made_of = pipeline, made_of
        say_where(pipeline, settings, chosen=exporter is not None or settings.chosen("exporter"))
        end_with_process(pipeline, on_sigterm=settings.handle_sigterm)
        return pipeline


def _refuse_green_threads() -> None:
    """Raise where gevent or eventlet has replaced Python's threads: an outbox between them could block."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    for name, patched in (
        ("gevent", gevent is not None and gevent.is_module_patched("threading")),
        ("eventlet", eventlet is not None and eventlet.is_monkey_patched("thread")),
    ):
        if patched:
            raise AuditConfigurationError(
                f"{name} has patched Python's threads, with which this library does not work: "
                "use threads or asyncio (gunicorn's gthread or uvicorn's worker)"
            )


def _refuse_process_without_threads() -> None:
    """Raise where no thread can be started: the main thread has ended, or a sub-interpreter may have none."""
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int).result()
    except RuntimeError as error:
        raise AuditConfigurationError(
            f"no thread can be started here ({error}): call configure_audit() before the main thread ends, in an "
            "interpreter that may start threads"
        ) from None


def _close_unused(chosen: Sequence[OneExporter], running: AuditPipeline) -> None:
    """Leave nothing of exporters that were made for a call that does not use them."""
    for one in chosen:
        if isinstance(one, AuditExporter) and one not in running.exporters and not one.channel.counters.submitted:
            one.close(Clock.monotonic(), patient=False)
