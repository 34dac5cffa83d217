"""The dead letters: rows that the sink refuses and that others prove to be at fault themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, Protocol

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock, register_renewed

PAGE_BYTES: Final = 4 * 2**20

LetterKind = Literal["refused", "invalid"]
Place = tuple[float, str]  # in the order of the dead letters: when it was parked, and its id


class DeadLettersBusyError(OutboxError):
    """Say that somebody else holds the dead letters: what is in them is unknown as yet."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One parked event.

    ``kind`` is ``"refused"`` (by the sink: ``row`` is the row as it was sent, column to value) or ``"invalid"`` (never
    offered to the sink: ``row`` is None, ``fields`` are those of the event, and ``reasons`` what is wrong with each
    field). ``error`` and ``code`` are the reason; times are aware and in UTC.
    """

    record_id: str
    row: dict[str, Any] | None
    error: str
    code: str | None
    attempts: int
    first_failed_at: datetime
    parked_at: datetime
    kind: LetterKind = "refused"
    fields: Mapping[str, Any] | None = None
    reasons: Mapping[str, str] | None = None


class StoredDeadLetter(NamedTuple):
    """A dead letter as it is stored: the event's bytes, and who parked it."""

    record_id: str
    body: bytes
    error: str
    code: str | None
    attempts: int
    first_failed_at: float
    parked_at: float
    parked_by: str
    reasons: str | None = None  # of an invalid event: JSON, field to what is wrong

    @property
    def kind(self) -> LetterKind:
        """``"refused"`` by the sink, or ``"invalid"`` before it was offered."""
        return "refused" if self.reasons is None else "invalid"

    def letter(self, row: dict[str, Any] | None, fields: Mapping[str, Any] | None = None) -> DeadLetter:
        """Return what people are shown."""
        return DeadLetter(
            self.record_id,
            row,
            self.error,
            self.code,
            self.attempts,
            datetime.fromtimestamp(self.first_failed_at, UTC),
            datetime.fromtimestamp(self.parked_at, UTC),
            self.kind,
            fields,
            None if self.reasons is None else json.loads(self.reasons),
        )


@dataclass(frozen=True, slots=True)
class ParkedSince:
    """How many events were parked after a time, when the newest one, and its error."""

    count: int = 0
    newest_at: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ParkedCause:
    """How many events are parked for one cause: the sink's code or, where there is none, its words."""

    cause: str
    error: str
    count: int
    newest_at: float


class DeadLetterStore(Protocol):
    """Where parked events are kept.

    Each method tries once, and is a :class:`DeadLettersBusyError` where somebody else holds the file; a store that
    :meth:`waiting` returns tries again for a while. Other trouble is another :class:`OutboxError`.
    """

    def waiting(self, seconds: float) -> DeadLetterStore:
        """Return the same dead letters, with so much patience for who holds the file. No lock is held meanwhile."""
        ...

    def park(self, events: Iterable[StoredDeadLetter]) -> None:
        """Keep these events; one with a known id replaces it."""
        ...

    def all(self, limit: int | None = None) -> list[StoredDeadLetter]:
        """Return them, the oldest first; no more than ``limit``."""
        ...

    def page(self, after: Place | None, limit: int) -> list[StoredDeadLetter]:
        """Return the oldest of those after a place (:func:`place_of`; None: from the start).

        No more than ``limit``, and one request's size together.
        """
        ...

    def parked_since(self, at: float) -> ParkedSince:
        """Return how many were parked after a time."""
        ...

    def causes(self, limit: int) -> list[ParkedCause]:
        """Return the causes, the most frequent first."""
        ...

    def get(self, record_id: str) -> StoredDeadLetter | None:
        """Return one of them."""
        ...

    def remove(self, record_id: str) -> bool:
        """Remove one of them; return whether it was there."""
        ...

    def correct(self, event: StoredDeadLetter) -> bool:
        """Put a corrected event in the place of the one with its id, and keep that one for good, apart.

        Return whether there was one.
        """
        ...

    def originals(self, record_id: str) -> list[bytes]:
        """Return the contents of an event before its corrections, the oldest first."""
        ...

    def settle_all(self, events: Sequence[StoredDeadLetter], by: str) -> list[StoredDeadLetter]:
        """Remove those that ``by`` has brought to the table, and leave word for who had parked them.

        Return those that were there.
        """
        ...

    def settled_by_others(self, parked_by: str) -> int:
        """Return how many events of ``parked_by`` others have brought to the table. Each is counted once."""
        ...

    def count(self) -> int:
        """Return how many there are."""
        ...

    def size_bytes(self) -> int:
        """Return the space taken."""
        ...


class MemoryDeadLetters:
    """Dead letters in memory, beside an outbox in memory."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._events: dict[str, StoredDeadLetter] = {}
        self._originals: dict[str, list[bytes]] = {}
        register_renewed(self)

    def renew_after_fork(self) -> None:
        """In a forked child: forget them, they are the parent's."""
        self._events = {}

    def waiting(self, seconds: float) -> MemoryDeadLetters:
        return self

    def park(self, events: Iterable[StoredDeadLetter]) -> None:
        with self._lock:
            self._events.update({event.record_id: event for event in events})

    def all(self, limit: int | None = None) -> list[StoredDeadLetter]:
        with self._lock:
            return list(self._events.values())[:limit]

    def page(self, after: Place | None, limit: int) -> list[StoredDeadLetter]:
        later = sorted((one for one in self.all() if after is None or place_of(one) > after), key=place_of)
        return one_request(later[:limit])

    def parked_since(self, at: float) -> ParkedSince:
        found = [one for one in self.all() if one.parked_at > at]
        newest = max(found, key=place_of, default=None)
        return ParkedSince() if newest is None else ParkedSince(len(found), newest.parked_at, newest.error)

    def causes(self, limit: int) -> list[ParkedCause]:
        by_cause: dict[str, list[StoredDeadLetter]] = {}
        for one in self.all():
            by_cause.setdefault(one.code or one.error, []).append(one)
        found = [
            ParkedCause(cause, ones[-1].error, len(ones), max(one.parked_at for one in ones))
            for cause, ones in by_cause.items()
        ]
        return sorted(found, key=lambda one: (-one.count, -one.newest_at))[:limit]

    def get(self, record_id: str) -> StoredDeadLetter | None:
        return self._events.get(record_id)

    def remove(self, record_id: str) -> bool:
        with self._lock:
            return self._events.pop(record_id, None) is not None

    def correct(self, event: StoredDeadLetter) -> bool:
        with self._lock:
            before = self._events.get(event.record_id)
            if before is not None:
                self._originals.setdefault(event.record_id, []).append(before.body)
                self._events[event.record_id] = event
            return before is not None

    def originals(self, record_id: str) -> list[bytes]:
        return list(self._originals.get(record_id, ()))

    def settle_all(self, events: Sequence[StoredDeadLetter], by: str) -> list[StoredDeadLetter]:
        return [event for event in events if self.remove(event.record_id)]

    def settled_by_others(self, parked_by: str) -> int:
        return 0  # there are none who could

    def count(self) -> int:
        return len(self._events)

    def size_bytes(self) -> int:
        with self._lock:
            return sum(len(event.body) for event in self._events.values())


def place_of(event: StoredDeadLetter) -> Place:
    """Return where a dead letter stands in the order of :meth:`DeadLetterStore.page`."""
    return event.parked_at, event.record_id


def one_request(rows: Iterable[Sequence[Any]]) -> list[StoredDeadLetter]:
    """Return the first of these, as many as one request takes; at least one."""
    found: list[StoredDeadLetter] = []
    size = 0
    for row in rows:
        found.append(StoredDeadLetter(*row))
        size += len(found[-1].body)
        if size >= PAGE_BYTES:
            break
    return found
