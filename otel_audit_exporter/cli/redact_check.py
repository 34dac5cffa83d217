"""`otel-audit redact-check`: what of a file would be hidden, and what not."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from otel_audit_exporter.cli import console as talk
from otel_audit_exporter.config.settings import load_settings
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.json.parser import plain_json
from otel_audit_exporter.event.redaction import REDACTED, Redactor

HIDDEN: Final = "hidden"
IN_PART: Final = "in part"
SHOWN: Final = "shown"

_Finding = tuple[str, str, str]  # what happens, where, and what is recorded


def redact_check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON, lines of JSON or any other text; - is stdin.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what of a file's values would be hidden in an audit event, what in part, and what not.

    The values are those of old_values, new_values or metadata, the keys to hide those of OTEL_AUDIT_REDACT_KEYS. What
    is hidden is not printed.
    """
    text = (sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()).decode("utf-8-sig", "replace")
    encoder = Encoder(Redactor(load_settings({}).redact_keys))
    counts: Counter[str] = Counter()
    for verdict, path, recorded in _findings(text, encoder):
        counts[verdict] += 1
        if as_json:
            talk.print_json({"verdict": verdict, "path": path, "recorded": recorded})
        else:
            print(f"{verdict:<8} {talk.clean(path)}  {talk.clean(recorded)}".replace("\n", "\\n"))
    talk.say(", ".join(f"{counts[verdict]:,} {verdict}" for verdict in (HIDDEN, IN_PART, SHOWN)))


def _findings(text: str, encoder: Encoder) -> Iterator[_Finding]:
    for where, value in _documents(text):
        yield from _compared(where, value, orjson.loads(encoder.value({"value": value}))["value"])


def _documents(text: str) -> Iterator[tuple[str, Any]]:
    """Give what a file holds: one document, one a line, or lines of text."""
    try:
        yield "", plain_json(text)
        return
    except ValueError:
        pass
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield f"line {number}: ", plain_json(line)
            except ValueError:
                yield f"line {number}", line


def _compared(path: str, value: Any, recorded: Any) -> Iterator[_Finding]:
    if recorded == REDACTED and value != REDACTED:
        yield HIDDEN, path, REDACTED
    elif isinstance(value, dict) and isinstance(recorded, dict):
        for (key, member), shown in zip(value.items(), recorded.values(), strict=False):
            yield from _compared(f"{path}.{key}" if path and path[-1] not in " " else f"{path}{key}", member, shown)
    elif isinstance(value, list) and isinstance(recorded, list):
        for index, (member, shown) in enumerate(zip(value, recorded, strict=False)):
            yield from _compared(f"{path}[{index}]", member, shown)
    else:
        changed = isinstance(value, str) and value != recorded
        shown = recorded if isinstance(recorded, str) else talk.json_text(recorded)
        yield IN_PART if changed else SHOWN, path, shown
