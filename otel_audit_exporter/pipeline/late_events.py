"""What becomes of events that are not in the table when a response waits no longer: `OTEL_AUDIT_PAST_DEADLINE`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.delivery.joint_wait import AwaitedRef
from otel_audit_exporter.delivery.receipts import PendingReceipt
from otel_audit_exporter.errors import AuditDeliveryError
from otel_audit_exporter.event.fields import FIELDS
from otel_audit_exporter.event.serialization import split
from otel_audit_exporter.event.surroundings import FOUND, GIVEN, MARKABLE
from otel_audit_exporter.observability.examples import describe
from otel_audit_exporter.outbox.stripe import is_pending
from otel_audit_exporter.runtime.log import logger

_NOT_ASCII: Final = r"[^\x00-\x7f]"


class AwaitedEvent(NamedTuple):
    """An accepted event that a response waits for: its receipt, its bytes, and where each sink's outbox has it."""

    receipt: PendingReceipt
    body: bytes
    refs: Sequence[AwaitedRef]
    late: LateEvents

    @property
    def stored(self) -> bool:
        """Whether every sink has the row."""
        pending = any(is_pending(ref) for channel, ref in self.refs)
        return not pending and self.receipt.state == "stored"


class LateEvents:
    """Does with late events what the settings say. They stay in the outbox in memory, and are tried again."""

    def __init__(self, settings: Settings) -> None:
        self.deadline_seconds: Final = settings.response_deadline_millis / 1000
        self._way = settings.past_deadline

    def handle(self, events: Sequence[AwaitedEvent], *, may_raise: bool) -> None:
        """Count, and log or print each event that is not stored.

        Raises :class:`AuditDeliveryError` of the first where the settings say so and ``may_raise``.
        """
        late = [event for event in events if not event.stored]
        for event in late:
            self._note(event)
        if late and may_raise and self._way == "raise":
            first = late[0].receipt
            raise AuditDeliveryError(first.record_id, first.state, self._reason(late[0]))

    def _note(self, event: AwaitedEvent) -> None:
        for channel, ref in event.refs:
            if is_pending(ref):
                channel.counters.count(late=1)
        if self._way == "stdout" and _print(event.body):
            return
        logger.error("audit: %s: %s %s", self._reason(event), event.receipt.record_id, describe(event.body))

    def _reason(self, event: AwaitedEvent) -> str:
        if event.receipt.state == "parked":
            return "the table refused an event, which is in the memory of this process only"
        return "an event was not in the table at the deadline of its response, and waits in the memory of this process"


def line_of(body: bytes) -> str:
    """Return an event's bytes as one line of ASCII JSON: the arguments of ``audit_event``, as ``emit`` reads them."""
    fragments = dict(zip(FIELDS, split(body), strict=False))
    said = {name: value for name, value in fragments.items() if value.strip() != b"null"}
    found = [f'"{name}"' for name in MARKABLE if name in said and not said[name].endswith(GIVEN)]
    parts = [f'"{name}":{value.decode().strip()}' for name, value in said.items()]
    if found:
        parts.append(f'"{FOUND}":[{",".join(found)}]')
    return re.sub(_NOT_ASCII, _escape, "{" + ",".join(parts) + "}")


def _escape(match: re.Match[str]) -> str:
    units = match.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _print(body: bytes) -> bool:
    """Print an event on stdout; False where that fails."""
    try:
        sys.stdout.write(f"{line_of(body)}\n")
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError):  # there is no stdout, or it is closed
        return False
    return True
