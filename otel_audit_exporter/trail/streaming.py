"""A body that is read from the table while it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from otel_audit_exporter.runtime.threads import Lock


class _Parts:
    """The parts of a body, which one thread at a time makes or ends."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._parts = iter(body)
        self._lock = Lock()

    def next(self) -> bytes | None:
        with self._lock:
            return next(self._parts, None)

    def close(self) -> None:
        close = getattr(self._parts, "close", None)
        if close is not None:
            with self._lock:
                close()


async def in_parts(body: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the parts of a body without holding up the event loop.

    Where it is broken off, the body is closed by a thread: it has a connection to give back, and says what was sent.
    """
    parts = _Parts(body)
    try:
        while (part := await asyncio.to_thread(parts.next)) is not None:
            yield part
    finally:
        asyncio.get_running_loop().run_in_executor(None, parts.close)
