"""How a pipeline is built of what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.exporters import (
    EXPORTERS,
    ForwardingAuditExporter,
    SinkAuditExporter,
    make_exporter,
)
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.pipeline.routing import Routing
from otel_audit_exporter.pipeline.sdk_versions import made_with_known
from otel_audit_exporter.pipeline.standalone import standalone_exporters
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.base import Sink

DEFAULT_EXPORTER: Final = "sqlite"
_LONGEST_NAME: Final = 30

OneExporter = str | LogRecordExporter | Sink
ExporterChoice = OneExporter | Sequence[OneExporter]


def make_exporters(
    chosen: Sequence[OneExporter], settings: Settings, resource: Resource | None, *, needs_address: bool
) -> list[AuditExporter]:
    """Make the exporters that were chosen; those half made are closed where one cannot be."""
    made: list[AuditExporter] = []
    try:
        for one in chosen:
            alone = len(chosen) == 1
            made.append(_exporter(one, settings, resource, alone=alone, needs_address=needs_address or bool(made)))
        names = [one.channel.name for one in made]
        if len(set(names)) < len(names):
            raise AuditConfigurationError(f"exporter (OTEL_AUDIT_EXPORTER): each sink once, not {', '.join(names)}")
    except BaseException:
        for half in made:
            if half not in chosen:
                half.close(Clock.monotonic(), patient=False)
        raise
    return made


def known_exporters(exporter: ExporterChoice | None, settings: Settings) -> list[OneExporter]:
    """Return what was chosen, one by one; raise :class:`AuditConfigurationError` where it is no exporter."""
    chosen = _chosen(exporter if exporter is not None else settings.exporter or DEFAULT_EXPORTER)
    for one in chosen or [""]:
        made = isinstance(one, LogRecordExporter | Sink) and not isinstance(one, type)
        if not made and one not in (*EXPORTERS,):
            raise AuditConfigurationError(_unknown_exporter(one))
    return chosen


def _chosen(given: ExporterChoice) -> list[OneExporter]:
    """Return the names and exporters that were given, a list with commas taken apart."""
    parts = [given] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
    chosen: list[OneExporter] = []
    for part in parts:
        chosen.extend(part.lower().replace(" ", "").split(",") if isinstance(part, str) else [part])
    return [one for one in chosen if one != ""]


def _exporter(
    one: OneExporter, settings: Settings, resource: Resource | None, *, alone: bool, needs_address: bool
) -> AuditExporter:
    if isinstance(one, AuditExporter):
        if one.channel.closed:
            raise AuditConfigurationError(f"{one!r} was shut down: make a new one")
        one.take_settings(settings, alone=alone)
        return one
    if isinstance(one, LogRecordExporter):
        return ForwardingAuditExporter(one, resource=resource, settings=settings)
    if not isinstance(one, str):
        return SinkAuditExporter(one, settings=settings)
    return make_exporter(one, settings, resource, needs_address=needs_address)


def _unknown_exporter(given: Any) -> str:
    if isinstance(given, str):  # a DSN or a key that came here by mistake is not repeated
        what = repr(given) if len(given) <= _LONGEST_NAME and "@" not in given else "what was given"
    else:
        what = f"the class {given.__name__} (make one first)" if isinstance(given, type) else type(given).__name__
    return (
        f"exporter (OTEL_AUDIT_EXPORTER): {what} is none; must be one of {', '.join(EXPORTERS)}, "
        "an exporter of the SDK's interface, or a sink"
    )


def make_pipeline(
    exporters: list[AuditExporter],
    settings: Settings,
    provider: LoggerProvider,
    meter_provider: MeterProvider | None,
    routing: Routing,
    *,
    attached: bool,
) -> AuditPipeline:
    """Return a pipeline whose exporters are behind processors of their own on ``provider``."""
    try:
        trails, databases = routing.read(exporters)
    except BaseException:
        for exporter in exporters:
            exporter.close(Clock.monotonic(), patient=False)
        raise
    processors: list[LogRecordProcessor] = []
    if settings.mode == "batch":
        processors = [
            made_with_known(
                BatchLogRecordProcessor,
                exporter,
                schedule_delay_millis=settings.schedule_delay_millis,
                max_export_batch_size=settings.max_export_batch_size,
                export_timeout_millis=settings.export_timeout_millis,
                max_queue_size=settings.max_queue_size,
                meter_provider=meter_provider,
            )
            for exporter in exporters
        ]
    for processor in processors:
        provider.add_log_record_processor(processor)
    return AuditPipeline(
        exporters,
        settings,
        provider=provider,
        processors=processors,
        attached=attached,
        meter_provider=meter_provider,
        trails=trails,
        databases=databases,
    )


def pipeline_around(exporter: AuditExporter) -> AuditPipeline:
    """Return a pipeline for the exporters behind processors of the SDK's making, on the global provider."""
    from opentelemetry._logs import get_logger_provider

    trails, databases = Routing.of_environment(exporter)
    pipeline = AuditPipeline(
        [exporter],
        exporter.settings,
        provider=get_logger_provider(),
        processors=[],
        attached=True,
        owns=False,
        trails=trails,
        databases=databases,
    )
    pipeline.destinations.take(one for one in standalone_exporters() if one.trail != exporter.trail)
    return pipeline
