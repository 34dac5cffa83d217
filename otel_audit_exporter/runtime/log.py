"""The library's logger, and how something that repeats is logged rarely."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from otel_audit_exporter.runtime.clock import Clock

logger: Final = logging.getLogger("otel_audit_exporter")
FAILURE_PREFIX: Final = "Audit log write failed"
# What is not about events that are lost, parked or held.
_OTHER_PREFIXES: Final = ("audit: health", "audit: the health", "audit: on_health_change", "audit: the shutdown")
_CAUSES: Final = 100
_QUIET_SECONDS: Final = 60.0


# Set where the caller itself logs that an event was rejected.
_caller_logs: Final[ContextVar[bool]] = ContextVar("audit_caller_logs", default=False)


@contextmanager
def rejections_logged_by_caller() -> Iterator[None]:
    """Have a rejected event logged by the caller alone, who knows more of it."""
    token = _caller_logs.set(True)
    try:
        yield
    finally:
        _caller_logs.reset(token)


def caller_logs_rejections() -> bool:
    """Return whether the caller itself logs a rejected event."""
    return _caller_logs.get()


class _NeverDisabled:
    """Keeps a logger from being disabled by ``logging.config``, which does that to every logger that it does not name.

    A lost event must not be silent. Who wants silence sets a level, a filter or a handler.
    """

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass


def _keep_enabled(one: logging.Logger) -> None:
    kind = type(one)
    if not issubclass(kind, _NeverDisabled):  # the application may have set another class of logger
        one.__class__ = type(kind.__name__, (_NeverDisabled, kind), {"__module__": kind.__module__})


_keep_enabled(logger)


def name_failures_as_before() -> None:
    """Have the lines about lost, parked or held events begin as those of the functions that ``compat`` stands for."""
    if _named_as_before not in logger.filters:
        logger.addFilter(_named_as_before)


def _named_as_before(record: logging.LogRecord) -> bool:
    message = str(record.msg)
    if record.levelno >= logging.ERROR and not message.startswith((FAILURE_PREFIX, *_OTHER_PREFIXES)):
        record.msg = f"{FAILURE_PREFIX}: {message}"
    return True


class RateLimitedLogger:
    """Logs a thing once for each cause; what repeats is counted, and the count is in the next line, a minute later.

    Safe to use from any thread, and it takes no lock: at worst two threads say the first thing both.
    """

    def __init__(self, quiet_seconds: float = _QUIET_SECONDS) -> None:
        self._quiet_seconds = quiet_seconds
        self._said: dict[object, tuple[float, int]] = {}

    def say(self, level: int, cause: object, message: str, *arguments: object) -> None:
        """Log ``message`` unless the same ``cause`` (anything hashable) was logged within the last minute."""
        now = Clock.monotonic()
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
