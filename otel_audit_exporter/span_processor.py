"""The road of traces: a reference to an event on the current span, and span events of other code as audit events."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import NonRecordingSpan, format_span_id, format_trace_id, get_current_span, use_span

from otel_audit_exporter.announce import logger
from otel_audit_exporter.attributes import AUDIT_ACTION, AUDIT_RECORD_ID, FIELD_OF
from otel_audit_exporter.configure import get_audit_pipeline
from otel_audit_exporter.context import Scope, current_scope, overlay
from otel_audit_exporter.errors import AuditError
from otel_audit_exporter.pipeline import AuditPipeline

SPAN_EVENT_NAME: Final = "audit"
_REFERENCE: Final = frozenset({AUDIT_RECORD_ID, AUDIT_ACTION})
_REMEMBERED_IDS: Final = 10_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Seen:
    """The ids that came last, a bounded number of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, record_id: str) -> bool:
        """Remember an id; False where it is known."""
        with self._lock:
            if record_id in self._ids:
                return False
            self._ids[record_id] = None
            if len(self._ids) > _REMEMBERED_IDS:
                self._ids.popitem(last=False)
            return True


_referred_to = _Seen()


def mark_span(record_id: str, action: str) -> None:
    """Leave a reference to a recorded event on the current span: its id and action, no values."""
    span = get_current_span()
    if span.is_recording():
        _referred_to.add(record_id)
        name = action.value if isinstance(action, Enum) else action
        span.add_event(SPAN_EVENT_NAME, {AUDIT_RECORD_ID: record_id, AUDIT_ACTION: name})


class AuditSpanProcessor(SpanProcessor):
    """Turn span events that carry ``audit.action`` into audit events when their span ends.

    For code that knows plain OpenTelemetry only: ``span.add_event("...", {"audit.action": ..., ...})`` with the
    attributes that an audit log record has; JSON documents are their text. The event's time, and the span's trace
    and span id, are those of the row. What is missing is filled in from the ``audit_context`` in which the span was
    started, else from the one in which it ended. An event that is recorded already, as those of
    ``audit_event(..., as_span_event=True)`` are, and an id that came before, is passed over. An event that cannot
    be recorded is logged and counted (``rejected``); nothing is raised into ``span.end()``.

    This road cannot promise what ``audit_event()`` does: spans that are not sampled have no events, a span keeps
    its last 128, attribute limits cut values, and what a killed process had not ended is gone.

    :param pipeline: where the events go; None: the pipeline in force when the span ends.
    """

    def __init__(self, pipeline: AuditPipeline | None = None) -> None:
        self._pipeline = pipeline
        self._seen = _Seen()
        self._scopes: weakref.WeakKeyDictionary[Any, Scope] = weakref.WeakKeyDictionary()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Remember the audit context in which the span starts."""
        scope = current_scope()
        if scope is not None:
            self._scopes[span] = scope

    def on_end(self, span: ReadableSpan) -> None:
        """Record the span's audit events; never raises."""
        events = [event for event in span.events if AUDIT_ACTION in (event.attributes or {})]
        if not events:
            return
        scope = self._scope_of(span) or current_scope()
        for event in events:
            try:
                self._record(span, event, scope)
            except Exception as error:
                _say_rejected(error)

    def shutdown(self) -> None:
        """Do nothing: the pipeline has an end of its own."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Deliver what waits; True only if everything accepted so far is stored or parked within the time."""
        try:
            return (self._pipeline or get_audit_pipeline()).force_flush(timeout_millis)
        except AuditError:
            return True  # nothing is configured, so nothing was accepted

    def _scope_of(self, span: ReadableSpan) -> Scope | None:
        # The SDK hands on_end a read-only twin of the span that on_start saw: they share their context object.
        return next((scope for started, scope in list(self._scopes.items()) if started.context is span.context), None)

    def _record(self, span: ReadableSpan, event: Event, scope: Scope | None) -> None:
        attributes = event.attributes or {}
        if _is_reference(event.name, attributes) or not self._is_new(attributes.get(AUDIT_RECORD_ID)):
            return
        said = _said_by(span, event)
        pipeline = self._pipeline or get_audit_pipeline()
        with use_span(NonRecordingSpan(span.get_span_context())):
            pipeline.submit(said if scope is None else overlay(scope.merged(), said))

    def _is_new(self, record_id: object) -> bool:
        return not isinstance(record_id, str) or self._seen.add(record_id.strip().lower())


def _is_reference(name: str, attributes: Mapping[str, Any]) -> bool:
    record_id = attributes.get(AUDIT_RECORD_ID)
    if not isinstance(record_id, str):
        return False
    return (name == SPAN_EVENT_NAME and attributes.keys() == _REFERENCE) or _referred_to.knows(record_id)
