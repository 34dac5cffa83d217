"""Many pieces of JSON as one: so a backlog goes from the outbox to a sink without being taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, overload

SEPARATOR: Final = b",\n\n"
"""Between two pieces; none of them has an empty line in it."""


class Joined(Sequence[bytes]):
    """``count`` pieces of JSON, in one text with :data:`SEPARATOR` between them; they are cut out when asked for."""

    __slots__ = ("_count", "_pieces", "text")

    def __init__(self, text: bytes, count: int) -> None:
        self.text = text
        self._count = count
        self._pieces: list[bytes] | None = None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._apart())

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        return self._apart()[at]

    def _apart(self) -> list[bytes]:
        if self._pieces is None:
            self._pieces = self.text.split(SEPARATOR)
        return self._pieces


def joined(pieces: Sequence[bytes]) -> bytes:
    """Return these pieces as one text."""
    return pieces.text if isinstance(pieces, Joined) else SEPARATOR.join(pieces)


def json_array(pieces: Sequence[bytes]) -> bytes:
    """Return the JSON array of these pieces."""
    return b"[%b]" % joined(pieces)
