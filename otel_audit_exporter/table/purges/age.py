"""The age from which on rows go, as a person says it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from otel_audit_exporter.table.readers.query import QueryError

_AGE: Final = re.compile(r"([0-9]{1,5})(d|w|mo|y)")
_MONTHS: Final = {"mo": 1, "y": 12}
_DAYS: Final = {"d": 1, "w": 7}


def boundary(age: str, now: datetime) -> datetime:
    """Return the moment that lies so far back: ``90d``, ``12w``, ``18mo`` or ``2y``, by the calendar.

    Raises :class:`QueryError` for everything else: ``6m`` is minutes elsewhere, and was meant for months here.
    """
    found = _AGE.fullmatch(age.strip())
    if found is None or int(found[1]) == 0:
        raise QueryError(f"{age!r} is no age: give days, weeks, months or years, such as 90d, 12w, 18mo or 2y")
    count, unit = int(found[1]), found[2]
    try:
        return now - timedelta(days=count * _DAYS[unit]) if unit in _DAYS else _months_before(now, count, unit)
    except (ValueError, OverflowError):
        raise QueryError(f"{age!r} is no age: no calendar goes so far back") from None


def _months_before(now: datetime, count: int, unit: str) -> datetime:
    year, month = divmod(now.year * 12 + now.month - 1 - count * _MONTHS[unit], 12)
    first = now.replace(year=year, month=month + 1, day=1)
    following = (first + timedelta(days=31)).replace(day=1)
    return first.replace(day=min(now.day, (following - timedelta(days=1)).day))
