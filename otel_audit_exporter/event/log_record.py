"""Events as OpenTelemetry log records, and back."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordLimits, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import TraceFlags, format_span_id, format_trace_id

from otel_audit_exporter.event.encoded_event import EncodedEvent, loads_exact
from otel_audit_exporter.event.fields import (
    ATTRIBUTE_OF,
    AUDIT_ACTION,
    AUDIT_SOURCE_TYPE,
    FIELD_OF,
    FIELDS,
    JSON_FIELDS,
)
from otel_audit_exporter.event.invalid_event import correction_of
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.routing import AUDIT_DATABASE, AUDIT_TRAIL, DEFAULT_TRAIL, RouteName
from otel_audit_exporter.event.serialization import assemble, split
from otel_audit_exporter.event.surroundings import is_inet

AUDIT_CORRECTED: Final = "audit.corrected"
LARGE_BYTES: Final = 16 * 1024
_NO_CONTEXT: Final = Context()
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FRAGMENT_ATTRIBUTES: Final = tuple(
    (position, ATTRIBUTE_OF[name], name in JSON_FIELDS) for position, name in enumerate(FIELDS) if name in ATTRIBUTE_OF
)


class EventAttributes(MutableMapping[str, Any]):
    """The attributes of an audit record, made of the event's bytes when somebody first looks at them.

    JSON documents are carried as their text. Other processors may change them, as they may those of any
    record: what is delivered is the outbox's copy.
    """

    __slots__ = ("_body", "_route", "_values")

    def __init__(self, body: bytes, route: RouteName = RouteName()) -> None:  # noqa: B008  # a constant
        self._body = body
        self._route = route
        self._values: dict[str, Any] | None = None

    def _all(self) -> dict[str, Any]:
        if self._values is None:
            self._values = to_attributes(self._body) | self._route.attributes
        return self._values

    def __getitem__(self, name: str) -> Any:
        return self._all()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._all()[name] = value

    def __delitem__(self, name: str) -> None:
        del self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"<EventAttributes of {len(self._body)} bytes>"


class AuditLogRecord(LogRecord):
    """The log record of an event that is in the outbox already; ``tickets`` say where, for each channel.

    ``slim``: only our exporters look at it, so the content of a large event is not copied from the outbox. ``deliver``
    has an event of another destination than the first one delivered.
    """

    def __init__(
        self,
        event: EncodedEvent,
        tickets: Mapping[str, Any],
        *,
        slim: bool = False,
        route: RouteName = RouteName(),  # noqa: B008  # a constant
        deliver: Callable[[], None] | None = None,
    ) -> None:
        span = event.span
        self.timestamp = event.timestamp_ns
        self.observed_timestamp = time.time_ns()
        self.context = _NO_CONTEXT
        self.trace_id = span.trace_id
        self.span_id = span.span_id
        self.trace_flags: TraceFlags = span.trace_flags
        self.severity_text = None
        self.severity_number = None
        self.body = None
        # A large event is not kept in the SDK's queue too, which would be bounded in records, not in bytes.
        body = None if slim and len(event.body) > LARGE_BYTES else event.body
        self.attributes = {} if body is None else EventAttributes(body, route)
        self.event_name = event.event_name
        self.exception = None
        self.tickets = tickets
        self.deliver = deliver
        self.event_body = body

    def __copy__(self) -> AuditLogRecord:
        """Return this record: nothing changes it, and the SDK copies every record once."""
        return self


class AuditReadWriteLogRecord(ReadWriteLogRecord):
    """Carries an audit record through the SDK as it is: no limit cuts its attributes."""

    def __init__(
        self, record: AuditLogRecord, resource: Resource, scope: InstrumentationScope | None, limits: LogRecordLimits
    ) -> None:
        self.log_record = record
        self.resource = resource
        self.instrumentation_scope = scope
        self.limits = limits

    def __post_init__(self) -> None:
        """Skip the SDK's copying and cutting of attributes."""


def to_attributes(body: bytes) -> dict[str, Any]:
    """Return the attributes of an event's bytes: JSON documents as text, ids as strings, nothing that is null."""
    fragments = split(body)
    attributes: dict[str, Any] = {}
    for position, name, is_document in _FRAGMENT_ATTRIBUTES:
        fragment = fragments[position]
        if fragment == b"null":
            continue
        attributes[name] = fragment.decode() if is_document else str(loads_exact(fragment))
    if len(fragments) > len(FIELDS) and (correction := correction_of(fragments)) is not None:
        attributes[AUDIT_CORRECTED] = correction.decode()
    if is_inet(attributes.get(ATTRIBUTE_OF["source_ip"], "")):
        attributes[AUDIT_SOURCE_TYPE] = "ip"
    return attributes


def is_audit_record(record: LogRecord) -> bool:
    """Return whether a log record is an audit event."""
    return bool(record.attributes) and AUDIT_ACTION in (record.attributes or {})


def route_of(record: LogRecord) -> RouteName:
    """Return the destination that a log record of other code names."""
    attributes = record.attributes or {}
    database = attributes.get(AUDIT_DATABASE)
    return RouteName(str(attributes.get(AUDIT_TRAIL) or DEFAULT_TRAIL), None if database is None else str(database))


def event_arguments_from(record: LogRecord) -> dict[str, Any]:
    """Return the arguments of an audit event that a log record of other code describes.

    A missing id is made and a missing time is the observed one. JSON attributes may be text or structures. What
    is no time, or no trace, is returned as it is, and the validation refuses it.
    """
    attributes = record.attributes or {}
    given: dict[str, Any] = {
        FIELD_OF[name]: value for name, value in attributes.items() if name in FIELD_OF and value is not None
    }
    given["timestamp"] = _moment(record.timestamp or record.observed_timestamp or time.time_ns())
    if record.trace_id:
        given["trace_id"] = _formatted(format_trace_id, record.trace_id)
    if record.span_id:
        given["span_id"] = _formatted(format_span_id, record.span_id)
    if record.event_name:
        given["event_name"] = record.event_name
    return given


def _moment(nanoseconds: Any) -> Any:
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except (OverflowError, TypeError):
        return nanoseconds


def _formatted(id_text: Callable[[int], str], number: Any) -> Any:
    try:
        return id_text(number)
    except (TypeError, ValueError):
        return number


def raw_body(record: LogRecord, encoder: Encoder) -> bytes:
    """Return bytes for a record that cannot become an event, so that it can be parked as it is, without its secrets."""
    given: dict[str, Any] = {"outcome": "unknown", "record_id": str(uuid.uuid4()), **event_arguments_from(record)}
    plain = Encoder()
    return assemble(
        [
            (plain if isinstance(value, str) and name not in JSON_FIELDS else encoder).value(value)
            for name, value in ((name, given.get(name)) for name in FIELDS)
        ]
    )
