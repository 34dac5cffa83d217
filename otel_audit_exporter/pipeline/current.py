"""The pipeline in force, which the global functions act on; nothing here makes one but where the SDK has begun to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.pipeline.standalone import standalone_exporter
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock
from otel_audit_exporter.runtime.log import RateLimitedLogger

if TYPE_CHECKING:
    from otel_audit_exporter.config.settings import Settings
    from otel_audit_exporter.pipeline.pipeline import AuditPipeline


class Running:
    """The pipeline in force, and what it was made of."""

    lock = ForkSafeLock()
    pipeline: AuditPipeline | None = None
    made_of: tuple[Any, ...] | None = None
    rate_limited_log = RateLimitedLogger()  # for as long as there is none
    stand_in: Callable[[Settings], AuditPipeline] | None = None  # answers for configure_audit, in tests


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
    pipeline = Running.pipeline
    if pipeline is not None:
        return pipeline
    with Running.lock:
        exporter = standalone_exporter()
        if Running.pipeline is None and exporter is not None:
            from otel_audit_exporter.pipeline.building import pipeline_around

            Running.pipeline, Running.made_of = pipeline_around(exporter), None
        return Running.pipeline


def current_pipeline() -> AuditPipeline | None:
    """Return the pipeline in force, or None; nothing is made."""
    return Running.pipeline


def say_once(level: int, cause: object, message: str, *arguments: object) -> None:
    """Log something that may come with every event: once for each cause, then counted (see ``RateLimitedLogger``)."""
    pipeline = Running.pipeline
    (pipeline.rate_limited_log if pipeline is not None else Running.rate_limited_log).say(
        level, cause, message, *arguments
    )


@contextmanager
def replaced_pipeline(pipeline: AuditPipeline, stand_in: Callable[[Settings], AuditPipeline]) -> Iterator[None]:
    """Have ``pipeline`` in force for a while, for tests.

    ``configure_audit`` and ``attach_audit`` check their arguments meanwhile, and return what ``stand_in`` answers to
    the settings. What was in force before is so again afterwards.
    """
    with Running.lock:
        before = (Running.pipeline, Running.made_of, Running.stand_in)
        Running.pipeline, Running.made_of, Running.stand_in = pipeline, None, stand_in
    try:
        yield
    finally:
        with Running.lock:
            Running.pipeline, Running.made_of, Running.stand_in = before
