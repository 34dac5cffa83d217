"""Events on standard output, for development."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import IO, Any

import orjson

from otel_audit_exporter.event import decode


class ConsoleSink:
    """Print one line per event: readable, or JSON. Takes events' bytes, not rows of a table."""

    name = "console"
    target = "standard output"

    def __init__(self, *, as_json: bool = False, out: IO[str] | None = None) -> None:
        self._line = _json_line if as_json else _readable_line
        self._out = out
        self._lock = threading.Lock()

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Print the events."""
        text = "".join(f"{self._line(decode(body))}\n" for body in rows)
        out = self._out or sys.stdout
        with self._lock:
            try:
                out.write(text)
            except UnicodeEncodeError:  # nothing of it is written yet
                encoding = getattr(out, "encoding", None) or "ascii"
                out.write(text.encode(encoding, "backslashreplace").decode(encoding))
            out.flush()

    def close(self) -> None:
        """Standard output stays open."""

    def renew_after_fork(self) -> None:
        """Make a new lock."""
        self._lock = threading.Lock()


def _json_line(event: dict[str, Any]) -> str:
    return orjson.dumps({name: value for name, value in event.items() if value is not None}).decode()


def _readable_line(event: dict[str, Any]) -> str:
    parts = [
        str(event["timestamp"]),
        str(event["action"]),
        f"{event['entity_type']}/{event['entity_id']}",
        f"by {event['user_id'] or event['actor_type']}",
    ]
    if event["outcome"] != "success":
        parts.append(str(event["outcome"]).upper())
    old, new = event["old_values"], event["new_values"]
    if old is not None or new is not None:
        parts.append(f"{_short(old)} -> {_short(new)}")
    return "".join(char if char.isprintable() else _escaped(char) for char in "  ".join(parts))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _short(value: Any) -> str:
    return "-" if value is None else orjson.dumps(value).decode()
