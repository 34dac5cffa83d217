"""Telemetry set-up: ``configure_audit`` and ``attach_audit`` make the pipeline that the global functions use.

What a pipeline is made of is imported by these two, and by the end of their call: none of it is imported later,
between events, where a fork could come in between.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk._logs import LoggerProvider

from otel_audit_exporter.errors import AuditConfigurationError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource

    from otel_audit_exporter.pipeline.building import ExporterChoice
    from otel_audit_exporter.pipeline.databases import DatabaseNames
    from otel_audit_exporter.pipeline.pipeline import AuditPipeline


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
    documentation's table of settings; ``exporter_options`` are those of the exporter: ``url``, ``key``, ``token``,
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
    from otel_audit_exporter.pipeline.installation import install_own

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
    return install_own(
        exporter,
        arguments,
        resource=resource,
        meter_provider=meter_provider,
        trails=trails,
        databases=databases,
    )


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
    from otel_audit_exporter.pipeline.installation import install_attached

    if not isinstance(logger_provider, LoggerProvider):
        raise AuditConfigurationError(
            f"logger_provider: {type(logger_provider).__name__} is no LoggerProvider of the OpenTelemetry SDK: "
            "make one and set it before, or call configure_audit(), which needs none"
        )
    return install_attached(
        logger_provider,
        exporter,
        dict(options),
        meter_provider=meter_provider,
        trails=trails,
        databases=databases,
    )
