"""Requests that change something, and whether each recorded an audit event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from otel_audit_exporter.runtime.fork_safety import register_renewed

MUTATING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_FIRST_ERROR: Final = 400


@dataclass(slots=True)
class SeenRequest:
    """A request that changes something.

    ``status`` is 0 until it is answered. ``route`` is its path as the application has it (``/parts/{part_id}``), where
    the framework says so. ``recorded``: an audit event was said in its context.
    """

    method: str
    path: str
    status: int = 0
    route: str | None = None
    recorded: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether it was answered, and with success."""
        return 0 < self.status < _FIRST_ERROR

    @property
    def is_unrecorded(self) -> bool:
        """Whether it changed something and recorded nothing."""
        return self.succeeded and not self.recorded


class _Unrecorded:
    """How often each route was asked with success and recorded nothing, in this process."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str | None]] = Counter()
        register_renewed(self)

    def renew_after_fork(self) -> None:
        """In a forked child: begin at zero."""
        self.counts = Counter()


_watching: list[list[SeenRequest]] = []
_unrecorded: Final = _Unrecorded()


@contextmanager
def watched_requests(seen: list[SeenRequest]) -> Iterator[None]:
    """Have the middlewares add to ``seen`` what they answer, for the time of the block."""
    _watching.append(seen)
    try:
        yield
    finally:
        _watching.remove(seen)


def is_watched() -> bool:
    """Return whether a test wants to know of requests."""
    return bool(_watching)


def note_answer(request: SeenRequest, status: int) -> None:
    """Note that a request is answered, and notify those who watch; the request may record an event after that."""
    answered_before, request.status = request.status, status
    if not answered_before:
        for seen in _watching:
            seen.append(request)


def count_unrecorded(request: SeenRequest) -> None:
    """Count a request that recorded nothing, for its route."""
    _unrecorded.counts[request.method, request.route] += 1


def unrecorded_requests() -> dict[tuple[str, str | None], int]:
    """Return by method and route how many requests of this process changed something and recorded nothing."""
    return dict(_unrecorded.counts)
