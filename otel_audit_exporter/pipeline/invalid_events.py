"""Events whose call is wrong, and that are kept all the same (`on_invalid`): how many of them, and where."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, Final

from otel_audit_exporter.delivery.receipts import PendingReceipt
from otel_audit_exporter.errors import AuditError, AuditEventError
from otel_audit_exporter.event.invalid_event import kind_of
from otel_audit_exporter.observability.causes import Cause
from otel_audit_exporter.observability.examples import describe_arguments
from otel_audit_exporter.pipeline.exporter import AuditExporter

MOST_OF_ONE_CAUSE: Final = 10_000
_PART_OF_QUOTA: Final = 10


class InvalidEvents:
    """Keeps the wrong events of one process, up to a limit: what is wrong in a loop must not fill the outbox.

    Takes no lock: two calls at once may exceed a limit by an event.
    """

    def __init__(self, exporter: AuditExporter) -> None:
        self._exporter = exporter
        self._bytes = 0
        self._kept: dict[tuple[str, ...], Any] = {}

    def keep(self, error: AuditEventError, said: Mapping[str, Any]) -> PendingReceipt:
        """Accept an event that is wrong; never raises for its sake. One beyond the limit is rejected, and logged."""
        channel, rejections = self._exporter.channel, self._exporter.rejections
        record_id, body = self._exporter.rules.compose_invalid(said, error.problems)
        if not self._has_room(error, len(body)):
            why = "too many events of this kind are among the dead letters of this process already"
            remedy = "correct the call; see `otel-audit dead-letters list`"
            rejections.other(Cause(f"{error} ({why})", remedy), describe_arguments(said))
            return PendingReceipt(record_id, None, None)
        try:
            ref = channel.accept_invalid(body)
        except AuditError as refusal:
            rejections.refused(refusal, body)
            return PendingReceipt(record_id, None, None)
        return PendingReceipt(record_id, channel, ref)

    def _has_room(self, error: AuditEventError, size: int) -> bool:
        if self._bytes + size > self._exporter.channel.logs.quota.max_bytes // _PART_OF_QUOTA:
            return False
        if next(self._kept.setdefault(kind_of(error.problems), count(1))) > MOST_OF_ONE_CAUSE:
            return False
        self._bytes += size
        return True
