"""Drop-in for code that writes its audit log with these three functions already.

It never raises and never waits. A payload that is wrong is kept in the dead letters; what cannot be kept is logged and
counted (``rejected``).
"""

from __future__ import annotations

from collections.abc import Mapping
from logging import ERROR
from typing import Any

from otel_audit_exporter.config.settings import load_settings
from otel_audit_exporter.config.trail_settings import client_url
from otel_audit_exporter.errors import AuditError, AuditEventError, AuditShutdownError, OutboxError
from otel_audit_exporter.event.context import current_scope, overlay
from otel_audit_exporter.observability.causes import Cause
from otel_audit_exporter.observability.examples import describe_arguments
from otel_audit_exporter.observability.stats import AuditStats, shown_rate, stats_document, success_rate
from otel_audit_exporter.pipeline.configure import configure_audit
from otel_audit_exporter.pipeline.current import current_pipeline, say_once
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock
from otel_audit_exporter.runtime.log import name_failures_as_before

__all__ = ["get_audit_stats", "shutdown_audit_logger", "write_audit_log_async"]


class _Built:
    """What is known before there is a pipeline."""

    lock = ForkSafeLock()
    without_client: AuditPipeline | None = None  # made of the environment for want of a client
    rejected = 0  # before there was any pipeline


def write_audit_log_async(db: Any, payload: Mapping[str, Any]) -> str | None:
    """Record the event that ``payload`` describes, and return at once; never raises.

    ``payload``: ``yacht_id``, ``entity_type``, ``action``, ``entity_id``, ``user_id``, and optionally
    ``old_values`` and ``new_values`` (an object, or the JSON text of one); other arguments of ``audit_event`` are
    taken too. ``db`` is a supabase client: the event goes to the database at its URL, in its schema, even if other
    clients were given before; of several keys for one, the newest is used. With no pipeline configured the first call
    builds one. Where another exporter than ``supabase`` is configured (OTEL_AUDIT_EXPORTER, or ``configure_audit``),
    that one takes everything. A payload that is wrong goes to the dead letters with its reasons, and counts as
    ``failed``; an event that the outbox refuses is logged and counted (``rejected``).

    Returns the id of the record, for who reads it back; None where there is none.
    """
    name_failures_as_before()
    try:
        pipeline = _pipeline_for(db)
        if not isinstance(payload, Mapping):
            error = AuditEventError({"payload": f"must be a mapping, not {type(payload).__name__}"})
            return pipeline.keep_invalid(error, {"payload": payload}).record_id
        said = {name: value for name, value in payload.items() if value is not None}
        database = pipeline.clients.name_of(db)
        if database is not None:
            said.setdefault("database", database)
        scope = current_scope()
        said = overlay(scope.merged(), said) if scope is not None else said
        if pipeline is _Built.without_client and client_url(db) is None:
            return _park(pipeline, said)
        receipt = pipeline.submit(said, park_invalid=True)
        if scope is not None:
            scope.note_event()
        return receipt.record_id
    except Exception as error:
        _reject(error, payload)
        return None


def get_audit_stats() -> dict[str, Any]:
    """Return the counters: zeros before the first call, the last ones after shutdown.

    Keys: ``submitted`` (every event that was asked for, rejected ones included), ``succeeded``, ``failed`` (parked,
    lost or rejected), ``success_rate`` (such as ``"99.8%"``, rounded down), ``queue_size``, and the other counters of
    :class:`~otel_audit_exporter.AuditStats`.
    """
    pipeline = current_pipeline()
    stats = AuditStats() if pipeline is None else pipeline.stats()
    document = stats_document(stats)
    rejected = stats.rejected + _Built.rejected
    document["rejected"] = rejected
    document["submitted"] += rejected
    document["failed"] += rejected
    document["success_rate"] = shown_rate(success_rate(stats.succeeded, stats.failed + rejected))
    return document


def shutdown_audit_logger(wait: bool = True, timeout: float | None = 10.0) -> bool:
    """Shut auditing down, ``wait`` for up to ``timeout`` seconds; True if everything accepted is stored or parked.

    ``timeout=None`` is no limit. What is left in an outbox on disk is delivered by the next process.
    """
    pipeline = current_pipeline()
    millis = None if timeout is None else timeout * 1000
    return True if pipeline is None else pipeline.shutdown(millis if wait else 0)


def _pipeline_for(db: Any) -> AuditPipeline:
    running = current_pipeline()
    if running is not None:
        return running
    with _Built.lock:
        if current_pipeline() is None:
            other = _other_exporter()
            around: dict[str, Any] = {} if other else {"exporter": "supabase", "client": db}
            pipeline = configure_audit(on_outbox_error="log", on_invalid="park", **around)
            _Built.without_client = pipeline if client_url(db) is None and not other else None
        return current_pipeline() or configure_audit()


def _park(pipeline: AuditPipeline, said: Mapping[str, Any]) -> str:
    """Park an event whose database is unknown, because no client was given before it."""
    error = AuditEventError({"db": "has no URL, so nothing says whose event it is"})
    return pipeline.keep_invalid(error, said).record_id


def _other_exporter() -> bool:
    """Return whether the environment names another exporter than the one that clients are for."""
    chosen = load_settings({}).exporter
    return chosen is not None and chosen.strip().lower().partition(",")[0] != "supabase"


def _reject(error: Exception, payload: object) -> None:
    """Note an event that did not come to the pipeline; what the pipeline itself refuses, it has noted."""
    if isinstance(error, AuditEventError | OutboxError | AuditShutdownError):
        return
    text = str(error) if isinstance(error, AuditError | TypeError) else type(error).__name__
    example = describe_arguments(payload) if isinstance(payload, Mapping) else "unknown"
    pipeline = current_pipeline()
    if pipeline is not None:
        pipeline.reject(Cause(f"audit event not recorded, {text}", "correct the call"), example)
        return
    _Built.rejected += 1
    said = "audit: an event was not recorded: %s. What to do: correct the setting. It was: %s"
    say_once(ERROR, type(error), said, text, example)
