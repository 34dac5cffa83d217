"""Another exporter as a sink: events become log records again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import TraceFlags

from otel_audit_exporter.event.encoded_event import decode
from otel_audit_exporter.event.fields import SCOPE_NAME
from otel_audit_exporter.event.log_record import to_attributes
from otel_audit_exporter.runtime.call_thread import CallThread
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.threads import Lock
from otel_audit_exporter.sinks.base import SinkError, seconds_left
from otel_audit_exporter.sinks.verdict import OUT_OF_TIME, Fault, Verdict

_SCOPE: Final = InstrumentationScope(SCOPE_NAME)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Halved, as it may be the size of the request that is refused.
_FAILED: Final = Verdict(
    Fault.TRANSIENT, remedy="see the exporter's own log lines for what is the matter", halve=True, perhaps_stored=True
)
_NO_RECORD: Final = Verdict(Fault.RECORD, park_at_once=True, remedy="say the event with a time that a log record has")
_CLOSE_SECONDS: Final = 10.0  # where nobody says how long it may take
_MOST_NANOSECONDS: Final = 2**64 - 1  # of OpenTelemetry's log record: unsigned, since 1970


class ForwardingSink:
    """Give events' bytes, as log records, to an exporter of the SDK's interface. SUCCESS is its word for stored."""

    def __init__(self, exporter: LogRecordExporter, resource: Resource | None, *, name: str) -> None:
        self.name = name
        self.target = shown_endpoint(exporter) or type(exporter).__name__
        self._exporter = exporter
        self._resource = resource or Resource.create()
        self._turn = Lock()
        self._ending = CallThread()
        self.close_by: float | None = None
        """When :meth:`close` gives up waiting (monotonic seconds): an exporter's shutdown knows of no deadline."""

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Export the events; the exporter's own timeout applies, it knows of no deadline.

        One call at a time, which is what OpenTelemetry promises to exporters.
        """
        if not self._turn.acquire(timeout=seconds_left(deadline)):
            raise SinkError(OUT_OF_TIME, "another export is under way")
        try:
            self.export(rows)
        finally:
            self._turn.release()

    def export(self, rows: Sequence[bytes]) -> None:
        """Give the events to the exporter; raise :class:`SinkError` for any answer but SUCCESS."""
        records = [ReadableLogRecord(_record(body), self._resource, _SCOPE) for body in rows]
        if self._exporter.export(records) is not LogRecordExportResult.SUCCESS:
            raise SinkError(_FAILED, "the exporter answered FAILURE")

    def close(self) -> None:
        """Shut the exporter down; where that hangs, it is left to itself."""
        deadline = Clock.monotonic() + _CLOSE_SECONDS if self.close_by is None else self.close_by
        self._ending.run([self._exporter.shutdown], deadline)
        self._ending.end()

    def renew_after_fork(self) -> None:
        """Leave the exporter to its own ways of surviving a fork."""
        self._turn = Lock()


def shown_endpoint(exporter: LogRecordExporter) -> str:
    """Return where an exporter sends to, without a password or a key in it; empty where it does not say."""
    endpoint = str(getattr(exporter, "_endpoint", "") or "").partition("?")[0]
    scheme, separator, rest = endpoint.rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _record(body: bytes) -> LogRecord:
    event: dict[str, Any] = decode(body)
    nanoseconds = _nanoseconds(event["timestamp"])
    record = LogRecord(
        timestamp=nanoseconds,
        observed_timestamp=nanoseconds,
        attributes=to_attributes(body),
        event_name=event["event_name"] or f"{event['entity_type']}.{event['action']}",
    )
    record.trace_id = int(event["trace_id"] or "0", 16)
    record.span_id = int(event["span_id"] or "0", 16)
    record.trace_flags = TraceFlags(TraceFlags.SAMPLED if record.trace_id else TraceFlags.DEFAULT)
    return record


def _nanoseconds(timestamp: Any) -> int:
    """Return an event's time as a log record has it; an exporter fails over any other, and the whole batch with it."""
    try:
        nanoseconds = (datetime.fromisoformat(timestamp) - _EPOCH) // timedelta(microseconds=1) * 1000
    except (TypeError, ValueError):  # of a record that could not become an event
        raise SinkError(_NO_RECORD, "the time of an event cannot be read") from None
    if not 0 <= nanoseconds <= _MOST_NANOSECONDS:
        raise SinkError(_NO_RECORD, "the time of an event is before 1970 or after 2554, which no log record can say")
    return nanoseconds
