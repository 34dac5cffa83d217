"""Whether a slow store was the volume's fault: then the whole process stopped with it.

The interpreter may switch threads in the middle of a store, which then seems to take long. While other threads ran,
the process used its processor. Where it did not, the kernel held the store up: a frozen or dying volume.
"""

from __future__ import annotations

import time
from typing import Final

from otel_audit_exporter.runtime.clock import Clock

SLOW_SECONDS: Final = 0.05
_IDLE_SHARE: Final = 0.9


class ProcessorClock:
    """How much processor time this process has used, and when that was noted last. The housekeeper notes it."""

    def __init__(self) -> None:
        self._noted = (Clock.monotonic(), time.process_time())

    def note(self) -> None:
        """Note both clocks now."""
        self._noted = (Clock.monotonic(), time.process_time())

    def stood_still(self, seconds: float) -> bool:
        """Return whether the process used no processor for nearly as long as a store of so many seconds took."""
        at, used = self._noted
        idle = (Clock.monotonic() - at) - (time.process_time() - used)
        return idle >= seconds * _IDLE_SHARE


processor_clock: Final = ProcessorClock()
