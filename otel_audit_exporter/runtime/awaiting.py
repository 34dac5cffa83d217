"""Values that may have to be awaited, as of a callable that may be a coroutine function."""

from __future__ import annotations

import inspect
from typing import Any


async def awaited(value: Any) -> Any:
    """Return a value, or what an awaitable gives."""
    return await value if inspect.isawaitable(value) else value
