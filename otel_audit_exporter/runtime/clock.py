"""The clocks that waits and back-off go by.

Tests of applications often freeze time: their tools replace the functions of the module ``time``, and every
module-level name for one of them, while the tests run. A wait that went by a frozen clock would never end.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import ClassVar


def _real_time() -> ModuleType:
    """Return a copy of the module ``time`` that nobody else knows: this may be imported while time is frozen."""
    spec = find_spec("time")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_real = _real_time()


class Clock:
    """The process's real clocks, in seconds. As class attributes they are out of the reach of such tools."""

    monotonic: ClassVar[Callable[[], float]] = staticmethod(_real.monotonic)
    wall: ClassVar[Callable[[], float]] = staticmethod(_real.time)
