"""Events on standard output, for development."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO, Final

from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import FIELDS, JSON_FIELDS
from otel_audit_exporter.event.serialization import split
from otel_audit_exporter.runtime.threads import Lock
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict

_CLOSED: Final = Verdict(Fault.CONFIGURATION, remedy="leave standard output open, or choose another exporter")


class ConsoleSink:
    """Print one line per event: readable, or JSON. Takes events' bytes, not rows of a table."""

    name = "console"
    target = "standard output"

    def __init__(self, *, as_json: bool = False, out: IO[str] | None = None) -> None:
        self._line = _json_line if as_json else _readable_line
        self._out = out
        self._lock = Lock()

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Print the events."""
        text = "".join(f"{self._line(_fragments(body))}\n" for body in rows)
        out = self._out or sys.stdout
        if out is None or getattr(out, "closed", False):
            raise SinkError(_CLOSED, "standard output is closed")
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
        self._lock = Lock()


def _fragments(body: bytes) -> dict[str, str]:
    """Return the JSON of each field that has a value: as it stands, since not everything can be encoded again."""
    named = zip(FIELDS, split(body), strict=False)
    return {name: fragment.decode() for name, fragment in named if fragment != b"null"}


def _json_line(event: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{fragment}' for name, fragment in event.items()) + "}"


def _readable_line(event: dict[str, str]) -> str:
    said = {name: str(loads_exact(text.encode())) for name, text in event.items() if name not in JSON_FIELDS}
    parts = [
        said["timestamp"],
        said["action"],
        f"{said.get('entity_type')}/{said.get('entity_id')}",
        f"by {said.get('user_id') or said.get('actor_type')}",
    ]
    if said.get("outcome") != "success":
        parts.append(said.get("outcome", "unknown").upper())
    old, new = event.get("old_values"), event.get("new_values")
    if old is not None or new is not None:
        parts.append(f"{old or '-'} -> {new or '-'}")
    return "".join(char if char.isprintable() else _escaped(char) for char in "  ".join(parts))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
