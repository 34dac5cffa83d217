"""Spans: a reference to an event on the current span, and span events of other code as audit events."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from logging import ERROR
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    format_span_id,
    format_trace_id,
    use_span,
)

from otel_audit_exporter.api.span_reference import REFERRED_TO, SPAN_EVENT_NAME, SeenIds
from otel_audit_exporter.errors import AuditError
from otel_audit_exporter.event.context import Scope, current_scope, overlay
from otel_audit_exporter.event.fields import AUDIT_ACTION, AUDIT_RECORD_ID, FIELD_OF
from otel_audit_exporter.observability.causes import Cause
from otel_audit_exporter.observability.examples import describe_arguments
from otel_audit_exporter.pipeline.current import get_audit_pipeline, say_once
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.runtime.log import rejections_logged_by_caller

_REFERENCE: Final = frozenset({AUDIT_RECORD_ID, AUDIT_ACTION})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class AuditSpanProcessor(SpanProcessor):
    """Turn span events that carry ``audit.action`` into audit events when their span ends.

    For code that knows plain OpenTelemetry only: ``span.add_event("...", {"audit.action": ..., ...})`` with the
    attributes that an audit log record has; JSON documents are their text. The event's time, and the span's trace
    and span id, are those of the row. What is missing is filled in from the ``audit_context`` in which the span was
    started, else from the one in which it ended. An event that is recorded already, as those of
    ``audit_event(..., as_span_event=True)`` are, and an id that came before, is passed over. An event that cannot
    be recorded is logged and counted (``rejected``); nothing is raised into ``span.end()``.

    Span events cannot promise what ``audit_event()`` does: spans that are not sampled have no events, a span keeps
    its last 128, attribute limits cut values, and what a killed process had not ended is gone.

    :param pipeline: where the events go; None: the pipeline in force when the span ends.
    """

    def __init__(self, pipeline: AuditPipeline | None = None) -> None:
        self._pipeline = pipeline
        self._seen = SeenIds()
        self._scopes: dict[tuple[int, int], tuple[weakref.ref[Span], Scope]] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Remember the audit context in which the span starts."""
        scope = current_scope()
        if scope is not None:
            key = _ids_of(span)
            self._scopes[key] = (weakref.ref(span, lambda _: self._scopes.pop(key, None)), scope)

    def on_end(self, span: ReadableSpan) -> None:
        """Record the span's audit events; never raises."""
        started_in = self._scopes.pop(_ids_of(span), None)
        events = [event for event in span.events if AUDIT_ACTION in (event.attributes or {})]
        if not events:
            return
        scope = current_scope() if started_in is None else started_in[1]
        for event in events:
            try:
                with rejections_logged_by_caller():
                    self._record(span, event, scope)
            except Exception as error:
                self._seen.discard(_normal((event.attributes or {}).get(AUDIT_RECORD_ID)) or "")
                self._say_rejected(span, event, error)

    def shutdown(self) -> None:
        """Do nothing: the pipeline has an end of its own."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Deliver what waits; True only if everything accepted so far is stored or parked within the time."""
        try:
            return self._in_force().force_flush(timeout_millis)
        except AuditError:
            return True  # nothing is configured, so nothing was accepted

    def _record(self, span: ReadableSpan, event: Event, scope: Scope | None) -> None:
        attributes = event.attributes or {}
        record_id = _normal(attributes.get(AUDIT_RECORD_ID))
        if _is_reference(event.name, record_id, attributes):
            return
        if record_id is not None and not self._seen.add(record_id):
            return
        said = _said_by(span, event)
        with use_span(NonRecordingSpan(_context_of(span))):
            self._in_force().submit(said if scope is None else overlay(scope.merged(), said))
        if scope is not None:
            scope.note_event()

    def _in_force(self) -> AuditPipeline:
        return get_audit_pipeline() if self._pipeline is None else self._pipeline

    def _say_rejected(self, span: ReadableSpan, event: Event, error: Exception) -> None:
        name, text = span.name, str(error) if isinstance(error, AuditError) else type(error).__name__
        said = "audit: an event of the span %s was not recorded: %s. It was: %s"
        example = describe_arguments(_said_by(span, event))
        say_once(ERROR, ("not recorded", name, type(error)), said, name, text, example)
        if not isinstance(error, AuditError):
            with suppress(AuditError), rejections_logged_by_caller():
                self._in_force().reject(Cause(f"audit event of a span not recorded, {text}", "correct the span event"))


def _context_of(span: ReadableSpan) -> SpanContext:
    return span.get_span_context() or INVALID_SPAN_CONTEXT


def _ids_of(span: ReadableSpan) -> tuple[int, int]:
    context = _context_of(span)
    return context.trace_id, context.span_id


def _normal(record_id: object) -> str | None:
    return record_id.strip().lower() if isinstance(record_id, str) else None


def _is_reference(name: str, record_id: str | None, attributes: Mapping[str, Any]) -> bool:
    if name == SPAN_EVENT_NAME and attributes.keys() <= _REFERENCE:  # attribute limits may have taken the id
        return True
    return record_id is not None and REFERRED_TO.knows(record_id)


def _said_by(span: ReadableSpan, event: Event) -> dict[str, Any]:
    """Return the content of a span event as arguments of an audit event."""
    attributes = event.attributes or {}
    said: dict[str, Any] = {FIELD_OF[name]: value for name, value in attributes.items() if name in FIELD_OF}
    said["timestamp"] = _EPOCH + timedelta(microseconds=event.timestamp // 1000)
    said["event_name"] = event.name
    context = _context_of(span)
    said["trace_id"], said["span_id"] = format_trace_id(context.trace_id), format_span_id(context.span_id)
    return said
