"""What differs between the versions of the OpenTelemetry SDK that this library works with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, TypeVar

from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk._logs import LoggerProvider, LogRecordLimits
from opentelemetry.sdk.resources import Resource

T = TypeVar("T")


def _no_limits() -> LogRecordLimits:
    limits = LogRecordLimits()
    for name in vars(limits):  # two of them, or four
        setattr(limits, name, None)
    return limits


UNLIMITED: Final = _no_limits()


def made_with_known(make: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call ``make`` with those of the options that this version of the SDK knows."""
    known = inspect.signature(make).parameters
    return make(*args, **{name: value for name, value in options.items() if name in known})


def own_provider(resource: Resource | None = None, meter_provider: MeterProvider | None = None) -> LoggerProvider:
    """Return a provider that shares nothing with others, and cuts nothing.

    Versions before 1.45 take no limits for a provider: there the records themselves say that they have none.
    """
    return made_with_known(
        LoggerProvider,
        resource=resource,
        shutdown_on_exit=False,
        meter_provider=meter_provider,
        log_record_limits=UNLIMITED,
    )
