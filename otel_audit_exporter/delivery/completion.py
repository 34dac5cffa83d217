"""Who waits for events: for one to be stored or parked, for an attempt to end, for everything to be delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from otel_audit_exporter.delivery.batch import Entry
from otel_audit_exporter.outbox.stripe import EventRef, Stripe
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.threads import Condition, Event, RLock


class CompletionWaiter:
    """Somebody who waits for one event. Notified when it is stored or parked, and when an attempt has ended."""

    def __init__(self, notify: Callable[[], None] | None = None) -> None:
        self._attempted = Event()
        self._settled = Event()
        self._notify = notify

    @property
    def settled(self) -> bool:
        """Whether the event is stored or parked."""
        return self._settled.is_set()

    def wait_for_attempt(self, seconds: float) -> bool:
        """Wait until an attempt has ended, or the seconds are over; return whether it has ended."""
        return self._attempted.wait(seconds)

    def wait_until_settled(self, seconds: float) -> None:
        """Wait until the event is stored or parked, or the seconds are over."""
        self._settled.wait(seconds)

    def notify(self, *, settled: bool) -> None:
        """Say that an attempt has ended, or that the event is stored or parked."""
        self._attempted.set()
        if not settled:
            return
        self._settled.set()
        if self._notify is not None:
            with suppress(RuntimeError):  # the loop that waited is closed
                self._notify()


class Completions:
    """The waiters of one channel, and the progress that all of them wait for. Safe to use from any thread."""

    def __init__(self) -> None:
        self._progress = Condition(RLock())
        self._waiters: dict[tuple[Stripe, int], list[CompletionWaiter]] = {}
        self.attempts_ended = 0

    @property
    def watched(self) -> int:
        """How many events somebody waits for."""
        return len(self._waiters)

    def watch(self, ref: EventRef, waiter: CompletionWaiter) -> None:
        """Have ``waiter`` notified of what becomes of the event; at once where it has ended already."""
        with self._progress:
            self._waiters.setdefault((ref[0], ref[1]), []).append(waiter)
        if ref[1] in ref[0].ended:
            waiter.notify(settled=True)

    def unwatch(self, ref: EventRef, waiter: CompletionWaiter) -> None:
        """Forget ``waiter``."""
        key = (ref[0], ref[1])
        with self._progress:
            waiters = self._waiters.get(key, [])
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters:
                self._waiters.pop(key, None)

    def notify(self, entries: Iterable[Entry], *, settled: bool) -> None:
        """Notify those who wait for these events, and all who wait for progress."""
        with self._progress:
            found: list[CompletionWaiter] = []
            if self._waiters:
                for stripe, number, *_ in entries:
                    found += self._waiters.get((stripe, number), ())
            self._progress.notify_all()
        for waiter in found:
            waiter.notify(settled=settled)

    def notify_all_of_attempt(self) -> None:
        """Notify everybody that an attempt has failed: nobody's event would do better now."""
        with self._progress:
            found = [waiter for waiters in self._waiters.values() for waiter in waiters]
        for waiter in found:
            waiter.notify(settled=False)

    def attempt_ended(self) -> None:
        """Count one attempt."""
        with self._progress:
            self.attempts_ended += 1
            self._progress.notify_all()

    def wait_until_ended(
        self,
        marks: Sequence[tuple[Stripe, int]],
        deadline: float,
        deliver_now: Callable[[], None],
        or_until: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Wait until all events up to these marks have ended; False where they have not at ``deadline``.

        ``or_until`` ends the wait, too.
        """
        deliver_now()
        with self._progress:
            while True:
                marks = [(stripe, number) for stripe, number in marks if stripe.ended.upto < number]
                left = deadline - Clock.monotonic()
                if not marks or left <= 0 or or_until():
                    return not marks
                if not self._progress.wait(min(left, 0.5)):
                    deliver_now()

    def wait_for_attempt(self, deadline: float, deliver_now: Callable[[], None], is_over: Callable[[], bool]) -> None:
        """Have one attempt made, and wait until it has ended or ``deadline`` is there."""
        with self._progress:
            before = self.attempts_ended
        deliver_now()
        with self._progress:
            self._progress.wait_for(
                lambda: self.attempts_ended > before or is_over(), max(deadline - Clock.monotonic(), 0.0)
            )
