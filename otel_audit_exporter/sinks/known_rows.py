"""Rows that were not inserted because their id was there: are they what is there?

A key that two different events share (an idempotency key that a client chose, say) makes the second of them vanish
behind the first. Nothing can be stored of it, so it is logged and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import count
from typing import Any, Final
from uuid import UUID

from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.runtime.log import RateLimitedLogger

COMPARED_COLUMNS: Final = frozenset(
    {
        *("yacht_id", "entity_type", "action", "entity_id", "created_by", "old_values", "new_values"),
        *("outcome", "actor_type", "on_behalf_of", "signature"),
    }
)
"""The columns that say what an event is, where nobody says which they are: not its time, and not where it came from."""

_DIFFER: Final = (
    "%s: a row was not written, as its id is in the table with other content (in %s). Two different events share one"
    " idempotency key or record id, and the first one stays: do not take such a key from a client as it is. Or a"
    " trigger of the table changes what is written"
)


class KnownRows:
    """Compares rows that a table had already with those that were to be written, for one sink.

    ``columns``: those that are compared. Safe to use from any thread.
    """

    def __init__(self, columns: Iterable[str], compared: Collection[str] | None) -> None:
        wanted = COMPARED_COLUMNS if compared is None else compared
        self.columns: Final = tuple(column for column in columns if column in wanted)
        self.differing = 0
        self._numbers = count(1)
        self._log = RateLimitedLogger()

    def compare(self, target: str, sent: Mapping[str, Any], there: Mapping[str, Any]) -> None:
        """Log and count a row that differs from the one that is there."""
        self.note(target, [name for name in self.columns if name in there and not _same(sent[name], there[name])])

    def note(self, target: str, columns: Collection[str]) -> None:
        """Log and count one row that differs in these columns."""
        if columns:
            self.differing = next(self._numbers)
            names = ", ".join(columns)
            self._log.say(logging.WARNING, (target, names), _DIFFER, target, names)


def _same(sent: Any, there: Any) -> bool:
    """Return whether a column has turned one value into the other, as far as JSON shows it."""
    if sent == there or sent is None or there is None:
        return bool(sent == there)
    if isinstance(there, str) and isinstance(sent, dict | list):
        with suppress(ValueError):
            return bool(loads_exact(there.encode()) == sent)
    return any(read(sent) == read(there) for read in (_text, _uuid, _number, _moment))


def _text(value: Any) -> str:
    return str(value).rstrip()  # a column of type char fills up with spaces


def _uuid(value: Any) -> object:
    try:
        return UUID(str(value))
    except ValueError:
        return object()


def _number(value: Any) -> object:
    try:
        return float(value)
    except (TypeError, ValueError):
        return object()


def _moment(value: Any) -> object:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return object()
