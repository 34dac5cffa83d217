"""Receipts: how a caller learns that the sink has the row."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.delivery.completion import CompletionWaiter
from otel_audit_exporter.delivery.loop_events import in_thread, loop_event, pause
from otel_audit_exporter.delivery.sender_thread import delivers_here
from otel_audit_exporter.errors import AuditDeliveryError, OutboxError
from otel_audit_exporter.outbox.dead_letter_store import DeadLettersBusyError
from otel_audit_exporter.outbox.stripe import EventRef, is_elsewhere, is_lost, is_pending, was_parked
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import renew_if_forked
from otel_audit_exporter.runtime.threads import Event, call_blocking

_LOOK_AGAIN_SECONDS: Final = 0.5
_BUSY_SECONDS: Final = 0.05
ReceiptState = Literal["pending", "stored", "parked", "rejected"]


@dataclass(frozen=True, slots=True)
class AuditReceipt:
    """The sink's word that a row is in the table; ``acknowledged_at`` is aware and in UTC."""

    record_id: str
    acknowledged_at: datetime


class PendingReceipt:
    """What ``audit_event()`` returns: the event is accepted, and this shows what happens to it.

    Cheap to make and to throw away. ``await receipt`` does what :meth:`result` does, in asyncio, trio and anyio.
    """

    __slots__ = ("_channel", "_ref", "record_id")

    def __init__(self, record_id: str, channel: DeliveryChannel | None, ref: EventRef | None) -> None:
        self.record_id = record_id
        self._channel = channel
        self._ref = ref

    @property
    def state(self) -> ReceiptState:
        """``"pending"`` (in the outbox), ``"stored"`` (in the table) or ``"parked"`` (in the dead letters).

        ``"rejected"``: kept nowhere. Only where ``on_outbox_error`` is ``"log"`` and the outbox refused the event, or
        ``on_invalid`` is ``"park"`` and too many wrong events came before.
        """
        renew_if_forked()
        if self._channel is None or self._ref is None:
            return "rejected"
        try:
            return self._state_now(self._channel, self._ref)
        except OutboxError:  # nobody can read the dead letters now: whether it is among them is unknown as yet
            return "pending"

    def _state_now(self, channel: DeliveryChannel, ref: EventRef) -> ReceiptState:
        """Return the state. Raises :class:`OutboxError` where it is unknown as yet."""
        if is_pending(ref):
            return "pending"
        if self.record_id in channel.dropped or is_lost(ref):
            return "parked"
        if not self._takes_a_look(channel, ref):
            return "stored"
        return "stored" if channel.dead_letters.get(self.record_id) is None else "parked"

    @staticmethod
    def _takes_a_look(channel: DeliveryChannel, ref: EventRef) -> bool:
        """Return whether files have to be read for the state: another process may have the event now."""
        return was_parked(ref) or is_elsewhere(ref)

    def result(self, timeout: float | None = None) -> AuditReceipt:
        """Have what is queued sent, wait until the row is in the table, and return the receipt.

        ``timeout`` in seconds; None: no limit. Raises :class:`AuditDeliveryError` where the event is parked, or
        still pending when the time is up: it stays in the outbox and will still be delivered. On a thread that
        delivers (in a logging handler, say) it does not wait.
        """
        if self._channel is None or self._ref is None:
            raise AuditDeliveryError(self.record_id, "rejected", "it was refused at the call, and the log says why")
        renew_if_forked()
        return call_blocking(self._result, self._channel, self._ref, 0 if delivers_here() else timeout)

    def _result(self, channel: DeliveryChannel, ref: EventRef, timeout: float | None) -> AuditReceipt:
        waiter = CompletionWaiter()
        deadline = None if timeout is None else Clock.monotonic() + timeout
        try:
            channel.completions.watch(ref, waiter)
            self._wait(channel, ref, waiter, deadline)
        finally:
            channel.completions.unwatch(ref, waiter)
        return self._outcome_by(deadline, channel, ref)

    def __await__(self) -> Generator[None, None, AuditReceipt]:
        return self._awaited().__await__()

    async def _awaited(self) -> AuditReceipt:
        if self._channel is None or self._ref is None:
            raise AuditDeliveryError(self.record_id, "rejected", "it was refused at the call, and the log says why")
        renew_if_forked()
        notified = loop_event()
        waiter = CompletionWaiter(notified.set_from_thread)
        try:
            self._channel.completions.watch(self._ref, waiter)
            while not await self._is_over_by_now(self._channel, self._ref, waiter):
                self._channel.deliver_soon([self._ref])
                await notified.wait(_LOOK_AGAIN_SECONDS)
        finally:
            self._channel.completions.unwatch(self._ref, waiter)
        return await self._outcome_in_time(self._channel, self._ref)

    async def _is_over_by_now(self, channel: DeliveryChannel, ref: EventRef, waiter: CompletionWaiter) -> bool:
        if is_elsewhere(ref):  # which takes a look into files
            return await in_thread(self._is_over, channel, ref, waiter)
        return self._is_over(channel, ref, waiter)

    async def _outcome_in_time(self, channel: DeliveryChannel, ref: EventRef) -> AuditReceipt:
        """Return the outcome; files are read on another thread, and who holds them stops no event loop."""
        if not self._takes_a_look(channel, ref):
            return self._outcome(channel, ref)
        while True:
            try:
                return await in_thread(self._outcome, channel, ref)
            except DeadLettersBusyError:
                await pause(_BUSY_SECONDS)

    def _outcome_by(self, deadline: float | None, channel: DeliveryChannel, ref: EventRef) -> AuditReceipt:
        """Return the outcome; where the dead letters are held by somebody, wait for them until the deadline."""
        while True:
            try:
                return self._outcome(channel, ref)
            except DeadLettersBusyError as error:
                if deadline is not None and Clock.monotonic() >= deadline:
                    raise AuditDeliveryError(self.record_id, "pending", str(error)) from error
            Event().wait(_BUSY_SECONDS)

    @staticmethod
    def _wait(channel: DeliveryChannel, ref: EventRef, waiter: CompletionWaiter, deadline: float | None) -> None:
        while not PendingReceipt._is_over(channel, ref, waiter):
            left = _LOOK_AGAIN_SECONDS if deadline is None else deadline - Clock.monotonic()
            if left <= 0:
                return
            channel.deliver_soon([ref])
            waiter.wait_until_settled(min(left, _LOOK_AGAIN_SECONDS))

    @staticmethod
    def _is_over(channel: DeliveryChannel, ref: EventRef, waiter: CompletionWaiter) -> bool:
        """Return whether there is nothing to wait for. When another process delivers it, nobody here is notified."""
        return waiter.settled or channel.closed or not is_pending(ref)

    def _outcome(self, channel: DeliveryChannel, ref: EventRef) -> AuditReceipt:
        """Return the receipt, or raise that there is none; :class:`DeadLettersBusyError` where that is unknown."""
        try:
            state = self._state_now(channel, ref)
            parked = channel.dead_letters.get(self.record_id) if state == "parked" else None
        except DeadLettersBusyError:
            raise
        except OutboxError as error:
            raise AuditDeliveryError(self.record_id, "pending", str(error)) from error
        if state == "stored":
            at = channel.sender.acknowledged_at(ref) or Clock.wall()
            return AuditReceipt(self.record_id, datetime.fromtimestamp(at, UTC))
        raise AuditDeliveryError(self.record_id, state, parked.error if parked else channel.counters.last_error)

    def __repr__(self) -> str:
        return f"<PendingReceipt {self.record_id}>"
