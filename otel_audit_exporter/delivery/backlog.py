"""The senders of a backlog: the relay's own thread, and helpers beside it where there is much."""

from __future__ import annotations

from typing import Final

from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.delivery.right_of_way import FEW_ROWS, LONGEST_PAUSE_SECONDS, QUIET_SECONDS, RightOfWay
from otel_audit_exporter.delivery.sender_thread import SenderThread
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.threads import Event

RUN_ROWS: Final = 1000  # what a database does fastest, and twice as many where each answer takes its time
BATCH_ROWS: Final = 2000
PROBE_ROWS: Final = 200
HELPERS: Final = 3  # batches of a large backlog under way at once, beside the sender's own
_SLOW_ROW_SECONDS: Final = 2e-4


class BacklogSenders:
    """Sends what waits in a channel, several batches at a time. :meth:`send` is for one thread, the relay's.

    ``stopped`` ends it, and its pauses.
    """

    def __init__(self, channel: DeliveryChannel, right_of_way: RightOfWay, stopped: Event) -> None:
        self._channel = channel
        self._right_of_way = right_of_way
        self._stopped = stopped
        self._until_empty = True
        self._is_sending = False
        self._helpers = [
            SenderThread(channel, f"otel-audit-sender-{channel.name}-{number}") for number in range(2, HELPERS + 2)
        ]
        self.run_rows = RUN_ROWS

    def send(self, *, until_empty: bool) -> None:
        """Send until nothing is left, or (``until_empty=False``) until less than a batch is.

        Some batches are made while others are under way.
        """
        self._until_empty = until_empty
        self._is_sending, done = True, []
        if self._channel.logs.pending > self.run_rows:
            done = [helper.do(self._help) for helper in self._helpers]
        try:
            self._send()
        finally:
            self._is_sending = False
        for one in done:
            one.wait()

    def end(self) -> None:
        """End the helpers' threads, after what they have in hand."""
        for helper in self._helpers:
            helper.end()

    def _send(self) -> None:
        while self._goes_on() and (self._send_next() if self._right_of_way.is_free else self._send_few()):
            pass

    def _help(self) -> None:
        """Send beside the first sender, as long as no receipt is waited for."""
        while self._is_sending and self._goes_on():
            if not self._right_of_way.is_free:
                self._stopped.wait(QUIET_SECONDS)
            elif not self._send_next():
                return

    def _goes_on(self) -> bool:
        return not self._stopped.is_set() and self._channel.sender.backoff.is_open

    def _send_next(self) -> bool:
        """Send a batch; return whether there is more for this thread."""
        begun = Clock.monotonic()
        rows = self._channel.sender.deliver_next(self.run_rows)
        if rows:
            self._fit_rows(rows, Clock.monotonic() - begun)
        return self._has_more(rows)

    def _send_few(self) -> bool:
        """Send a few rows, and pause as long as they took: half of the receipts meet no other request."""
        self._right_of_way.let_pass()
        begun = Clock.monotonic()
        rows = self._channel.sender.deliver_next(FEW_ROWS)
        if rows:
            seconds = Clock.monotonic() - begun
            self._right_of_way.note_few(seconds)
            self._stopped.wait(min(seconds, LONGEST_PAUSE_SECONDS))
        return self._has_more(rows)

    def _has_more(self, rows: int) -> bool:
        return rows > 0 and (self._until_empty or self._channel.logs.pending >= self.run_rows)

    def _fit_rows(self, rows: int, seconds: float) -> None:
        """Have the next batches fit the time that one took: from afar fewer and larger requests get more across."""
        slow = seconds > rows * _SLOW_ROW_SECONDS
        if slow or seconds < rows * _SLOW_ROW_SECONDS / 4:
            self.run_rows = BATCH_ROWS if slow else RUN_ROWS
