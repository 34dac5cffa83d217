"""Which requests were answered, for a test that asks whether each change was recorded. Nobody watches in production."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

MUTATING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True)
class SeenRequest:
    """A request that was answered, by the id that its events have."""

    method: str
    path: str
    status: int
    request_id: str


_watching: list[list[SeenRequest]] = []


@contextmanager
def watched_requests(seen: list[SeenRequest]) -> Iterator[None]:
    """Have the middlewares add to ``seen`` what they answer, for the time of the block."""
    _watching.append(seen)
    try:
        yield
    finally:
        _watching.remove(seen)


def is_watched() -> bool:
    """Return whether anybody wants to know of requests."""
    return bool(_watching)


def note_request(method: str, path: str, status: int, request_id: str) -> None:
    """Notify those who watch that a request was answered."""
    for seen in _watching:
        seen.append(SeenRequest(method, path, status, request_id))
