"""When "too large" is not to be believed: a proxy may say it of a request that fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault

TOO_LARGE: Final = 413


class AcceptedSize:
    """The size of the largest request that a receiver has taken, in bytes: what is no larger fits."""

    def __init__(self) -> None:
        self.largest = 0

    def note(self, size: int) -> None:
        """Take note of a request that was accepted."""
        self.largest = max(self.largest, size)

    def judged(self, error: SinkError, rows: int, size: int) -> SinkError:
        """Return the error to raise for a request with so many ``rows`` that was refused with ``error``.

        A single row that is no larger than what was taken before is held and tried again, and never parked for a 413
        without a code. Every other error stays what it is.
        """
        if error.status != TOO_LARGE or error.code is not None or rows != 1 or size > self.largest:
            return error
        verdict = replace(error.verdict, fault=Fault.TRANSIENT, halve=True)
        message = f"{error.message}, although larger requests were accepted"
        return SinkError(verdict, message, status=error.status, retry_after=error.retry_after)
