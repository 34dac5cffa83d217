"""Events that a coroutine waits for and a thread sets, in asyncio and in trio (anyio runs on either)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class LoopEvent(Protocol):
    """An event of the loop that runs here."""

    def set_from_thread(self) -> None:
        """Set it. Raises RuntimeError where the loop has ended."""

    async def wait(self, seconds: float) -> None:
        """Wait until it is set, or so long, and clear it."""


def loop_event() -> LoopEvent:
    """Return an event of the loop that runs here. Raises RuntimeError where that is neither asyncio's nor trio's."""
    trio = _trio()
    if trio is not None:
        return _TrioEvent(trio)
    import asyncio

    try:
        return _AsyncioEvent(asyncio.get_running_loop())
    except RuntimeError:
        raise RuntimeError("a receipt can be awaited in asyncio, trio and anyio: elsewhere call result()") from None


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """Return what a function answers that may wait, on another thread of the loop that runs here."""
    import asyncio

    trio = _trio()
    if trio is None:
        return await asyncio.to_thread(function, *args)
    answer: T = await trio.to_thread.run_sync(function, *args)
    return answer


async def pause(seconds: float) -> None:
    """Let others run for so long."""
    import asyncio

    trio = _trio()
    await (asyncio.sleep(seconds) if trio is None else trio.sleep(seconds))


def _trio() -> Any:
    """Return trio where this is one of its tasks."""
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        with suppress(RuntimeError):
            trio.lowlevel.current_task()
            return trio
    return None


class _AsyncioEvent:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio  # code that awaits it has it already; other code need not wait for it

        self._loop = loop
        self._event = asyncio.Event()

    def set_from_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> None:
        import asyncio

        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return
        self._event.clear()


class _TrioEvent:
    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def set_from_thread(self) -> None:
        self._token.run_sync_soon(self._set)

    def _set(self) -> None:
        self._event.set()

    async def wait(self, seconds: float) -> None:
        with self._trio.move_on_after(seconds):
            await self._event.wait()
            self._event = self._trio.Event()
