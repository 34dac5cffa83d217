"""The library's logger, and how something that repeats is logged rarely."""

from __future__ import annotations

import logging
import time
from typing import Final

logger: Final = logging.getLogger("otel_audit_exporter")
_CAUSES: Final = 100
_QUIET_SECONDS: Final = 60.0


class RateLimitedLogger:
    """Logs a thing once for each cause; what repeats is counted, and the count is in the next line, a minute later.

    Safe to use from any thread, and it takes no lock: at worst two threads say the first thing both.
    """

    def __init__(self, quiet_seconds: float = _QUIET_SECONDS) -> None:
        self._quiet_seconds = quiet_seconds
        self._said: dict[object, tuple[float, int]] = {}

    def say(self, level: int, cause: object, message: str, *arguments: object) -> None:
        """Log ``message`` unless the same ``cause`` (anything hashable) was logged within the last minute."""
        now = time.monotonic()
        at, more = self._said.get(cause, (float("-inf"), 0))
        if now - at < self._quiet_seconds:
            self._said[cause] = (at, more + 1)
            return
        if len(self._said) >= _CAUSES:
            self._said.clear()
        self._said[cause] = (now, 0)
        if more:
            message, arguments = f"{message} (and %d more of the kind before)", (*arguments, more)
        logger.log(level, message, *arguments)
