"""Events that are kept nowhere: counted, logged with the cause and what to do, and written down for the health."""

from __future__ import annotations

from collections.abc import Mapping
from logging import CRITICAL, ERROR
from typing import Any, Final

from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.errors import AuditError, AuditEventError, AuditShutdownError, OutboxFullError
from otel_audit_exporter.observability.causes import Cause
from otel_audit_exporter.observability.examples import describe, describe_arguments
from otel_audit_exporter.observability.losses import LossLedger
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.log import caller_logs_rejections

_DOUBT_SECONDS: Final = 30.0
_LEAST_ROOM_BYTES: Final = 65_536
_CORRECT_THE_CALL: Final = "correct the call"
_REMEDIES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (
        OutboxFullError,
        "see `otel-audit status`; have the sink take events, free disk, or raise OTEL_AUDIT_OUTBOX_MAX_BYTES",
    ),
    (AuditShutdownError, "call configure_audit() again, or keep the outbox on disk (OTEL_AUDIT_OUTBOX=disk)"),
    (AuditError, "see that the outbox directory (OTEL_AUDIT_OUTBOX_DIR) is there and can be written to"),
)


class Rejections:
    """The events that one exporter does not accept, and whether its outbox takes events just now."""

    def __init__(self, channel: DeliveryChannel, losses: LossLedger) -> None:
        self._channel = channel
        self._losses = losses
        self.refused_at: float | None = None  # monotonic seconds: the outbox has taken none since
        self._full = False

    def invalid(self, error: AuditEventError, said: Mapping[str, Any]) -> None:
        """Note an event whose call is wrong."""
        self.other(Cause(str(error), _CORRECT_THE_CALL), describe_arguments(said))

    def other(self, cause: Cause, example: str) -> None:
        """Note an event that is rejected for any other cause than the outbox's."""
        self._note(ERROR, "audit %s: an event is rejected: %s. What to do: %s. It was: %s", cause, example)

    def refused(self, error: Exception, body: bytes) -> None:
        """Note an event that the outbox refuses."""
        self.refused_at, self._full = Clock.monotonic(), isinstance(error, OutboxFullError)
        message = "audit %s: an event is lost, the outbox refuses it: %s. What to do: %s. It was: %s"
        self._note(CRITICAL, message, _cause_of(error), describe(body))

    def passed_by(self, error: Exception, body: bytes) -> None:
        """Note an event that this sink's outbox refuses, and that goes to the others."""
        message = "audit %s: an event passed by this sink: %s. What to do: %s. It was: %s"
        self._note(ERROR, message, _cause_of(error), describe(body))

    def _note(self, level: int, message: str, cause: Cause, example: str) -> None:
        name = self._channel.name
        self._channel.counters.count(rejected=1)
        self._channel.counters.note_error(cause.text)
        self._losses.note("rejected", cause, example)
        if caller_logs_rejections():
            return
        self._channel.rate_limited_log.say(
            level, ("rejected", cause.text), message, name, cause.text, cause.remedy, example
        )

    def accepting(self, outbox_bytes_left: int | None) -> bool:
        """Return whether the next event would be accepted, as far as is known.

        A full outbox takes events again when there is room in it; after any other refusal it is tried again soon.
        """
        if self._channel.closed and not self._channel.logs.on_disk:
            return False
        if self.refused_at is None:
            return True
        if self._full and outbox_bytes_left is not None:
            return outbox_bytes_left >= _LEAST_ROOM_BYTES
        return Clock.monotonic() - self.refused_at > _DOUBT_SECONDS


def _cause_of(error: Exception) -> Cause:
    if isinstance(error, OutboxFullError):  # whose own words name a file, and are longer than what is written down
        return Cause("the outbox is full: the sink takes no events, or the disk is full", _REMEDIES[0][1])
    text = str(error) if isinstance(error, AuditError) else type(error).__name__
    remedy = next((remedy for kind, remedy in _REMEDIES if isinstance(error, kind)), "see the log at level DEBUG")
    return Cause(text, remedy)
