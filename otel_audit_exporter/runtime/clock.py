"""The clocks that waits and back-off go by.

Tests of applications often freeze time: their tools replace module-level names that hold a clock, in every module.
Class attributes they leave alone, so a wait that goes by these ends.
"""

from __future__ import annotations

import time


class Clock:
    """The process's real clocks, in seconds."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
