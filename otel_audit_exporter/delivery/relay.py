"""The cold road: redelivers from the outbox what the hot one did not settle, for as long as it takes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from logging import ERROR
from queue import SimpleQueue
from typing import Final

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, create_key, get_value, set_value

from otel_audit_exporter.delivery.backoff import BackoffState
from otel_audit_exporter.delivery.channel import AnyStore, Lane
from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.outbox.store import Entry, body_of, seq_of
from otel_audit_exporter.runtime.fork_safety import register_renewed
from otel_audit_exporter.runtime.log import logger

BATCH_ROWS: Final = 2000
PROBE_ROWS: Final = 200
RUN_ROWS: Final = 1000  # what a database does fastest, and twice as many where each answer takes its time
_SLOW_ROW_SECONDS: Final = 2e-4
BATCH_BYTES: Final = 4 * 2**20
BACKLOG_SENDERS: Final = 4  # batches of a large backlog under way at once
ADOPT_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 1.0
_DELIVERS: Final = create_key("otel-audit-delivers")


class Relay:
    """Delivers a lane's backlog on a daemon thread: the oldest first, with back-off.

    Fresh events are left to the SDK's batch processor for ``cold_after_seconds``; with ``hot=False`` there is no
    such processor, and the relay delivers everything. Starts with :meth:`start`, and anew in a forked child when
    it is woken there.
    """

    def __init__(self, lane: Lane, *, cold_after_seconds: float, hot: bool = True) -> None:
        self._lane = lane
        self._cold_after = cold_after_seconds
        self._hot = hot
        self._told_closed_road = False
        self._begin()
        lane.wake = self.wake
        register_renewed(self)

    def _begin(self) -> None:
        self._thread: threading.Thread | None = None
        self._assistants = [_Assistant(self._lane, number) for number in range(2, BACKLOG_SENDERS + 1)]
        self._start_lock = threading.RLock()  # also for a signal handler in the middle of a start
        self._wake = threading.Event()
        self._urgent = False
        self._refused_too = False
        self._stopping = False
        self._stop_or_pause = threading.Event()
        self._problem = ""
        self._ticks: deque[tuple[float, int]] = deque()
        self._cold_mark = 0
        self._adopt_at = time.monotonic() + ADOPT_SECONDS

    def start(self) -> None:
        """Start the thread, once; where none can be started any more, the events are the next process's."""
        with self._start_lock:
            thread = threading.Thread(target=self._run, name=f"otel-audit-relay-{self._lane.name}", daemon=True)
            if self._thread is not None or self._stopping:
                return
            self._thread = thread  # before its start: a signal handler in the middle of that starts no second one
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending
                self._thread = None

    def wake(self) -> None:
        """Have the relay look at the outbox now, as far as its back-off allows."""
        if self._thread is None:
            self.start()
        self._wake.set()

    def deliver_now(self) -> None:
        """Have everything that waits offered to the sink now, once, whatever the back-off says."""
        self._urgent = True
        self.wake()

    def retry_held_now(self) -> None:
        """Do as :meth:`deliver_now` does, and offer what was refused by itself, whose own back-off may be long, too."""
        self._refused_too = True
        self.deliver_now()

    def without_hot_road(self) -> None:
        """Deliver everything: the SDK's road is closed."""
        self._hot = False

    def stop(self, deadline: float) -> bool:
        """End the thread; False where it is still busy at ``deadline`` (monotonic seconds)."""
        self._stopping = True
        self._stop_or_pause.set()
        self._wake.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        try:
            thread.join(max(deadline - time.monotonic(), 0.0))
        except RuntimeError:  # called by a signal handler that has interrupted the thread's start
            return False
        return not thread.is_alive()

    def renew_after_fork(self) -> None:
        """In a forked child: no thread yet; the first event starts one."""
        self._begin()

    def _run(self) -> None:
        be_untraced()
        while not self._stopping:
            try:
                self._wake.wait(self._pause())
                self._wake.clear()
                if not self._stopping:
                    self._round()
                self._problem = ""
            except BaseException as error:
                self._stumble(error)
        for assistant in self._assistants:  # here, where nothing can be asked of them any more
            assistant.end()

    def _stumble(self, error: BaseException) -> None:
        """Say once what went wrong, and go on: nothing may end the road that loses nothing."""
        if self._stopping:
            return
        text = _said_of(error)
        if text != self._problem:
            self._problem = text
            logger.error("audit %s: delivery stumbled and goes on: %s", self._lane.name, text)
            logger.debug("audit %s: where it stumbled", self._lane.name, exc_info=error)
        self._stop_or_pause.wait(_IDLE_SECONDS)

    def _pause(self) -> float:
        now = time.monotonic()
        if self._urgent:
            return 0.0
        until_gate = self._lane.gate.not_before - now
        if not self._lane.gate.is_open and until_gate > 0:
            return min(until_gate, _IDLE_SECONDS)
        self._lane.idle = True
        if self._lane.books.pending == 0:
            return ADOPT_SECONDS
        self._lane.idle = False
        return min(self._cold_after / 2, _IDLE_SECONDS)

    def _round(self) -> None:
        now = time.monotonic()
        if now >= self._adopt_at:
            self._adopt_at = now + ADOPT_SECONDS
            self._lane.adopt_orphans()
            self._lane.limit_outbox()
        self._tick(now)
        urgent, self._urgent = self._urgent, False
        gate = self._lane.gate
        if now < gate.asked_until or not (urgent or gate.allows(now)):
            return
        refused_too, self._refused_too = self._refused_too, False
        everything = urgent or not self._hot or not self._lane.gate.is_open
        for store in self._lane.stores:
            upto = None if everything or store is not self._lane.opened else self._cold_mark
            try:
                if not self._drain(store, upto, refused_too=refused_too):
                    break
            except OutboxError as error:
                if not (self._lane.mend(store, error) or self._lane.give_back(store, error)):
                    raise
        self._lane.drop_emptied()

    def _tick(self, now: float) -> None:
        """Move the mark below which an event is too old to be still on the SDK's road."""
        own = self._lane.opened
        if own is None:
            return
        self._ticks.append((now, own.last_seq))
        while len(self._ticks) > 1 and self._ticks[1][0] <= now - self._cold_after:
            self._ticks.popleft()
        at, seq = self._ticks[0]
        if at <= now - self._cold_after:
            self._cold_mark = max(self._cold_mark, seq)
        self._cold_mark = max(self._cold_mark, self._lane.hot_failed_upto)

    def _drain(self, store: AnyStore, upto: int | None, *, refused_too: bool) -> bool:
        """Offer what waits in ``store``, the oldest first; False where an attempt has failed."""
        backlog = _Backlog(store, store.last_seq if upto is None else upto)
        # After an outage a few tell whether it is over; of rows that were refused it takes more to see that.
        probe = PROBE_ROWS if self._lane.gate.state is BackoffState.RETRYING else BATCH_ROWS
        first = backlog.take(probe)
        if first and not self._lane.gate.is_open:  # should the oldest all be refused, the newest may tell why
            after = max(seq_of(first[-1]), store.last_seq - BATCH_ROWS)
            first.extend(store.read(after, None, BATCH_ROWS, BATCH_BYTES)[-1:])
        if first:
            self._tell_closed_road(store, seq_of(first[-1]))
            self._lane.attempt(store, first)
            self._send_with_help(backlog, more=len(first) >= probe)
            if not self._lane.gate.is_open:
                return False
        # Also where nothing else is left to try a closed gate with: such a row may be the one that passes now.
        before = self._lane.gate
        self._lane.attempt_refused(store, BATCH_ROWS, at_once=refused_too)
        return self._lane.gate.is_open or self._lane.gate is before

    def _send_with_help(self, backlog: _Backlog, *, more: bool) -> None:
        """Send the rest of a backlog, several batches at a time: some are made while others are under way."""
        done: list[threading.Event] = []
        if more:
            done = [assistant.ask(lambda: self._send(backlog)) for assistant in self._assistants]
        self._send(backlog)
        for one in done:
            one.wait()

    def _send(self, backlog: _Backlog) -> None:
        while not self._stopping and self._lane.gate.is_open:
            run = backlog.take_run()
            if run:
                begun = time.monotonic()
                self._lane.attempt_run(backlog.store, run)
                backlog.took(len(run), time.monotonic() - begun)
            elif entries := backlog.take():
                self._lane.attempt(backlog.store, entries)
            else:
                return

    def _tell_closed_road(self, store: AnyStore, seq: int) -> None:
        unseen = self._hot and store is self._lane.opened and self._lane.hot_seen < seq <= self._cold_mark
        silent = time.monotonic() - self._lane.hot_at > self._cold_after
        if unseen and silent and self._lane.gate.is_open and not self._told_closed_road:
            self._told_closed_road = True
            logger.warning(
                "audit %s: the log records do not arrive by the SDK's road (OTEL_SDK_DISABLED, a processor that "
                "raises, or a provider that was shut down): events are delivered from the outbox instead",
                self._lane.name,
            )


def _said_of(error: BaseException) -> str:
    """Return an error of the outbox in its own words; of another only the kind, as its words may hold values."""
    return str(error) if isinstance(error, OutboxError) else type(error).__name__


def be_untraced() -> None:
    """Have no instrumentation record what this thread sends, as the SDK has it for its own."""
    attach(set_value(_DELIVERS, True, set_value(_SUPPRESS_INSTRUMENTATION_KEY, True)))


def delivers_here() -> bool:
    """Tell whether this thread delivers: it must not wait for a delivery, in a logging handler that audits, say."""
    return get_value(_DELIVERS) is True


class _Backlog:
    """What waits in a store, given out batch by batch, the oldest first, to whoever asks."""

    def __init__(self, store: AnyStore, upto: int) -> None:
        self.store = store
        self._upto = upto
        self._after = 0
        self._run_rows = RUN_ROWS
        self._lock = threading.Lock()

    def take(self, rows: int = BATCH_ROWS) -> list[Entry]:
        """Return the next batch; empty where there is none."""
        with self._lock:
            batch = self.store.read(self._after, self._upto, rows, BATCH_BYTES)
            if batch:
                self._after = seq_of(batch[-1])
            return batch

    def take_run(self) -> range:
        """Return the numbers of the next batch where it is a run that can be read at once; empty where it is none."""
        with self._lock:
            run = self.store.find_run(self._after, self._upto, self._run_rows, BATCH_BYTES)
            if run:
                self._after = run[-1]
            return run

    def took(self, rows: int, seconds: float) -> None:
        """Have the next runs fit the time that one took: from afar fewer and larger requests get more across."""
        slow = seconds > rows * _SLOW_ROW_SECONDS
        if slow or seconds < rows * _SLOW_ROW_SECONDS / 4:
            self._run_rows = BATCH_ROWS if slow else RUN_ROWS


class _Assistant:
    """One more sending thread, for backlogs. It starts with the first one."""

    def __init__(self, lane: Lane, number: int) -> None:
        self._lane = lane
        self._name = f"otel-audit-relay-{lane.name}-{number}"
        self._work: SimpleQueue[tuple[Callable[[], None], threading.Event] | None] = SimpleQueue()
        self._started = False

    def ask(self, work: Callable[[], None]) -> threading.Event:
        """Have ``work`` done; the event tells when it is over. Where no thread can start, nothing is done."""
        done = threading.Event()
        if not self._started:
            try:
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
            except RuntimeError:  # the interpreter is ending
                done.set()
                return done
            self._started = True
        self._work.put((work, done))
        return done

    def end(self) -> None:
        """End the thread, after what it was asked for."""
        self._work.put(None)

    def _serve(self) -> None:
        be_untraced()
        while True:
            asked = self._work.get()
            if asked is None:
                return
            work, done = asked
            try:
                work()
            except BaseException as error:
                said = "audit %s: delivery stumbled and goes on: %s"
                self._lane.repeats.say(ERROR, type(error), said, self._lane.name, _said_of(error))
            finally:
                done.set()


def deliver_hot(lane: Lane, store: AnyStore, entries: list[Entry]) -> None:
    """Offer events that came by the SDK's road to the sink, once; what it does not take is the relay's.

    An entry without a body is a large one, which is read from the outbox when it is its turn.
    """
    last = max(map(seq_of, entries))
    lane.hot_seen = max(lane.hot_seen, last)
    lane.hot_at = float("inf")
    try:
        for part in _parts(store, entries):
            if not lane.gate.is_open:
                break
            lane.attempt(store, part)
    except OutboxError as error:
        if not (lane.mend(store, error) or lane.closed):
            lane.repeats.say(ERROR, type(error), "audit %s: %s", lane.name, error)
    finally:
        lane.hot_at = time.monotonic()
    if not lane.gate.is_open:
        lane.hot_failed_upto = max(lane.hot_failed_upto, last)
        lane.wake()


def _parts(store: AnyStore, entries: list[Entry]) -> Iterator[list[Entry]]:
    part: list[Entry] = []
    size = 0
    for entry in entries:
        for whole in [entry] if body_of(entry) else store.get((seq_of(entry),)):
            part.append(whole)
            size += len(body_of(whole))
        if size >= BATCH_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
