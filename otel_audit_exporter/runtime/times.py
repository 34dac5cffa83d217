"""Times and durations, as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def duration_words(seconds: float, *, digits: int, digits_of_seconds: int = 0) -> str:
    """Return a duration in its largest unit, such as ``"1.5 h"``. ``digits``: how many follow the point."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.{digits_of_seconds}f} s"
