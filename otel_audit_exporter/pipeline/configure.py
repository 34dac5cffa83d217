"""Telemetry set-up: ``configure_audit`` and ``attach_audit`` make the pipeline that the global functions use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.config.settings import Settings, load_settings
from otel_audit_exporter.config.trail_settings import expand_client
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.pipeline.building import (
    ExporterChoice,
    OneExporter,
    known_exporters,
    make_exporters,
    make_pipeline,
    pipeline_around,
)
from otel_audit_exporter.pipeline.databases import DatabaseNames
from otel_audit_exporter.pipeline.exporter import AuditExporter, standalone_exporter
from otel_audit_exporter.pipeline.frozen_platforms import warn_if_frozen
from otel_audit_exporter.pipeline.meaning import meaning_of
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.pipeline.routing import Routing
from otel_audit_exporter.pipeline.sdk_versions import own_provider
from otel_audit_exporter.pipeline.start_lines import say_where
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock
from otel_audit_exporter.runtime.log import RateLimitedLogger, logger
from otel_audit_exporter.runtime.process_exit import end_with_process


class _Running:
    """The pipeline in force, and what it was made of."""

    lock = ForkSafeLock()
    pipeline: AuditPipeline | None = None
    made_of: tuple[Any, ...] | None = None
    rate_limited_log = RateLimitedLogger()  # for as long as there is none
    stand_in: Callable[[Settings], AuditPipeline] | None = None  # answers for configure_audit, in tests


def configure_audit(
    exporter: ExporterChoice | None = None,
    *,
    mode: str | None = None,
    profile: str | None = None,
    table: str | None = None,
    schema: str | None = None,
    columns: Mapping[str, str] | None = None,
    column_defaults: Mapping[str, Any] | None = None,
    unmapped: str | None = None,
    surroundings: str | None = None,
    ip: str | None = None,
    tenants: bool | None = None,
    optional: Sequence[str] | None = None,
    ids: str | None = None,
    outbox: str | None = None,
    outbox_dir: str | os.PathLike[str] | None = None,
    outbox_write: str | None = None,
    schedule_delay_millis: int | None = None,
    max_queue_size: int | None = None,
    max_export_batch_size: int | None = None,
    export_timeout_millis: int | None = None,
    redact_keys: Sequence[str] | None = None,
    resource: Resource | None = None,
    meter_provider: MeterProvider | None = None,
    on_invalid: str | None = None,
    trails: Mapping[str, Mapping[str, Any]] | None = None,
    databases: DatabaseNames | None = None,
    **exporter_options: Any,
) -> AuditPipeline:
    """Set up the audit pipeline of this process, once, in telemetry set-up.

    It has a ``LoggerProvider`` of its own, so that audit records share no queue, sampler, limit or filter with
    ordinary logs. ``exporter`` is a name, an exporter of this library or any other of the SDK's interface, a sink of
    your own, or a list of such; every argument left out comes from the environment, then from the default (the
    README's table of settings; ``exporter_options`` are those of the exporter: ``url``, ``key``, ``token``,
    ``client``, ``path``, ...). An exporter of this library that is made already takes over what it was not made
    with. ``resource`` goes on every record.

    ``trails``: other tables by name, each a mapping of settings (``table`` and ``columns`` of its own, the rest
    as here); ``audit_event(..., trail="ledger")`` goes there. ``databases``: what the names of databases stand for,
    each a mapping of ``url`` and ``key``, ``dsn`` or ``path``, and ``schema``; or a callable that returns one for a
    name (None: it is not known), and is never asked by a call.

    A second call with the same arguments returns the running pipeline; with others it raises. After
    ``shutdown_audit()`` a call starts a new one. Raises :class:`AuditConfigurationError` that names each setting
    that is wrong or missing, and the outbox directory where it cannot be written to.
    """
    arguments = dict(
        mode=mode,
        profile=profile,
        table=table,
        schema=schema,
        columns=columns,
        column_defaults=column_defaults,
        unmapped=unmapped,
        surroundings=surroundings,
        ip=ip,
        tenants=tenants,
        optional=optional,
        ids=ids,
        outbox=outbox,
        outbox_dir=outbox_dir,
        outbox_write=outbox_write,
        schedule_delay_millis=schedule_delay_millis,
        max_queue_size=max_queue_size,
        max_export_batch_size=max_export_batch_size,
        export_timeout_millis=export_timeout_millis,
        redact_keys=redact_keys,
        on_invalid=on_invalid,
        **exporter_options,
    )

    routing = Routing(trails, databases, resource)

    def build(exporters: list[AuditExporter], settings: Settings) -> AuditPipeline:
        provider = own_provider(resource, meter_provider)
        return make_pipeline(exporters, settings, provider, meter_provider, routing, attached=False)

    return _install(exporter, arguments, resource, (resource, meter_provider), routing, build)


def attach_audit(
    logger_provider: LoggerProvider,
    exporter: ExporterChoice | None = None,
    *,
    meter_provider: MeterProvider | None = None,
    trails: Mapping[str, Mapping[str, Any]] | None = None,
    databases: DatabaseNames | None = None,
    **options: Any,
) -> AuditPipeline:
    """Set up the audit pipeline on a ``LoggerProvider`` that the application owns.

    Like :func:`configure_audit`, with the arguments of that; audit records then go through the provider's other
    processors too, which see their content: a warning says so. The provider is not shut down with the pipeline.
    """

    if not isinstance(logger_provider, LoggerProvider):
        raise AuditConfigurationError(
            f"logger_provider: {type(logger_provider).__name__} is no LoggerProvider of the OpenTelemetry SDK: "
            "make one and set it before, or call configure_audit(), which needs none"
        )

    routing = Routing(trails, databases, logger_provider.resource)

    def build(exporters: list[AuditExporter], settings: Settings) -> AuditPipeline:
        logger.warning(
            "audit: attached to the application's LoggerProvider: its other log record processors receive the "
            "content of audit events"
        )
        return make_pipeline(exporters, settings, logger_provider, meter_provider, routing, attached=True)

    return _install(exporter, dict(options), logger_provider.resource, (logger_provider,), routing, build)


def get_audit_pipeline() -> AuditPipeline:
    """Return the pipeline in force: the configured one, else one around an exporter that the SDK has built.

    Raises :class:`AuditConfigurationError` where there is neither.
    """
    pipeline = get_or_adopt_pipeline()
    if pipeline is None:
        raise AuditConfigurationError(
            "auditing is not configured: call configure_audit() once in telemetry set-up, "
            "for example configure_audit('sqlite')"
        )
    return pipeline


def get_or_adopt_pipeline() -> AuditPipeline | None:
    """Return the pipeline in force, which an exporter that the SDK has built gets now; None where there is neither."""
    pipeline = _Running.pipeline
    if pipeline is not None:
        return pipeline
    with _Running.lock:
        exporter = standalone_exporter()
        if _Running.pipeline is None and exporter is not None:
            _Running.pipeline, _Running.made_of = pipeline_around(exporter), None
        return _Running.pipeline


def current_pipeline() -> AuditPipeline | None:
    """Return the pipeline in force, or None; nothing is made."""
    return _Running.pipeline


def say_once(level: int, cause: object, message: str, *arguments: object) -> None:
    """Log something that may come with every event: once for each cause, then counted (see ``RateLimitedLogger``)."""
    pipeline = _Running.pipeline
    (pipeline.rate_limited_log if pipeline is not None else _Running.rate_limited_log).say(
        level, cause, message, *arguments
    )


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
    arguments = expand_client(arguments)
    name = exporter if isinstance(exporter, str) else None
    settings = load_settings({"exporter": name, **arguments})
    if resource is not None and not isinstance(resource, Resource):
        raise AuditConfigurationError(
            f"resource: must be a Resource (Resource.create({{...}})), not {type(resource).__name__}"
        )
    chosen = known_exporters(exporter, settings)
    made_of = meaning_of(({**settings.values, "exporter": chosen}, extra, routing.trails, routing.databases))
    with _Running.lock:
        if _Running.stand_in is not None:
            return _Running.stand_in(settings)
        running = _Running.pipeline
        if running is not None and running.closed:
            running.let_go()
        elif running is not None and _Running.made_of is not None:  # else it was made for want of a call like this
            _close_unused(chosen, running)
            if made_of == _Running.made_of:
                return running
            raise AuditConfigurationError(
                "auditing is configured already, with other arguments: call configure_audit() once per process, "
                "or shutdown_audit() before another call"
            )
        warn_if_frozen(settings, environ=os.environ)
        exporters = make_exporters(chosen, settings, resource, needs_address=routing.databases is None)
        pipeline = build(exporters, settings)
        _Running.pipeline, _Running.made_of = pipeline, made_of
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


@contextmanager
def replaced_pipeline(pipeline: AuditPipeline, stand_in: Callable[[Settings], AuditPipeline]) -> Iterator[None]:
    """Have ``pipeline`` in force for a while, for tests.

    ``configure_audit`` and ``attach_audit`` check their arguments meanwhile, and return what ``stand_in`` answers to
    the settings. What was in force before is so again afterwards.
    """
    with _Running.lock:
        before = (_Running.pipeline, _Running.made_of, _Running.stand_in)
        _Running.pipeline, _Running.made_of, _Running.stand_in = pipeline, None, stand_in
    try:
        yield
    finally:
        with _Running.lock:
            _Running.pipeline, _Running.made_of, _Running.stand_in = before
