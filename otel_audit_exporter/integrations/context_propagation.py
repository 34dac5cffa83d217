"""The audit context of the caller who asks for a job, on its way to the process that does it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from logging import ERROR
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_audit_exporter.config.settings import load_settings
from otel_audit_exporter.errors import AuditConfigurationError, AuditEventError
from otel_audit_exporter.event.context import Scope, attach_scope, checked_fields, current_scope, detach_scope
from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.identity import NOBODY
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.redaction import Redactor
from otel_audit_exporter.event.surroundings import FOUND, Found
from otel_audit_exporter.pipeline.current import current_pipeline, say_once

KEY: Final = "otel_audit_context"
_FIELDS: Final = "fields"
_trace: Final = TraceContextTextMapPropagator()
_redacted: Final = Encoder(Redactor())


def serialize_context() -> dict[str, Any]:
    """Return the fields in force here and the current span's ids, as plain JSON values, secrets redacted."""
    scope = current_scope()
    packed: dict[str, Any] = {}
    _trace.inject(packed)
    if scope is not None:
        fields = scope.merged()
        packed[_FIELDS] = {name: None if value is NOBODY else _plain(value) for name, value in fields.items()}
        packed[FOUND] = [name for name, value in fields.items() if isinstance(value, Found)]
    return packed


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Found):
        return str(value)
    if isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return loads_exact(_encoder().value(value))
    return str(value)


def _encoder() -> Encoder:
    """Return what redacts here: the pipeline's, else what the environment asks for."""
    pipeline = current_pipeline()
    if pipeline is not None:
        return pipeline.primary.rules.encoder
    try:
        return Encoder(Redactor(load_settings({}).redact_keys))
    except AuditConfigurationError:  # configure_audit reports it
        return _redacted


class RemoteContext:
    """The context that a job brought along, for as long as the job runs; a context manager.

    A context that was open before is not seen in the job: a worker does jobs of many users, one by one.
    """

    def __init__(self, packed: object) -> None:
        self._packed: Mapping[str, Any] = packed if isinstance(packed, Mapping) else {}
        self._token: Any = None

    def __enter__(self) -> Scope:
        if not get_current_span().is_recording():  # else a tracing library has continued the trace already
            carrier = {name: value for name, value in self._packed.items() if isinstance(value, str)}
            self._token = otel_context.attach(_trace.extract(carrier, otel_context.Context()))
        scope = Scope(self._fields(), None)
        attach_scope(scope, self)
        return scope

    def __exit__(self, *exc_info: object) -> None:
        detach_scope(self)
        if self._token is not None:
            otel_context.detach(self._token)

    def _fields(self) -> dict[str, Any]:
        try:
            return checked_fields(self._unpacked())
        except AuditEventError as error:
            say_once(ERROR, ("a job's context", *error.problems), "audit: a job's context is left out: %s", error)
            return {}

    def _unpacked(self) -> dict[str, Any]:
        packed, names = self._packed.get(_FIELDS), self._packed.get(FOUND)
        fields = dict(packed) if isinstance(packed, Mapping) else {}
        for name, value in fields.items():
            if value is None:
                fields[name] = NOBODY
            elif isinstance(names, list) and name in names and isinstance(value, str):
                fields[name] = Found(value)
        return fields
