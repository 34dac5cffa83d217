"""Receipts: how a caller learns that the sink has the row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from otel_audit_exporter.delivery.channel import Lane, Ticket, Waiter
from otel_audit_exporter.delivery.relay import delivers_here
from otel_audit_exporter.errors import AuditDeliveryError

ReceiptState = Literal["pending", "stored", "parked", "rejected"]


@dataclass(frozen=True, slots=True)
class AuditReceipt:
    """The sink's word that a row is in the table; ``acknowledged_at`` is aware and in UTC."""

    record_id: str
    acknowledged_at: datetime


class PendingReceipt:
    """What ``audit_event()`` returns: the event is accepted, and this tells what becomes of it.

    Cheap to make and to throw away. ``await receipt`` does what :meth:`result` does, from any asyncio loop.
    """

    __slots__ = ("_hurry", "_lane", "_ticket", "record_id")

    def __init__(
        self, record_id: str, lane: Lane | None, ticket: Ticket | None, deliver_now: Callable[[], None]
    ) -> None:
        self.record_id = record_id
        self._lane = lane
        self._ticket = ticket
        self._hurry = deliver_now

    @property
    def state(self) -> ReceiptState:
        """``"pending"`` (in the outbox), ``"stored"`` (in the table) or ``"parked"`` (in the dead letters).

        ``"rejected"`` only where ``on_outbox_error`` is ``"log"`` and the outbox refused the event.
        """
        if self._lane is None or self._ticket is None:
            return "rejected"
        if self._lane.is_pending(self._ticket):
            return "pending"
        return "parked" if self._is_parked(self._lane, self._ticket) else "stored"

    def _is_parked(self, lane: Lane, ticket: Ticket) -> bool:
        if self.record_id in lane.dropped or lane.is_lost(ticket):
            return True
        may_be = lane.books.failed or ticket.store.closed  # then it is another process that may have parked it
        return bool(may_be) and lane.dead_letters.get(self.record_id) is not None

    def result(self, timeout: float | None = None) -> AuditReceipt:
        """Have what is queued sent, wait until the row is in the table, and return the receipt.

        ``timeout`` in seconds; None: no limit. Raises :class:`AuditDeliveryError` where the event is parked, or
        still pending when the time is up: it stays in the outbox and will still be delivered. On a thread that
        delivers (in a logging handler, say) it does not wait.
        """
        if self._lane is None or self._ticket is None:
            raise AuditDeliveryError(self.record_id, "rejected", "the outbox refused the event")
        waiter = Waiter()
        try:
            self._lane.watch(self._ticket, waiter)
            timeout = 0 if delivers_here() else timeout
            self._wait(self._lane, waiter, None if timeout is None else time.monotonic() + timeout)
        finally:
            self._lane.unwatch(self._ticket, waiter)
        return self._outcome()

    def __await__(self) -> Generator[None, None, AuditReceipt]:
        return self._awaited().__await__()

    async def _awaited(self) -> AuditReceipt:
        if self._lane is None or self._ticket is None:
            raise AuditDeliveryError(self.record_id, "rejected", "the outbox refused the event")
        loop = asyncio.get_running_loop()
        told = asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(told.set)

        waiter = Waiter(tell)
        try:
            self._lane.watch(self._ticket, waiter)
            while not self._is_over(self._lane, waiter):
                self._hurry()
                try:
                    await asyncio.wait_for(told.wait(), 0.5)
                    told.clear()
                except TimeoutError:
                    continue
        finally:
            self._lane.unwatch(self._ticket, waiter)
        return self._outcome()

    def _wait(self, lane: Lane, waiter: Waiter, deadline: float | None) -> None:
        while not self._is_over(lane, waiter):
            left = 0.5 if deadline is None else min(deadline - time.monotonic(), 0.5)
            if left <= 0:
                return
            self._hurry()
            waiter.wait_until_settled(left)

    def _is_over(self, lane: Lane, waiter: Waiter) -> bool:
        """Tell whether there is nothing to wait for; what is a parent process's to deliver, nobody here is told of."""
        assert self._ticket is not None
        elsewhere = self._ticket.store.closed and not lane.is_pending(self._ticket)
        return waiter.settled or lane.closed or elsewhere

    def _outcome(self) -> AuditReceipt:
        assert self._lane is not None
        assert self._ticket is not None
        state = self.state
        if state == "stored":
            at = self._lane.acknowledged_at(self._ticket) or time.time()
            return AuditReceipt(self.record_id, datetime.fromtimestamp(at, UTC))
        parked = self._lane.dead_letters.get(self.record_id) if state == "parked" else None
        raise AuditDeliveryError(self.record_id, state, parked.error if parked else self._lane.books.last_error)

    def __repr__(self) -> str:
        return f"<PendingReceipt {self.record_id}>"
